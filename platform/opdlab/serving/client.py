"""JSON over HTTP to a server that may be busy or killed: retries, concurrency, answers as they come."""

from __future__ import annotations

import logging
import queue
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from time import monotonic
from typing import Any, final

from opdlab.console import check_stop
from opdlab.errors import AwayError, RefusedError, ServerError, UnservedError
from opdlab.serving.access import Access
from opdlab.serving.crew import Crew, within_files
from opdlab.serving.health import Pulse
from opdlab.serving.transport import (
    BEFORE,
    LONGEST_PAUSE_S,
    Answered,
    Body,
    Refused,
    Transport,
)
from opdlab.serving.trial import Trial, can_be_asked_again, known, remember

LOG = logging.getLogger("opdlab")
TOLD_AFTER_S = 2.0
SILENT_S = 30.0
"""Silence of a server that works, after which it is told how many answers came; then twice as long."""
FIRST_PAUSE_S = 0.25
QUESTION_S = 60.0
"""Longest wait for what a server says of itself, which takes it no time."""
TICK_S = 0.25
"""How often the caller is woken while no answer comes."""
IN_VAIN = 8
"""After so many refusals and no answer, each other prompt is asked for once before the rest is given up."""
LET_IN = (401, 403)
WHO = ("/models", "/v1/teacher")
"""Paths that say who is there: whoever is not let in there is let in nowhere."""
OF_A_REQUEST = (0, 500, 504)
"""Statuses of failures that one request may be the reason of; 0 is a connection that broke."""
UNKNOWN = (404, 405, 501)
"""Statuses of a path that a server does not have."""


class FailedError(ServerError):
    """A server is there, and fails at each question."""


class ReplyError(ServerError):
    """An answer that cannot be used.

    Attributes:
        again: whether the same request may get another.
        refusal: whether there was none, but a status that says why.
    """

    def __init__(self, said: str, again: bool = False, refusal: bool = False) -> None:
        super().__init__(said)
        self.again, self.refusal = again, refusal


