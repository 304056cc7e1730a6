"""`wrap: "{prompt}\\nPut the answer in \\\\boxed{{}}."`: a text around a row's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from string import Formatter
from typing import Any

from opdlab.datafiles.columns import MISSING, value_at
from opdlab.datafiles.writing import value_text

PROMPT = "prompt"
"""What stands for the text of the prompt itself, whatever its column is called."""


@dataclass(frozen=True)
class Wrap:
    """A text with places for columns.

    Attributes:
        parts: literal texts and the paths that follow them; None where nothing follows.
    """

    parts: tuple[tuple[str, str | None], ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """Paths of the columns that it names, the prompt's own text left out."""
        return tuple(dict.fromkeys(name for _, name in self.parts if name not in (None, PROMPT)))  # pyright: ignore[reportReturnType]

    def __call__(self, prompt: str, row: Mapping[str, Any]) -> str:
        """The text with a row's values.

        Raises:
            ValueError: the row has nothing in one of the columns.
        """
        return "".join(
            literal + ("" if name is None else prompt if name == PROMPT else _text(row, name))
            for literal, name in self.parts
        )


def wrap(text: str, constant: bool = False) -> Wrap:
    """Read a text with columns in braces; `{{` and `}}` are braces.

    Args:
        constant: a text that names no column is taken as well.

    Raises:
        ValueError: a brace is open, empty, or holds more than a name; or no column is named.
    """
    parts: list[tuple[str, str | None]] = []
    try:
        for literal, name, how, conversion in Formatter().parse(text):
            if name is not None and (how or conversion or not name.strip()):
                raise ValueError(
                    f"`{{{name}{'!' + conversion if conversion else ''}}}` names no column"
                )
            parts.append((literal, None if name is None else name.strip()))
    except ValueError as error:
        raise ValueError(
            f"{error}; write a column in braces, and `{{{{` `}}}}` for braces"
        ) from error
    if not constant and all(name is None for _, name in parts):
        raise ValueError(
            f"{text[:60]!r} names no column, so every prompt would be the same; write `{{prompt}}`"
        )
    return Wrap(tuple(parts))


def _text(row: Mapping[str, Any], name: str) -> str:
    value = value_at(row, name)
    if value is None or value is MISSING:
        raise ValueError(f"nothing in column {name!r}, which wrap names")
    try:
        return value_text(value)
    except ValueError as error:
        raise ValueError(f"{error}, in column {name!r}, which wrap names") from error
