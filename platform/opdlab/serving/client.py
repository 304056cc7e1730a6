"""JSON over HTTP to a server that may be busy or killed: retries, concurrency, answers as they come."""

from __future__ import annotations

import logging
import os
import queue
import random
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, final
from urllib.parse import urlsplit, urlunsplit

import requests
from urllib3.exceptions import NewConnectionError

from opdlab import credentials
from opdlab.errors import ServerError

LOG = logging.getLogger("opdlab")
TOLD_AFTER_S = 2.0
CONNECT_S = 10.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 30.0
TICK_S = 0.25
"""How often the caller is woken while no answer comes."""
WORTH_RETRYING = {"GET": (429, 502, 503, 504), "POST": (408, 425, 429, 500, 502, 503, 504)}
"""Statuses that may pass. `transformers serve` answers 500 to a list of models that it cannot make."""
_SHOWN = 400

Body = Mapping[str, Any]


@dataclass(frozen=True)
class Access:
    """Where a server is and how patiently it is spoken to.

    Attributes:
        url: base of the OpenAI API, `/v1` included. Spaces around it and superfluous slashes are dropped.
        key_variable: environment variable that holds the API key; unset for none.
        concurrency: requests under way at once.
        patience_s: a request that fails is tried again for so long, ever more slowly. The time that the
            server worked on it does not count, nor does what lies before its last answer to any request.
        timeout_s: longest wait for one answer.
    """

    url: str
    key_variable: str
    concurrency: int
    patience_s: float
    timeout_s: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", join_url(credentials.cut(self.url), ""))

    @property
    def root(self) -> str:
        """The server itself, where what is beyond OpenAI's API lies."""
        parts = urlsplit(self.url)
        return urlunsplit(parts._replace(path=parts.path.removesuffix("/v1")))

    def api(self, path: str) -> str:
        """Address of a path of OpenAI's API, such as `/completions`."""
        return join_url(self.url, path)

    def beside_api(self, path: str) -> str:
        """Address of a path beyond OpenAI's API, such as `/version`."""
        return join_url(self.root, path)


def check_access(url: str, key_variable: str) -> str:
    """The address without its password.

    Raises:
        ValueError: it is none, or the key stands where its variable should.
    """
    if fault := unreadable(credentials.cut(url)):
        raise ValueError(f"url {fault}")
    # A key that was written here by mistake must not be repeated, let alone saved.
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key_variable):
        raise ValueError(
            "key_variable is the name of an environment variable, such as OPENAI_API_KEY, which "
            "holds the key; the key itself does not belong here"
        )
    return credentials.cut(url)


def unreadable(url: str) -> str:
    """Why an address is none of OpenAI's API; empty where it is one."""
    if not url.strip().startswith(("http://", "https://")):
        return "begins with http:// or https://, such as http://localhost:8000/v1"
    nowhere = "has no host, or no number as its port; write it such as http://localhost:8000/v1"
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError:
        return nowhere
    if not parts.hostname or " " in parts.netloc or port == 0:
        return nowhere
    for path in ("/completions", "/models"):
        if parts.path.rstrip("/").endswith(path):
            return f"ends where OpenAI's API begins: leave {path} out"
    return ""


def join_url(base: str, path: str) -> str:
    """The address of a path below a base: one slash between parts, and the base's query at the end."""
    parts = urlsplit(base.strip())
    steps = [step for step in f"{parts.path}/{path}".split("/") if step]
    return urlunsplit(parts._replace(path="".join(f"/{step}" for step in steps), fragment=""))


class _Refused(Exception):
    """A failure that may pass."""

    def __init__(self, reason: str, pause_s: float = 0.0, reached: bool = True) -> None:
        super().__init__(reason)
        self.pause_s, self.reached = pause_s, reached


