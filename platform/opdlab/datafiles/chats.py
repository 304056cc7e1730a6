"""A prompt as files hold it: a text, or a list of messages in the forms that data sets write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from opdlab.datafiles.columns import MISSING, opened
from opdlab.datafiles.reading import is_text

Message = Mapping[str, str]
ROLES = ("system", "developer", "user", "assistant", "tool")
_ROLE_NAMES = {
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
}
"""What data sets in ShareGPT's form call the roles."""


class RowError(ValueError):
    """What is wrong with a row.

    Attributes:
        kind: `empty` where something is missing, `broken` where it cannot be read.
    """

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


@dataclass(frozen=True)
class Chat:
    """A prompt and the answer that was given to it.

    Attributes:
        messages: turns up to the last one of the user; a text is a single turn.
        given: what the assistant said after it; None where it said nothing.
        plain: whether it was a text, and no list of messages.
    """

    messages: tuple[Message, ...]
    given: str | None = None
    plain: bool = False


def chat(value: Any, column: str) -> Chat:
    """The prompt in a value of a column.

    Raises:
        RowError: there is none.
    """
    found = opened(value) if isinstance(value, str) and '"' in value else value
    if isinstance(found, Mapping) and isinstance(found.get("messages"), list):
        found = found["messages"]
    if isinstance(found, list) and (not isinstance(value, str) or _is_messages(found)):
        return _of_messages(found, column)
    if value is None or value is MISSING or (isinstance(value, str) and not value.strip()):
        raise RowError("empty", f"no text in column {column!r}")
    if not isinstance(value, str):
        raise RowError("broken", f"no text in column {column!r}")
    _require_whole(value, column)
    return Chat(({"role": "user", "content": value},), plain=True)


def _is_messages(found: list[Any]) -> bool:
    return bool(found) and all(
        isinstance(each, Mapping) and {"role", "from"} & each.keys() for each in found
    )


def _of_messages(found: list[Any], column: str) -> Chat:
    if not found:
        raise RowError("empty", f"an empty list of messages in column {column!r}")
    turns = [_message(each, column) for each in found]
    asked = list(turns)
    said: list[str] = []
    while asked and asked[-1]["role"] == "assistant":
        said.insert(0, asked.pop()["content"])
    if not any(turn["role"] == "user" and turn["content"].strip() for turn in asked):
        raise RowError("empty", f"no turn of a user in column {column!r}")
    if asked[-1]["role"] in ("system", "developer"):
        raise RowError("broken", f"messages that end with the system's in column {column!r}")
    given = "\n\n".join(said)
    return Chat(tuple(asked), given if given.strip() else None)


def _message(value: Any, column: str) -> dict[str, str]:
    where = f"in column {column!r}"
    role = value.get("role") or value.get("from") if isinstance(value, Mapping) else None
    if role is None:
        raise RowError("broken", f"a message without a role {where}")
    role = _ROLE_NAMES.get(str(role).lower(), str(role).lower())
    if role not in ROLES:
        raise RowError(
            "broken", f"a message of role {role!r:.40} {where}; known are {', '.join(ROLES)}"
        )
    content = _content(value.get("content", value.get("value")), where)
    _require_whole(content, column)
    return {"role": role, "content": content}


def _content(value: Any, where: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value:
        texts = [each.get("text") if isinstance(each, Mapping) else each for each in value]
        if all(isinstance(text, str) for text in texts):
            return "".join(map(str, texts))
        raise RowError("broken", f"a message with more than text, such as an image, {where}")
    raise RowError("empty" if value is None else "broken", f"a message without text {where}")


def _require_whole(text: str, column: str) -> None:
    if not is_text(text):
        reason = f"half a character in column {column!r} (a lone surrogate, which is not a text)"
        raise RowError("broken", reason)
