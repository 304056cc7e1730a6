"""One request to a server: key, proxies and redirects, and what each kind of failure means.

Nothing of the environment is used that was not meant for this server: no `~/.netrc`, and no proxy for a
server on this machine.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from email.utils import formatdate, parsedate_to_datetime
from http.client import BadStatusLine
from importlib.util import find_spec
from typing import Any, final
from urllib.parse import urljoin, urlsplit

import requests
from requests.auth import AuthBase, HTTPBasicAuth
from requests.utils import get_environ_proxies, select_proxy
from urllib3.exceptions import NewConnectionError

from opdlab import credentials
from opdlab.errors import ServerError
from opdlab.serving.access import Access

MEDIA = "application/vnd.safetensors"
Body = Mapping[str, Any] | bytes
"""JSON, or a safetensors file."""

CONNECT_S = 10.0
LONGEST_PAUSE_S = 30.0
LONGEST_ASKED_S = 300.0
BUSY = {"GET": (429,), "POST": (408, 425, 429, 500)}
"""Statuses that may pass, with those of whoever stands before the server, which are 502 and above.
`transformers serve` answers 500 to a list of models that it cannot make."""
BEFORE, NEVER = 502, 505
"""The first of those: 521 to 524 and 529 are Cloudflare's, for instance. HTTP's version does not pass."""
KEPT_VERB, CHANGED_VERB = (307, 308), (301, 302, 303)
"""Redirects after which a request is asked again as it was, and after which it would become another."""
REDIRECTS = 5
NO_FILES = (errno.EMFILE, errno.ENFILE)
_SHOWN = 400
ESCAPES = (rb"\/", rb"\u00")
"""Of letters that JSON need not escape, as some servers do: a key is not seen in the bytes then."""
SECRET = 16
"""Characters of a key that no answer says by chance."""


class Refused(Exception):
    """A failure that may pass.

    Attributes:
        pause_s: the pause that the server asks for.
        reached: whether the server took the request over before it failed.
        status: of the answer; 0 where there was none.
    """

    def __init__(
        self, reason: str, pause_s: float = 0.0, reached: bool = True, status: int = 0
    ) -> None:
        super().__init__(reason)
        self.pause_s, self.reached, self.status = pause_s, reached, status


class Answered(Exception):
    """The server answered, but not with what was asked for; `status` is that of its answer."""

    def __init__(self, said: str, status: int = 200) -> None:
        super().__init__(said)
        self.status = status


@final
class Transport:
    """Requests to one server, from any thread."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self.answered = False
        """Whether the server has answered anything: before, a failure to reach it is one of its address."""
        self._local = threading.local()

    def once(self, verb: str, url: str, body: Body | None, timeout_s: float | None = None) -> Any:
        """What the server answers to a request.

        Raises:
            Refused: it failed, and may not the next time.
            Answered: the server refused it.
            ServerError: no request to this address can succeed.
        """
        response = self._sent(verb, url, body, timeout_s or self.access.timeout_s)
        self.answered = True
        status = response.status_code
        if status >= 500:
            # Servers close the connection after it, some without a word: the next request would be lost.
            self._session().close()
        elsewhere = BEFORE <= status < 600 and status != NEVER
        if status in BUSY[verb] or elsewhere:
            # A proxy that finds no server answers in its place.
            by = self._by_proxy(url) if elsewhere else ""
            said = f"status {status}{by}: {self._said(response)}"
            raise Refused(said, _asked(response), status=status)
        if status == 407:
            raise ServerError(
                f"{url}: status {status}{self._by_proxy(url)}: a proxy wants a login; write it into the "
                "proxy's address, such as http://NAME:PASSWORD@HOST:PORT"
            )
        if status in (401, 403):
            raise Answered(f"status {status}: {self._said(response)}{self._of_the_key()}", status)
        if not 200 <= status < 300:
            raise Answered(f"status {status}: {self._said(response)}", status)
        try:
            return self._read(response) if response.content else {}
        except (ValueError, RecursionError) as error:
            if not ({"Content-Length", "Transfer-Encoding"} & set(response.headers)):
                # Nothing says where such an answer ends, so one that is cut looks whole.
                raise Refused("the connection broke in the middle of an answer") from error
            raise Answered(f"no JSON: {self._hidden(_text(response))!r}") from error

    def _read(self, response: requests.Response) -> Any:
        """What an answer holds, without the key: whatever is cut from it must hold no part of one.

        A short one is a word that an answer may say of itself, such as the usual EMPTY.
        """
        if response.headers.get("Content-Type", "").startswith(MEDIA):
            return response.content
        told, raw = response.json(), response.content
        if any(escape in raw for escape in ESCAPES):
            raw = json.dumps(told, ensure_ascii=False).encode(errors="surrogatepass")
        login = credentials.login(self.access.url) or ("", "")
        secrets = self.key(), login[1], credentials.basic(login)
        if any(one.encode() in raw for one in secrets if len(one) >= SECRET):
            return json.loads(self.hidden(raw.decode(errors="surrogatepass")))
        return told

    def _sent(self, verb: str, url: str, body: Body | None, timeout_s: float) -> requests.Response:
        try:
            for _ in range(REDIRECTS):
                response = self._session().request(
                    verb,
                    url,
                    **_content(body),
                    timeout=(CONNECT_S, timeout_s),
                    auth=self._login(),
                    params=credentials.options(self.access.url),
                    allow_redirects=False,
                )
                if response.status_code not in (*KEPT_VERB, *CHANGED_VERB):
                    return response
                url = self._redirected(url, response)
            raise ServerError(f"{self.access.url}: it redirects in a circle; correct the url")
        except requests.exceptions.SSLError as error:
            raise ServerError(self._untrusted(url, error)) from None
        # Their words hold the address with its secret options, so no traceback may show them.
        except (requests.ConnectionError, requests.Timeout) as error:
            raise self._unanswered(url, error) from None
        except requests.exceptions.ChunkedEncodingError:
            raise Refused("the connection broke in the middle of an answer") from None
        except requests.exceptions.ContentDecodingError:
            raise Refused("an answer cannot be unpacked: it is not compressed as it says") from None
        except requests.RequestException as error:
            raise ServerError(f"{url}: {self._hidden(str(error))}; check the address") from None
        except ValueError as error:
            # What requests reads of an answer before it hands it over is where it redirects to.
            why = self._hidden(str(error))
            raise ServerError(
                f"{url} answers with a redirect to what is not an address ({why}); correct the url"
            ) from None

    def _redirected(self, url: str, response: requests.Response) -> str:
        """Where the same request is to go instead."""
        place = urljoin(url, response.headers.get("Location", ""))
        kept = _keeps_secrets(url, place)
        if response.status_code in CHANGED_VERB or not kept:
            base = self.hidden(credentials.cut(place))
            shown = base
            for path in ("/completions", "/models"):
                base = base.removesuffix(path)
            raise ServerError(
                f"{url} answers with a redirect (status {response.status_code}) to {shown}, which changes "
                f"the request or leaves the server: write that address as the url ({base})"
            )
        _authorities(place)
        return place

    def _unanswered(self, url: str, error: requests.RequestException) -> Exception:
        """What became of a request without an answer: worth another try, or hopeless."""
        if isinstance(error, requests.ReadTimeout):
            return Refused("no answer within the time limit of one request")
        if isinstance(error, requests.ConnectTimeout):
            return Refused(f"it cannot be reached{self._by_proxy(url)}", reached=False)
        causes = list(_causes(error))
        reached = not any(isinstance(one, NewConnectionError) for one in causes)
        if found := next((one for one in causes if isinstance(one, socket.gaierror)), None):
            host = urlsplit(url).hostname
            why = f"the host {host!r} has no address ({found.strerror or found})"
            return self._hopeless(url, f"{why}: correct the name, or the name server", why)
        if any(isinstance(one, OSError) and one.errno in NO_FILES for one in causes):
            why = "this process may open no more files"
            return self._hopeless(
                url, f"{why}: raise its limit (ulimit -n), or lower the concurrency", why
            )
        if isinstance(error, requests.exceptions.ProxyError):
            why = f"the proxy does not connect{self._by_proxy(url)}"
            host = urlsplit(url).hostname
            return self._hopeless(url, f"{why}: correct it, or set NO_PROXY={host}", why)
        if any(type(one) is BadStatusLine for one in causes):
            why = "what answers there speaks no HTTP"
            return self._hopeless(url, f"{why}: correct the port, or begin with https://", why)
        if reached and not self.answered and self._is_encrypted(url):
            why = "the server is encrypted"
            return self._hopeless(url, f"{why}: its address begins with https://", why)
        refused = any("refused" in str(one) for one in causes)
        return Refused("connection refused" if refused else "the connection broke", reached=reached)

    def _is_encrypted(self, url: str) -> bool:
        """Whether a server that breaks connections off takes an encrypted one."""
        parts = urlsplit(url)
        if parts.scheme != "http" or select_proxy(url, self._proxies()):
            return False
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        try:
            with socket.create_connection((parts.hostname, parts.port or 80), CONNECT_S) as plain:
                context.wrap_socket(plain, server_hostname=parts.hostname).close()
        except (OSError, ValueError):
            return False
        return True

    def _hopeless(self, url: str, said: str, why: str) -> Exception:
        """Told at once, unless the server was reached before."""
        if self.answered:
            return Refused(why, reached=False)
        return ServerError(f"{url}: {said}")

    def _untrusted(self, url: str, error: Exception) -> str:
        """What is wrong with an encrypted connection, which no waiting changes."""
        found = next((one for one in _causes(error) if isinstance(one, ssl.SSLError)), error)
        said = self._hidden(str(found))
        if isinstance(found, ssl.SSLCertVerificationError):
            remedy = "name the file of its authority in REQUESTS_CA_BUNDLE"
            return f"{url}: its certificate is not trusted ({said}); {remedy}"
        remedy = "a server without encryption has an address that begins with http://"
        return f"{url}: no encrypted connection ({said}); {remedy}"

    def _session(self) -> requests.Session:
        """One a thread: sessions are not made to be shared."""
        if not hasattr(self._local, "session"):
            session = requests.Session()
            # Else requests sends what ~/.netrc has for this host in place of the key.
            session.trust_env = False
            session.proxies = self._proxies()
            session.verify = _authorities(self.access.url) or True
            self._local.session = session
        return self._local.session

    def _proxies(self) -> dict[str, str]:
        """Proxies of the environment; raises ServerError if the one for this server is no address."""
        if self.access.is_here:
            return {}
        found = dict(get_environ_proxies(self.access.url))
        if proxy := select_proxy(self.access.url, found):
            parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
            try:
                fine = parts.port != 0 and bool(parts.hostname) and _is_usable(parts.scheme)
            except ValueError:
                fine = False
            if not fine:
                scheme, host = urlsplit(self.access.url)[:2]
                raise ServerError(
                    f"the proxy of the environment for {self.access.url} is not an address of one "
                    "that can be used (http or https; socks5 with the package PySocks): correct "
                    f"{scheme.upper()}_PROXY or ALL_PROXY, or set NO_PROXY={host}"
                )
        return found

    def _by_proxy(self, url: str) -> str:
        """Through which proxy, without its password; empty without one."""
        proxy = select_proxy(url, self._proxies())
        if not proxy:
            return ""
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        return f" (through the proxy {parts.hostname}:{parts.port}, of the environment)"

    def key(self) -> str:
        """The API key, without the end of line that a mounted secret often has; empty for none.

        Raises:
            ServerError: it holds what no header can.
        """
        key = os.environ.get(self.access.key_variable, "").strip()
        if not (key.isascii() and key.isprintable()):
            raise ServerError(
                f"the key in {self.access.key_variable} holds a character that no key has; set it again"
            )
        return key

    def _login(self) -> AuthBase:
        """What is sent to be let in: the address's own password, else the key."""
        login = credentials.login(self.access.url)
        return HTTPBasicAuth(*login) if login else _Bearer(self.key())

    def _of_the_key(self) -> str:
        """What to look at where a server lets nobody in."""
        name = self.access.key_variable
        if credentials.login(self.access.url):
            return "; the password of the url was sent, and no key"
        state = "is refused: correct it" if self.key() else "is not set: it would hold the key"
        return f"; the environment variable {name} {state}"

    def _said(self, response: requests.Response) -> str:
        """The message of an error answer."""
        try:
            said = response.json()
        except (ValueError, RecursionError):
            return self._hidden(_text(response))
        if isinstance(said, dict):
            said = said.get("error", said.get("detail", said.get("message", said)))
        if isinstance(said, dict):
            said = said.get("message", said)
        return self._hidden(str(said))

    def hidden(self, text: str) -> str:
        """A text of the server's without the key: it may repeat what it was sent."""
        key = os.environ.get(self.access.key_variable)
        return credentials.hide(text, key, key and key.strip())

    def _hidden(self, text: str) -> str:
        return self.hidden(text)[:_SHOWN]


