"""A row of a data set as a prompt: what is asked, of which domain, and what answers are held against."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from opdlab.datafiles import (
    MISSING,
    Chat,
    Message,
    RowError,
    chat,
    condition,
    is_text,
    needed,
    value_at,
    wrap,
)
from opdlab.plugins import said_by
from opdlab.prompts.encoding import plain_text

if TYPE_CHECKING:
    from opdlab.configuration import DataSource

HASH_BYTES = 8
HALF = "half a character (a lone surrogate, which is not a text)"


@dataclass(frozen=True)
class Asked:
    """What a row asks.

    Attributes:
        prompt: as one text.
        messages: its turns as JSON; None where it is one turn of a user.
        gold: what answers are held against, as JSON; None without a grader.
        given: an answer that the data give; None without one.
        key: hash of its text, whitespace aside, before anything is put around it.
    """

    prompt: str
    messages: str | None
    domain: str
    gold: str | None
    given: str | None
    key: int


class Reader:
    """Rows as prompts, by the settings of one source."""

    def __init__(self, source: DataSource) -> None:
        self.source = source
        self.column = source.column or "prompt"
        self.domain, self.domain_column = source.domain or "dataset", source.domain_column
        self.answer_column, self.grader = source.answer_column, source.grader
        self.completion_column = source.completion_column
        self.wrap = wrap(source.wrap) if source.wrap else None
        self.where = condition(source.where) if source.where else None

    @property
    def paths(self) -> dict[str, str]:
        """Paths of the columns that are used, and the key that names each."""
        named = {self.column: "column"}
        for key in ("domain_column", "answer_column", "completion_column"):
            if path := getattr(self, key):
                named.setdefault(path, key)
        for path in self.wrap.columns if self.wrap else ():
            named.setdefault(path, "wrap")
        for path in self.where.columns if self.where else ():
            named.setdefault(path, "where")
        return named

    @property
    def columns(self) -> set[str]:
        """Columns of the file that may hold them."""
        return needed(self.paths)

    def wanted(self, row: Mapping[str, Any]) -> bool:
        """Whether the row fulfils `where`; raises ValueError."""
        return self.where is None or self.where(row)

    def asked(self, row: Mapping[str, Any]) -> Asked:
        """What the row asks.

        Raises:
            RowError: it asks nothing, or nothing that can be used.
        """
        found = chat(value_at(row, self.column), self.column)
        turns = self._wrapped(found, row)
        alone = len(turns) == 1 and turns[0]["role"] == "user"
        bare = "\n".join(each["content"] for each in found.messages if each["role"] != "system")
        return Asked(
            prompt=plain_text(turns),
            messages=None if alone else json.dumps(turns, ensure_ascii=False),
            domain=self._domain(row),
            gold=self._gold(row),
            given=self._given(row, found),
            key=key_of(bare),
        )

    def _wrapped(self, found: Chat, row: Mapping[str, Any]) -> list[Message]:
        turns = list(found.messages)
        if self.wrap is None:
            return turns
        last = max(place for place, turn in enumerate(turns) if turn["role"] == "user")
        try:
            text = self.wrap(turns[last]["content"], row)
        except ValueError as error:
            raise RowError("broken", str(error)) from error
        if not is_text(text):
            raise RowError("broken", f"{HALF} in a column that wrap names")
        turns[last] = {"role": "user", "content": text}
        return turns

    def _domain(self, row: Mapping[str, Any]) -> str:
        if self.domain_column is None:
            return self.domain
        value = value_at(row, self.domain_column)
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str) or not value.strip() or not is_text(value):
            raise RowError("broken", f"no text in column {self.domain_column!r}")
        return value

    def _given(self, row: Mapping[str, Any], found: Chat) -> str | None:
        if self.completion_column is None:
            return found.given
        value = value_at(row, self.completion_column)
        if isinstance(value, list):
            # The assistant's turns alone, as TRL writes them.
            turns = [one for one in value if isinstance(one, Mapping)]
            value = turns[0].get("content") if len(turns) == len(value) == 1 else None
        if not isinstance(value, str) or not value.strip() or not is_text(value):
            raise RowError("broken", f"no text of an answer in column {self.completion_column!r}")
        return value

    def _gold(self, row: Mapping[str, Any]) -> str | None:
        if self.answer_column is None or self.grader is None:
            return None
        value = value_at(row, self.answer_column)
        where = f"in column {self.answer_column!r}"
        if value is None or value is MISSING or (isinstance(value, str) and not value.strip()):
            raise RowError("broken", f"no answer {where}")
        gold, unfit = "", None
        with said_by(self.grader, "gold"):
            try:
                found = self.grader.gold(value)
                gold = json.dumps(found, ensure_ascii=False, sort_keys=True, allow_nan=False)
            except (ValueError, TypeError) as error:
                unfit = error
        if unfit is not None:
            raise RowError("broken", f"no answer that can be graded {where} ({unfit})"[:200])
        if not is_text(gold):
            raise RowError("broken", f"{HALF} {where}")
        return gold


def key_of(text: str) -> int:
    """Equal for texts that differ in whitespace alone."""
    joined = " ".join(text.split()).encode()
    return int.from_bytes(hashlib.blake2b(joined, digest_size=HASH_BYTES).digest())