@final
class Client:
    """Requests to one server.

    Attributes:
        notice: what is being waited for, in words; empty while answers come.
    """

    def __init__(self, access: Access) -> None:
        self.access = access
        self.notice = ""
        self._told = False
        self._answers = 0
        self._local = threading.local()

    def ask(self, path: str, tries: int = 1) -> Any | None:
        """What the server says of itself at a path beyond its API; None if it says nothing, or no JSON.

        Args:
            tries: how often it is asked before a failure of its own (status 500) is taken for its answer.

        Raises:
            ServerError: it did not answer at all for the whole of the patience.
        """
        for left in reversed(range(tries)):
            try:
                return self._persist("GET", self.access.beside_api(path), None, lambda: False)
            except _Answered as answered:
                if not (left and answered.failed):
                    return None
            _sleep(FIRST_PAUSE_S, lambda: False)
        return None

    def post(self, url: str, body: Body, stopped: Callable[[], bool] = lambda: False) -> Any:
        """The answer to one request.

        Raises:
            ServerError: it was refused, or failed for the whole of the patience.
        """
        try:
            return self._persist("POST", url, body, stopped)
        except _Answered as answered:
            raise ServerError(
                f"{url} refused a request: {answered}{_without_v1(url)}"
            ) from answered

    def post_all(
        self,
        url: str,
        bodies: Sequence[Body],
        on_answer: Callable[[int, Any], None],
        on_tick: Callable[[], None] | None = None,
        at_once: int | None = None,
    ) -> None:
        """Every request answered, in whatever order; callbacks run in the caller's thread.

        Args:
            on_answer: called with the place and the answer; what it raises ends everything.
            on_tick: called every quarter of a second while no answer comes; likewise.
            at_once: requests under way at a time, if fewer than the access allows.

        Raises:
            ServerError: a request was refused, or failed for the whole of the patience.
        """
        todo: queue.SimpleQueue[int] = queue.SimpleQueue()
        for place in range(len(bodies)):
            todo.put(place)
        done: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        stop = threading.Event()

        def work() -> None:
            while not stop.is_set():
                try:
                    place = todo.get_nowait()
                    done.put((place, self.post(url, bodies[place], stop.is_set)))
                except queue.Empty:
                    return
                except Exception as error:  # noqa: BLE001 - it is raised in the caller's thread
                    done.put((-1, error))
                    return

        # Daemons: a thread that waits for a server that hangs must not keep the process.
        for _ in range(min(at_once or self.access.concurrency, len(bodies))):
            threading.Thread(target=work, daemon=True).start()
        try:
            for place, answer in self._received(done, len(bodies), on_tick):
                if place < 0:
                    raise answer
                on_answer(place, answer)
        finally:
            stop.set()
            self.notice = ""

    def _received(
        self, done: queue.SimpleQueue[Any], count: int, on_tick: Callable[[], None] | None
    ) -> Iterator[tuple[int, Any]]:
        while count:
            try:
                yield done.get(timeout=TICK_S)
                count -= 1
            except queue.Empty:
                if on_tick is not None:
                    on_tick()

    def _persist(self, verb: str, url: str, body: Body | None, stopped: Callable[[], bool]) -> Any:
        """Try until there is an answer, ever more slowly."""
        waited, pause, answers = 0.0, FIRST_PAUSE_S, self._answers
        while True:
            started = monotonic()
            try:
                answer = self._once(verb, url, body)
                self.notice, self._told = "", False
                self._answers += 1
                return answer
            except _Refused as refused:
                if self._answers != answers:
                    # A server that answers others is there, and busy.
                    waited, answers = 0.0, self._answers
                waited += 0.0 if refused.reached else monotonic() - started
                if waited >= self.access.patience_s:
                    raise ServerError(
                        f"{url}: no answer after waiting for {waited:.0f} s ({refused}). What was "
                        "answered before is kept: start the server and run the same command again, or "
                        "raise patience_s"
                    ) from refused
                self.notice = f"waiting for {self.access.root} since {waited:.0f} s: {refused}"
                self._tell(waited, refused)
                # Apart by chance, so that a server that comes back is not met by all at once.
                waited += _sleep(max(refused.pause_s, pause * random.uniform(0.5, 1.0)), stopped)
                pause = min(2 * pause, LONGEST_PAUSE_S)
                if stopped():
                    raise ServerError(f"{url}: given up") from refused

    def _tell(self, waited: float, refused: _Refused) -> None:
        """Say once for each time that the server is away, to whoever watches no progress bar."""
        if waited > TOLD_AFTER_S and not self._told:
            self._told = True
            LOG.warning(
                "waiting for %s, for up to %.0f s: %s",
                self.access.root,
                self.access.patience_s,
                refused,
            )

    def _once(self, verb: str, url: str, body: Body | None) -> Any:
        try:
            response = self._session().request(
                verb,
                url,
                json=body,
                timeout=(CONNECT_S, self.access.timeout_s),
                auth=credentials.login(self.access.url),
                params=credentials.options(self.access.url),
            )
        except (requests.ConnectionError, requests.Timeout) as error:
            # What took long on the way to a server that is not there was waiting; what a server took
            # over before it failed was work.
            reached = not isinstance(error, requests.ConnectTimeout) and not _unreached(error)
            raise _Refused(_reason(error), reached=reached) from error
        except requests.exceptions.ChunkedEncodingError as error:
            raise _Refused("the connection broke in the middle of an answer") from error
        except requests.RequestException as error:
            said = credentials.hide(str(error))
            raise ServerError(f"{url}: {said}; check the address") from None
        if response.status_code in WORTH_RETRYING[verb]:
            raise _Refused(
                f"status {response.status_code}: {self._said(response)}", _asked(response)
            )
        try:
            if not response.ok:
                failed = response.status_code == 500
                raise _Answered(f"status {response.status_code}: {self._said(response)}", failed)
            return response.json() if response.content else {}
        except ValueError as error:
            raise _Answered(f"no JSON: {self._hidden(response.text)!r}") from error

    def _said(self, response: requests.Response) -> str:
        """The message of an error answer."""
        try:
            said = response.json()
        except ValueError:
            return self._hidden(response.text)
        if isinstance(said, dict):
            said = said.get("error", said.get("detail", said.get("message", said)))
        if isinstance(said, dict):
            said = said.get("message", said)
        return self._hidden(str(said))

    def _hidden(self, text: str) -> str:
        """A server may repeat what it was sent, the key too."""
        return credentials.hide(text, os.environ.get(self.access.key_variable))[:_SHOWN]

    def _session(self) -> requests.Session:
        """One a thread: sessions are not made to be shared."""
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
            key = os.environ.get(self.access.key_variable)
            if key:
                self._local.session.headers["Authorization"] = f"Bearer {key}"
        return self._local.session


