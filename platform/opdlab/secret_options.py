"""Secrets among the options of plugins: cut where a person gives them, put back in the plugin alone.

A configuration holds a mark in the place of each, such as `***rollout.token`, and so does all that is
made from it: files, parameters, pages. What was cut is kept in one environment variable, which processes
begun here inherit. Addresses with passwords keep their host: see `opdlab.credentials`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import fields
from itertools import count
from typing import Any

from opdlab import credentials

VARIABLE = "OPDLAB_SECRET_OPTIONS"
"""Environment variable: JSON of marks, and the secrets that they stand for."""
COMMAND = "command"
"""First part of the mark of what a command line gave, until its place is known."""
_MARK = re.compile(r"\*\*\*([\w.-]+)")
_NAME = re.compile(
    r"(^|[_. -])(pass|passwords?|passwd|passphrase|passcode|pwd|secrets?|credentials?|authorization|auth"
    r"|bearer|jwt|cookies?|apikeys?|signature"
    r"|(api|access|private|secret|signing|auth|account|service|subscription)[_ -]?keys?)"
    r"([_-](value|string|text))?$"
)
_TOKEN = re.compile(r"(^|[_. -])tokens?([_-](value|string|text))?$")
_SPECIAL = re.compile(
    r"(^|[_. -])(eos|bos|pad|unk|mask|sep|cls|stop|end|start|begin|first|last|think|answer|special|added"
    r"|extra|tool|user|assistant|system|image|next|fill|prefix|suffix|middle)[_ -]tokens?$"
)
"""Names of tokens of a vocabulary."""
_KEY = re.compile(r"(^|[_. -])(keys?|sig|sas|session|access|pin)$")
_RANDOM = re.compile(r"(?=\S*\d)(?=\S*[A-Za-z])[^\s/]{8,}")
"""A value that is nobody's word: under a name such as `key` it is a secret, and not a column's name."""
_VALUE = re.compile(
    r"(?is)(bearer|basic|token|digest|apikey)\s+\S{4,}"
    r"|sk-[\w-]{12,}|hf_\w{16,}|gh[pousr]_\w{16,}|github_pat_\w+|glpat-[\w-]{12,}|xox[a-z]-[\w-]{10,}"
    r"|AKIA[0-9A-Z]{12,}|eyJ[\w-]{8,}\.[\w-]+\.[\w-]*|-----BEGIN .*KEY-----.*"
    r"|\s*((proxy-)?authorization|cookie|x-[\w-]*(key|token))\s*[:=]\s*\S.*"
)
"""Forms of headers and of keys that many services give out."""


def is_secret(name: str, value: object) -> bool:
    """Whether an option of this name and value is a secret, as far as names and forms tell."""
    if not isinstance(value, str) or not value.strip() or _MARK.fullmatch(value):
        return False
    if _VALUE.fullmatch(value):
        return True
    # `apiKey` and `X-Auth-Token` as `api_key` and `x-auth-token`.
    plain = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    if _NAME.search(plain):
        return True
    if _TOKEN.search(plain):
        return not _SPECIAL.search(plain) and re.fullmatch(r"[^\s<>\[\]]{4,}", value) is not None
    return _KEY.search(plain) is not None and _RANDOM.fullmatch(value) is not None


def cut(data: Any, place: str, inside: str = "") -> Any:
    """Plain values with marks in place of secrets.

    Args:
        place: dotted key of the values, by which marks are named.
        inside: a key above whose name makes all below it secret.
    """
    if isinstance(data, Mapping):
        return {
            key: cut(one, f"{place}.{key}", _above(str(key), inside)) for key, one in data.items()
        }
    if isinstance(data, list):
        return [cut(one, f"{place}.{n}", inside or _last(place)) for n, one in enumerate(data)]
    if is_secret(_last(place), data) or (inside and is_secret(inside, data)):
        return _keep(place, data)
    return credentials.cut(data) if isinstance(data, str) else data


def _above(key: str, inside: str) -> str:
    return inside or (key if is_secret(key, "a1b2c3d4") and not _KEY.search(key) else "")


def _last(place: str) -> str:
    return next((part for part in reversed(place.split(".")) if not part.isdecimal()), "")


def _keep(place: str, secret: str) -> str:
    mark = "***" + re.sub(r"[^\w.-]+", "-", place.strip("."))
    os.environ[VARIABLE] = json.dumps({**_known(), mark: secret})
    return mark


def cut_argument(word: str) -> str:
    """A word of a command line, `key=value`, with marks in place of secrets."""
    key, equals, value = word.partition("=")
    if not equals or not re.fullmatch(r"[\w.-]+", key):
        return word
    import yaml

    try:
        given = yaml.safe_load(value)
        bare = cut(given, f"{COMMAND}.{key}")
    except (yaml.YAMLError, ValueError, RecursionError):
        return word
    if bare == given:
        return word
    text = yaml.safe_dump(bare, default_flow_style=True, width=10**9, sort_keys=False)
    return f"{key}={text.removesuffix('...' + chr(10)).strip()}"


def placed(data: Any, place: str = "") -> Any:
    """The same values, with the marks of a command line named after where they stand now."""
    if isinstance(data, Mapping):
        return {key: placed(one, f"{place}.{key}") for key, one in data.items()}
    if isinstance(data, list):
        return [placed(one, f"{place}.{n}") for n, one in enumerate(data)]
    given = isinstance(data, str) and data.startswith(f"***{COMMAND}.") and data in _known()
    return _keep(place, _known()[data]) if given else data


def restored(data: Any) -> Any:
    """Plain values with the secrets in them, for the plugin that needs them.

    Raises:
        ValueError: a mark whose secret was given to another process, and saved nowhere.
    """
    if isinstance(data, Mapping):
        return {key: restored(one) for key, one in data.items()}
    if isinstance(data, list):
        return [restored(one) for one in data]
    if isinstance(data, str) and (mark := _MARK.fullmatch(data)):
        if data not in _known():
            raise ValueError(
                f"{data} stands for a secret, which is saved nowhere: give it again ({mark[1]}=...)"
            )
        return _known()[data]
    return credentials.whole(data) if isinstance(data, str) else data


def covered(name: str, value: Any) -> Any:
    """An option's value with marks in place of secrets, known ones and those that look like it."""
    if isinstance(value, Mapping):
        return {key: covered(str(key), one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)([covered(name, one) for one in value])
    if not isinstance(value, str):
        return value
    for mark, secret in _known().items():
        if secret == value:
            return mark
    bare = credentials.cut(value)
    return _keep(_unused(name), value) if is_secret(name, bare) or hide(bare) != bare else bare


def unmarked(data: Any) -> Any:
    """Plain values in which every secret is the same: none of them decides what a plugin does."""
    if isinstance(data, Mapping):
        return {key: unmarked(one) for key, one in data.items()}
    if isinstance(data, (list, tuple)):
        return [unmarked(one) for one in data]
    return credentials.HIDDEN if isinstance(data, str) and _MARK.fullmatch(data) else data


def _unused(name: str) -> str:
    """The name, with a number where a mark of this name stands for another secret."""
    known, names = _known(), (f"{name}-{n}" for n in count(1))
    return next(one for one in names if f"***{one}" not in known)


def hide(text: str) -> str:
    """A text without the secrets that were cut."""
    for secret in sorted(_known().values(), key=len, reverse=True):
        text = (
            text.replace(secret, credentials.HIDDEN)
            if len(secret) >= credentials.SHORTEST
            else text
        )
    return text


class Covered:
    """A dataclass whose text shows no secret among its fields."""

    def __init_subclass__(cls, **given: Any) -> None:
        super().__init_subclass__(**given)
        if "__repr__" not in cls.__dict__:
            # A dataclass writes its own only where there is none.
            cls.__repr__ = Covered.__repr__

    def __repr__(self) -> str:
        told: Any = fields(self)  # type: ignore[arg-type]
        values = (f"{f.name}={covered(f.name, getattr(self, f.name))!r}" for f in told if f.repr)
        return f"{type(self).__qualname__}({', '.join(values)})"


def _known() -> dict[str, str]:
    found = os.environ.get(VARIABLE)
    return json.loads(found) if found else {}
