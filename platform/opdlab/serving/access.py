"""Where a server is, how long it is waited for, and whether an address can be one."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from opdlab import credentials


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

    @property
    def is_here(self) -> bool:
        """Whether the server runs on this machine, which no proxy reaches."""
        host = urlsplit(self.url).hostname or ""
        if host == "localhost" or host.endswith(".localhost"):
            return True
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        return address.is_loopback or address.is_unspecified

    @property
    def server(self) -> str:
        """The server itself, the same under every name of this machine."""
        parts = urlsplit(self.root)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
        host = "localhost" if self.is_here else (parts.hostname or "").lower()
        return f"{host}:{port}{parts.path.rstrip('/')}"

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