class _Answered(Exception):
    """The server answered, but not with what was asked for; `failed` where it met a fault of its own."""

    def __init__(self, said: str, failed: bool = False) -> None:
        super().__init__(said)
        self.failed = failed


def _sleep(seconds: float, stopped: Callable[[], bool]) -> float:
    """Seconds slept."""
    started = monotonic()
    while (left := started + seconds - monotonic()) > 0 and not stopped():
        threading.Event().wait(min(TICK_S, left))
    return monotonic() - started


def _unreached(error: requests.RequestException) -> bool:
    """Whether there never was a connection."""
    inner = error.args[0] if error.args else error
    return isinstance(getattr(inner, "reason", inner), NewConnectionError)


def _without_v1(url: str) -> str:
    """What is likely wrong with an address that has no `/v1`."""
    if "/v1/" in url:
        return ""
    return "; the base of OpenAI's API usually ends in /v1, such as http://localhost:8000/v1"


def _reason(error: requests.RequestException) -> str:
    if isinstance(error, requests.ReadTimeout):
        return "no answer within the time limit of one request"
    if isinstance(error, requests.ConnectTimeout):
        return "it cannot be reached"
    inner = error.args[0] if error.args else error
    cause = getattr(inner, "reason", inner)
    return "connection refused" if "refused" in str(cause) else "the connection broke"


def _asked(response: requests.Response) -> float:
    """The pause that the server asks for, in seconds."""
    wanted = response.headers.get("Retry-After", "")
    return min(float(wanted), 10 * LONGEST_PAUSE_S) if wanted.isdigit() else 0.0