@final
class Client:
    """Requests to one server.

    Attributes:
        notice: what is being waited for, in words; empty while answers come.
        pulse: whether the server's engine lives, where it can tell.
        context: tokens of a prompt with its answer that the model reads at most; None where it is not told.
        interruptions: how often a request found no server, or lost it: another may have come in its place.
    """

    def __init__(self, access: Access) -> None:
        self.access = access
        self.notice = ""
        self.interruptions = 0
        self.context: int | None = None
        self.transport = Transport(access)
        self.pulse = Pulse(self.transport)
        self._told = False
        self._answers = 0
        self._blamed = 0
        """Requests that were refused by themselves since the last answer; each has half the patience of the
        one before it, so that all together cost it twice at most."""
        self._trial = Trial()
        self._working: dict[int, float] = {}
        """Since when each thread's request is under way."""

    def ask(self, path: str, tries: int = 1) -> Any | None:
        """What the server says of itself at a path beyond its API; None if it says nothing, or no JSON.

        Args:
            tries: how often it is asked before a failure of its own (status 500) is raised; 1 for whoever
                can do without an answer, and takes the failure for none.

        Raises:
            ServerError: it did not answer at all for the whole of the patience, or failed each time, or
                lets nobody in at a path of its API.
        """
        url = self.access.beside_api(path)
        for left in reversed(range(tries)):
            try:
                return self._apart("GET", url, None)
            except Answered as answered:
                failed = answered.status >= 500 and answered.status not in UNKNOWN
                guarded = answered.status in LET_IN and path.endswith(WHO)
                if guarded or (failed and tries > 1 and not left):
                    kind = FailedError if failed else ServerError
                    raise kind(f"{url}: {answered}") from answered
                if not failed:
                    return None
            _sleep(FIRST_PAUSE_S if left else 0.0, lambda: False)
        return None

    def post(self, url: str, body: Body) -> Any:
        """The answer to one request.

        Raises:
            ServerError: it was refused, or failed for the whole of the patience.
            Stopped: a signal came.
        """
        try:
            return self._apart("POST", url, body)
        except Answered as answered:
            raise _refusal(url, answered) from answered

    def _apart(self, verb: str, url: str, body: Body | None) -> Any:
        """One request by a thread of its own, so that a signal ends the wait for it at once."""
        crew = Crew(lambda _, stopped: self._persist(verb, url, body, stopped), 1, 1)
        try:
            _, answer = next(self._received(crew, 1, None))
        finally:
            crew.stop.set()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _post(self, url: str, body: Body, stopped: Callable[[], bool]) -> Any:
        """What `post` does, in the caller's thread until it is stopped."""
        try:
            return self._persist("POST", url, body, stopped)
        except Answered as answered:
            raise _refusal(url, answered) from answered

    def post_all(
        self,
        url: str,
        bodies: Sequence[Body],
        on_answer: Callable[[int, Any], None],
        on_tick: Callable[[], None] | None = None,
        at_once: int | None = None,
    ) -> None:
        """Every request answered, in whatever order; callbacks run in the caller's thread.

        What one request is refused for ends no other: all are asked, then it is raised.

        Args:
            on_answer: called with the place and the answer. A `ReplyError` that it raises is of this
                request alone; anything else ends everything.
            on_tick: called every quarter of a second while no answer comes; what it raises ends everything.
            at_once: requests under way at a time, if fewer than the access allows.

        Raises:
            RefusedError: some were refused; or each prompt was, so that the rest was not asked.
            ServerError: a request failed for the whole of the patience, or the server's engine is dead.
            Stopped: a signal came.
        """
        threads = within_files(min(at_once or self.access.concurrency, len(bodies)))
        crew = Crew(lambda place, stop: self._post(url, bodies[place], stop), len(bodies), threads)
        refused: dict[int, str] = {}
        in_vain: set[int] | None = set()
        unusable = False
        try:
            for place, answer in self._received(crew, len(bodies), on_tick):
                try:
                    if isinstance(answer, Exception):
                        raise answer
                    on_answer(place, answer)
                    in_vain = None
                    crew.go_on(crew.held)
                except ReplyError as error:
                    if error.again and crew.again(place):
                        continue
                    refused[place] = self.hidden(str(error))
                    unusable = unusable or not error.refusal
                    if in_vain is not None:
                        in_vain.add(_prompt_of(bodies[place]))
                        if len(refused) == IN_VAIN:
                            self._try_others(crew, bodies, in_vain, refused[place])
                crew.left -= 1
        finally:
            crew.stop.set()
            self.notice = ""
        if refused:
            raise RefusedError(refused, len(bodies), ended=bool(crew.held), unusable=unusable)

    def _try_others(self, crew: Crew, bodies: Sequence[Body], in_vain: set[int], why: str) -> None:
        """After many refusals and no answer, ask once for each prompt that was not refused yet."""
        crew.hold()
        known, others = {*in_vain}, []
        for place in crew.held:
            prompt = _prompt_of(bodies[place])
            others += [] if prompt in known else [place]
            known.add(prompt)
        crew.go_on(others)
        if crew.left > 1:
            LOG.warning(
                "%s. The first %d requests failed in this way and none was answered: each other "
                "prompt is tried once",
                why,
                IN_VAIN,
            )

    def hidden(self, text: str) -> str:
        """A text that may repeat what the server was sent, without the key."""
        return self.transport.hidden(text)

    def _received(
        self, crew: Crew, count: int, on_tick: Callable[[], None] | None
    ) -> Iterator[tuple[int, Any]]:
        last, silent = monotonic(), SILENT_S
        while crew.left:
            check_stop()
            try:
                found = crew.done.get(timeout=TICK_S)
                last, silent = monotonic(), SILENT_S
                yield found
            except queue.Empty:
                quiet = monotonic() - last
                self.pulse.require(quiet)
                if quiet > silent:
                    silent *= 2
                    self._tell_silence(quiet, count - crew.left, count)
                if on_tick is not None:
                    on_tick()

    def _tell_silence(self, quiet: float, came: int, count: int) -> None:
        """Say what a working server is waited for, to whoever watches no progress bar."""
        if not self.notice:
            LOG.warning(
                "%s: %d of %d answers came, none for %.0f s", self.access.root, came, count, quiet
            )

    def _persist(self, verb: str, url: str, body: Body | None, stopped: Callable[[], bool]) -> Any:
        """Try until there is an answer, ever more slowly."""
        waited, pause, answers, last = 0.0, FIRST_PAUSE_S, self._answers, False
        while True:
            started = monotonic()
            try:
                answer = self._once(verb, url, body)
                self.notice, self._told = "", False
                self._answers += 1
                if body is not None and can_be_asked_again(body):
                    self._blamed = 0
                    remember(url, body)
                return answer
            except Refused as refused:
                # A status of its own is the server's that is there.
                self.interruptions += refused.status == 0 or refused.status >= BEFORE
                own = refused.reached and refused.status in OF_A_REQUEST
                if last and own:
                    self._blamed += 1
                    raise ReplyError(
                        f"{url} fails at this request each time ({refused}), and answers others",
                        refusal=True,
                    ) from refused
                last = False
                if self._answers != answers or self._works_on_others(refused, started):
                    # A server that answers others is there, and busy.
                    waited, answers = 0.0, self._answers
                # The time that a server works on a request does not count; a question is no work.
                works = refused.reached and verb == "POST"
                waited += 0.0 if works else monotonic() - started
                patience = self.access.patience_s
                shorter = patience * 0.5**self._blamed if own else patience
                if own and waited >= shorter:
                    asked = monotonic()
                    last = self._answers_what_it_did(url, body, started)
                    waited += monotonic() - asked
                    if last:
                        continue
                if waited >= patience:
                    raise AwayError(
                        f"{url}: no answer after waiting for {waited:.0f} s ({refused})"
                        f"{self.pulse.said(refused)}. Start the server and run the same command "
                        "again, which continues from what is stored; or raise patience_s"
                    ) from refused
                self.notice = f"waiting for {self.access.root} since {waited:.0f} s: {refused}"
                self._tell(waited, refused)
                self.pulse.hear(refused)
                # Apart by chance, so that a server that comes back is not met by all at once.
                wished = max(refused.pause_s, pause * random.uniform(0.5, 1.0))
                until = shorter if waited < shorter else patience
                waited += _sleep(min(wished, until - waited), stopped)
                pause = min(2 * pause, LONGEST_PAUSE_S)
                if stopped():
                    raise ServerError(f"{url}: given up") from refused

    def _answers_what_it_did(self, url: str, body: Body | None, since: float) -> bool:
        """Whether a server that failed at a request for so long answers one that it has answered before."""
        if body is None or not can_be_asked_again(body):
            return False
        longest = min(max(QUESTION_S, self.access.patience_s), self.access.timeout_s)
        return self._trial.works(
            since,
            lambda: self.transport.once("POST", url, known(url, body), longest),
            (Refused, Answered, ServerError),
        )

    def _once(self, verb: str, url: str, body: Body | None) -> Any:
        here = threading.get_ident()
        self._working[here] = monotonic()
        try:
            longest = min(QUESTION_S, self.access.timeout_s) if verb == "GET" else None
            return self.transport.once(verb, url, body, longest)
        finally:
            del self._working[here]

    def _works_on_others(self, refused: Refused, since: float) -> bool:
        """Whether a server that has no room now has had another request longer than this one."""
        return refused.status == 429 and any(
            started < since for started in list(self._working.values())
        )

    def _tell(self, waited: float, refused: Refused) -> None:
        """Say once for each time that the server is away, to whoever watches no progress bar."""
        if waited > TOLD_AFTER_S and not self._told:
            self._told = True
            LOG.warning(
                "waiting for %s, for up to %.0f s: %s%s",
                self.access.root,
                self.access.patience_s,
                refused,
                self.pulse.said(refused),
            )


def _prompt_of(body: Body) -> int:
    """Of a step's candidates the prompts themselves would fill the memory."""
    return hash(body if isinstance(body, bytes) else str(body.get("prompt")))


def _sleep(seconds: float, stopped: Callable[[], bool]) -> float:
    """Seconds slept."""
    started = monotonic()
    while (left := started + seconds - monotonic()) > 0 and not stopped():
        threading.Event().wait(min(TICK_S, left))
    return monotonic() - started


def _refusal(url: str, answered: Answered) -> ServerError:
    """What is raised where a server refuses a request."""
    said = f"{url} refused a request: {answered}{_without_v1(url)}"
    # Nobody is let in with this key, and nothing is at this address: so with all others.
    if answered.status in UNKNOWN:
        return UnservedError(said)
    return ServerError(said) if answered.status in LET_IN else ReplyError(said, refusal=True)


def _without_v1(url: str) -> str:
    """What is likely wrong with an address that has no `/v1`."""
    if "/v1/" in url or not url.endswith("/completions"):
        return ""
    return "; the base of OpenAI's API usually ends in /v1, such as http://localhost:8000/v1"
