"""Passwords in addresses: cut out where a person gives them, and put back in the request alone.

What was cut is kept in one environment variable, which processes begun here inherit: no configuration,
parameter, artifact, page, link or message can hold what it does not get.
"""

from __future__ import annotations

import json
import os
import re
from base64 import b64encode
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from opdlab.errors import ConfigError

VARIABLE = "OPDLAB_CREDENTIALS"
"""Environment variable: JSON of addresses without their passwords, and with them."""
TEACHING_KEY = "OPDLAB_TEACH_KEY"
"""Environment variable with the API key of `opdlab teach`, unless another is named."""
HIDDEN = "***"
ADDRESS_KEYS = re.compile(r"(^|[._])(url|uri|storage)$")
"""Keys of a configuration whose values are addresses."""
_ADDRESS = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]*://\S")
_NO_SCHEME = re.compile(r"\s*(//)?[^\s/:@]*:[^\s/@]+@\S")
_SECRET_NAME = re.compile(
    r"(?i)pass|pwd|secret|token|credential|signature|(^|[^a-z])key$|apikey|odbc_connect|bearer|jwt|"
    r"^(sig|sas|auth|authorization|access|code|session)$"
)
SHORTEST = 4  # characters of a secret that is looked for in texts


def cut(address: str) -> str:
    """The address without passwords; of a database the user's name stays, of a server's nothing does.

    One that lacks its scheme loses them as well, before somebody is told that it does.

    Of two passwords for one address the later counts.
    """
    if _NO_SCHEME.match(address):
        return cut(f"http://{address.strip().removeprefix('//')}").removeprefix("http://")
    if not _ADDRESS.match(address):
        return address
    found, bare = _apart(address.strip())
    bare, has_options = _without_secret_options(bare)
    name, colon, _ = found.partition(":")
    scheme, _, rest = bare.partition("://")
    if scheme.lower() in ("http", "https"):
        name, colon = "", found
    if not (colon or has_options):
        return address
    bare = f"{scheme}://{name}{'@' if name else ''}{rest}"
    os.environ[VARIABLE] = json.dumps({**_known(), _same(bare): address.strip()})
    return bare


def whole(address: str) -> str:
    """The address as it was before `cut`, for a request."""
    return _known().get(_same(address), address)


def login(address: str) -> tuple[str, str] | None:
    """The name and password that were cut from an address."""
    found, _ = _apart(whole(address))
    name, _, password = found.partition(":")
    return (unquote(name), unquote(password)) if found else None


def logins() -> list[tuple[str, str]]:
    """The names and passwords of all addresses."""
    return [found for address in _known() if (found := login(address)) is not None]


def basic(login: tuple[str, str]) -> str:
    """A name and password as HTTP's Basic sends them."""
    return b64encode(":".join(login).encode()).decode()


def options(address: str) -> list[tuple[str, str]]:
    """The secret options, such as `?key=...`, that were cut from an address."""
    pairs = [part.partition("=") for part in urlsplit(whole(address)).query.split("&")]
    return [(unquote(k), unquote(value)) for k, _, value in pairs if _is_secret(k)]


def without(data: Any) -> Any:
    """Plain values of a configuration, with passwords cut from the addresses in it.

    Raises:
        ConfigError: two keys give one address two passwords.
    """
    return _without(data, "", {})


def _without(data: Any, section: str, given: dict[str, tuple[Any, str]]) -> Any:
    if isinstance(data, Mapping):
        inside = {key: (value, f"{section}.{key}") for key, value in data.items()}
        return {key: _without(value, name, given) for key, (value, name) in inside.items()}
    if isinstance(data, list):
        return [_without(value, section, given) for value in data]
    # Below `sweep.space` the choices of a key stand under `values`.
    key = re.sub(r"\.values(\.[^.]+)?$", "", section)
    if not isinstance(data, str) or not ADDRESS_KEYS.search(key):
        return data
    bare = cut(data)
    secrets = login(bare), options(bare)
    before, earlier = given.setdefault(_same(bare), (secrets, key))
    if before != secrets:
        raise ConfigError(
            f"{earlier.strip('.')} and {key.strip('.')} give {bare} two passwords; give both the same"
        )
    return bare


def cut_argument(word: str) -> str:
    """A word of a command line without passwords: an address, `key=value`, or YAML with several."""
    key, equals, value = word.partition("=")
    is_address = _ADDRESS.match(value) or (ADDRESS_KEYS.search(key) and _NO_SCHEME.match(value))
    if re.fullmatch(r"[\w.-]*", key) and is_address:
        return f"{key}{equals}{cut(value)}"
    inside = r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"{}\[\],]+"
    return cut(word) if _ADDRESS.match(word) else re.sub(inside, lambda m: cut(m[0]), word)


def hide(text: str, *others: str | None) -> str:
    """A text from elsewhere, such as a library's message, without what was cut, and without `others`."""
    secrets = {one for one in others if one}
    for address in _known():
        chosen = options(address)
        secrets |= {whole(address), *(value for _, value in chosen)}
        name, colon, password = _apart(whole(address))[0].partition(":")
        secrets |= {password, unquote(password)} if colon else {name}
        secrets |= {basic(found)} if (found := login(address)) else set[str]()
    secrets |= {quote(one, safe="") for one in secrets}
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, HIDDEN) if len(secret) >= SHORTEST else text
    return text


def _apart(address: str) -> tuple[str, str]:
    """What stands before the `@` of an address, and the address without it."""
    scheme, _, rest = address.partition("://")
    end = re.search(r"[/?#]", rest)
    place = rest.rfind("@", 0, end.start() if end else len(rest))
    is_server = scheme.lower() in ("http", "https")
    odd_port = re.match(r"[^/?#]*:[^/?#@]*[^\d/?#@\]]", rest) is not None
    if odd_port or (place > 0 and not is_server):
        # A password with a slash in it, which should have been written %2F.
        place = rest.rfind("@")
    return rest[: max(place, 0)], f"{scheme}://{rest[place + 1 :]}"


def _without_secret_options(address: str) -> tuple[str, bool]:
    before, *parts = re.split(r"(?=[?&;#])", address)
    kept = [part for part in parts if not _is_secret(part[1:].partition("=")[0])]
    if "?" not in "".join(kept) and kept and kept[0][0] == "&":
        kept[0] = f"?{kept[0][1:]}"
    return before + "".join(kept), len(kept) < len(parts)


def _is_secret(name: str) -> bool:
    return _SECRET_NAME.search(unquote(name)) is not None


def _same(address: str) -> str:
    return re.sub(r"/+(?=\?|$)", "", re.sub(r"(?<!:)/{2,}", "/", address.strip()))


def _known() -> dict[str, str]:
    text = os.environ.get(VARIABLE)
    return json.loads(text) if text else {}
