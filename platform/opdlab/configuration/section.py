"""Base of every section of an experiment file."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict

from opdlab.plugins import MOVED


class Section(BaseModel):
    """Frozen; unknown keys are refused; the docstring under a field is its description in the schema."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        arbitrary_types_allowed=True,
        allow_inf_nan=False,
    )


def moved(**keys: str) -> ConfigDict:
    """For `model_config`: keys that a section had once, each with what to write in its place."""
    news: dict[str, Any] = {MOVED: keys}
    return ConfigDict(json_schema_extra=news)


class RoomSection(Section):
    """A section whose settings live in a room above: it is found by its key in the entry points of
    `opdlab.sections`, and brings its own rules.

    Attributes:
        dotted: keys below a dotted key of its own that are options of that one and no part of its name.
    """

    dotted: ClassVar[frozenset[str]] = frozenset()

    def filled(self, experiment: Any) -> Self:
        """The section with what it takes from the rest of the experiment where it says nothing."""
        return self

    def check(self, experiment: Any) -> None:
        """Refuse, by a ValueError, an experiment that the section does not go with."""

    def faults(self, source: Any, experiment: Any, gone: set[str]) -> list[str]:
        """What else is wrong with it, a line each, with the place in the file.

        Args:
            source: values as they were written, with where each stands: `Source`.
            gone: sections that were at fault, in whose place others stand.
        """
        return []


def replaced(key: str, keys: Iterable[str]) -> list[str]:
    """Keys that come after a dotted one and name a section that it lies in."""
    listed = list(keys)
    return [later for later in listed[listed.index(key) + 1 :] if key.startswith(f"{later}.")]