@final
class _Bearer(AuthBase):
    """Any object as `auth` keeps requests from looking for a login elsewhere; an empty key sends none."""

    def __init__(self, key: str) -> None:
        self.key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self.key:
            request.headers["Authorization"] = f"Bearer {self.key}"
        return request


def _authorities(url: str) -> str | None:
    """The file or folder of certificates that the environment names; raises ServerError for none.

    It is of no use to an address without encryption, which may lead to one with it.
    """
    names = [one for one in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE") if os.environ.get(one)]
    if not names:
        return None
    place = os.environ[names[0]]
    if not url.startswith("https"):
        return place
    try:
        if os.path.isdir(place):
            ssl.create_default_context(capath=place)
        else:
            ssl.create_default_context(cafile=place)
    except OSError as error:
        raise ServerError(
            f"{names[0]} names {place}, which holds no certificates ({error.strerror or error}): "
            "correct it, or unset it"
        ) from None
    return place


def _is_usable(scheme: str) -> bool:
    """Whether `requests` speaks to proxies of a kind."""
    return scheme in ("http", "https") or (
        scheme.startswith("socks") and find_spec("socks") is not None
    )


def _text(response: requests.Response) -> str:
    """What an answer holds; the encoding that it names may be none."""
    return response.content.decode(errors="replace")


def _content(body: Body | None) -> dict[str, Any]:
    """A body as `requests` is given it."""
    if isinstance(body, bytes):
        return {"data": body, "headers": {"Content-Type": MEDIA}}
    return {"json": body}


def _keeps_secrets(url: str, place: str) -> bool:
    """Whether a redirect stays with the service that the key is for; raises ValueError for no address."""
    here, there = urlsplit(url), urlsplit(place)
    usual = {"http": 80, "https": 443}
    ports = [part.port or usual.get(part.scheme, 0) for part in (here, there)]
    if (here.scheme, there.scheme) == ("https", "http") or here.hostname != there.hostname:
        return False
    return ports[0] == ports[1] or ((here.scheme, there.scheme), ports) == (
        ("http", "https"),
        [80, 443],
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error with all that it wraps."""
    seen: list[BaseException | None] = []
    todo: list[BaseException | None] = [error]
    while todo:
        one = todo.pop()
        if not isinstance(one, BaseException) or one in seen:
            continue
        seen.append(one)
        yield one
        todo += [getattr(one, "reason", None), one.__cause__, one.__context__]
        todo += [inner for inner in one.args if isinstance(inner, BaseException)]


def _asked(response: requests.Response) -> float:
    """The pause that the server asks for, in seconds: it may name a date. At most `LONGEST_ASKED_S`."""
    wanted = response.headers.get("Retry-After", "").strip()
    if wanted.isascii() and wanted.isdigit():
        seconds = float(wanted)
    else:
        try:
            at = parsedate_to_datetime(wanted)
            # By the clock of the server where it tells it: ours may be another.
            now = parsedate_to_datetime(response.headers.get("Date") or formatdate(usegmt=True))
            seconds = at.timestamp() - now.timestamp()
        except (ValueError, TypeError, OverflowError):
            return 0.0
    return min(max(0.0, seconds), LONGEST_ASKED_S)
