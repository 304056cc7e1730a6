"""The space of a sweep: keys with the values that they may take, and points among them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from random import Random
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from opdlab.configuration import Section

Scalar = bool | int | float | str
PARTS = 8  # of a range, between which values are tried when the file is checked
RANDOM_TRIES = 16
MOST_STEPS = 2**53
"""Of a range, and the largest whole number in one: samplers and databases reckon in floating point."""
SAME_STEP = 1e-6
"""How far from a step of a range, in steps, a number still is that step: it may be rounded differently."""


class IntRange(Section):
    """Whole numbers from `low` to `high`, both included."""

    type: Literal["int"]
    """Whole numbers in a range."""
    low: int = Field(ge=-MOST_STEPS, le=MOST_STEPS)
    """Smallest value."""
    high: int = Field(ge=-MOST_STEPS, le=MOST_STEPS)
    """Largest value."""
    step: int = Field(default=1, ge=1, le=MOST_STEPS)
    """Distance between neighbours."""
    log: bool = False
    """Search on a logarithmic scale."""
    when: dict[str, Scalar] = {}
    """Use this key only in trials in which these other keys of the space have these values."""

    @model_validator(mode="after")
    def _check(self) -> IntRange:
        _check_range(self.low, self.high, self.log)
        if self.log and self.step != 1:
            raise ValueError("step and log exclude each other; leave step out")
        return self

    @property
    def last(self) -> int:
        """Largest value that steps from `low` reach."""
        return self.high - (self.high - self.low) % self.step

    def ends(self) -> list[Any]:
        """The values that are tried when the file is checked."""
        return [self.low, self.last]

    def inner(self) -> list[Any]:
        """Values between the ends, evenly spread."""
        steps = (self.high - self.low) // self.step
        return sorted({self.low + steps * part // PARTS * self.step for part in range(1, PARTS)})

    @property
    def count(self) -> int | None:
        """How many values there are."""
        return (self.high - self.low) // self.step + 1

    def listed(self) -> list[Any]:
        """Every value; ask for the `count` before."""
        return list(range(self.low, self.high + 1, self.step))

    def place(self, value: Any) -> Any:
        """The same for the same value, however it was rounded; None for one that the range has not."""
        whole = isinstance(value, int) and not isinstance(value, bool)
        inside = whole and self.low <= value <= self.high
        return value if inside and (value - self.low) % self.step == 0 else None


class FloatRange(Section):
    """Numbers from `low` to `high`."""

    type: Literal["float"]
    """Real numbers in a range."""
    low: float
    """Smallest value."""
    high: float
    """Largest value."""
    step: float | None = Field(default=None, gt=0)
    """Distance between neighbours; null for any number."""
    log: bool = False
    """Search on a logarithmic scale."""
    when: dict[str, Scalar] = {}
    """Use this key only in trials in which these other keys of the space have these values."""

    @model_validator(mode="after")
    def _check(self) -> FloatRange:
        _check_range(self.low, self.high, self.log)
        if self.log and self.step is not None:
            raise ValueError("step and log exclude each other; leave step out")
        if not math.isfinite(self.high - self.low):
            raise ValueError(f"from low ({self.low:g}) to high ({self.high:g}) is too far")
        if self.step is not None and (self.high - self.low) / self.step > MOST_STEPS:
            raise ValueError(
                f"step ({self.step:g}) is so small that neighbouring values are equal; leave it out "
                "to search all numbers"
            )
        return self

    @property
    def last(self) -> float:
        """Largest value that steps from `low` reach."""
        return self.high if self.count is None else self._at(self.count - 1)

    def ends(self) -> list[Any]:
        """The values that are tried when the file is checked."""
        return [self.low, self.last]

    def inner(self) -> list[Any]:
        """Values between the ends, evenly spread."""
        if self.count is not None:
            steps = self.count - 1
            return [
                self._at(n) for n in sorted({steps * part // PARTS for part in range(1, PARTS)})
            ]
        return [self.low + (self.high - self.low) * part / PARTS for part in range(1, PARTS)]

    @property
    def count(self) -> int | None:
        """How many values there are; None without steps."""
        if self.low == self.high:
            return 1
        if self.step is None:
            return None
        return (
            int((Decimal(str(self.high)) - Decimal(str(self.low))) // Decimal(str(self.step))) + 1
        )

    def listed(self) -> list[Any]:
        """Every value; ask for the `count` before."""
        return [self._at(number) for number in range(self.count or 0)]

    def place(self, value: Any) -> Any:
        """The same for the same value, however it was rounded; None for one that the range has not."""
        if not isinstance(value, int | float) or isinstance(value, bool):
            return None
        if self.step is None:
            return float(value) if self.low <= value <= self.high else None
        number = round((value - self.low) / self.step)
        near = abs((value - self.low) / self.step - number) <= SAME_STEP
        return number if near and 0 <= number < (self.count or 0) else None

    def _at(self, number: int) -> float:
        """A step of the range, as a person would write it: 0.3 and not 0.30000000000000004."""
        return float(Decimal(str(self.low)) + number * Decimal(str(self.step or 0)))


class Choice(Section):
    """One of several values; whole sections are chosen by a name."""

    type: Literal["choice"]
    """One of several values."""
    values: list[Scalar] | dict[str, Any] = Field(min_length=1)
    """A list of plain values, or names with the value (a method with its options) that each stands for."""
    when: dict[str, Scalar] = {}
    """Use this key only in trials in which these other keys of the space have these values."""

    @model_validator(mode="before")
    @classmethod
    def _names_for_others(cls, data: Any) -> Any:
        values = data.get("values") if isinstance(data, dict) else None
        if isinstance(values, list) and not all(isinstance(one, Scalar) for one in values):
            raise ValueError(
                "values: a list holds only plain values; give each a name, such as `values: {none: null, "
                "two: [1, 2]}`"
            )
        return data

    @model_validator(mode="after")
    def _check(self) -> Choice:
        listed = list(self.values)
        if twice := [value for value in listed if listed.count(value) > 1]:
            raise ValueError(f"values: {twice[0]!r} is given twice")
        return self

    def ends(self) -> list[Any]:
        """The values that are tried when the file is checked."""
        return list(self.values)

    def inner(self) -> list[Any]:
        """Nothing: all values are ends."""
        return []

    @property
    def count(self) -> int | None:
        """How many values there are."""
        return len(self.values)

    def listed(self) -> list[Any]:
        """Every value."""
        return list(self.values)

    def place(self, value: Any) -> Any:
        """The value; None for one that is not among them."""
        return value if value in list(self.values) else None

    def meaning(self, chosen: Any) -> Any:
        """What a chosen name stands for."""
        return self.values[chosen] if isinstance(self.values, dict) else chosen


Dimension = Annotated[IntRange | FloatRange | Choice, Field(discriminator="type")]
DIMENSION_KEYS = frozenset(
    name for kind in (IntRange, FloatRange, Choice) for name in kind.model_fields
)


def _check_range(low: float, high: float, log: bool) -> None:
    if low > high:
        raise ValueError(f"low ({low:g}) is above high ({high:g})")
    if log and low <= 0:
        raise ValueError(f"low ({low:g}) must be above 0 on a logarithmic scale")


def in_words(dimension: Dimension) -> str:
    """The values of a dimension in words."""
    if isinstance(dimension, Choice):
        return f"one of {', '.join(map(str, dimension.values))}"
    steps = "" if dimension.step in (None, 1) else f" in steps of {dimension.step:g}"
    return f"from {dimension.low:g} to {dimension.high:g}{steps}"


def points(space: Mapping[str, Dimension], most: int) -> list[dict[str, Any]] | None:
    """Every point of a space; None where there are more than `most`."""
    return _combined(space, most, lambda dimension: _listed(dimension, most))


def ends(space: Mapping[str, Dimension], most: int) -> list[dict[str, Any]] | None:
    """Every point at the ends of all ranges; None where there are more than `most`."""
    return _combined(space, most, lambda dimension: dimension.ends())


def _combined(
    space: Mapping[str, Dimension], most: int, listed: Callable[[Dimension], list[Any] | None]
) -> list[dict[str, Any]] | None:
    found: list[dict[str, Any]] = [{}]
    for name, dimension in space.items():
        values = listed(dimension)
        if values is None:
            return None
        grown: list[dict[str, Any]] = []
        for point in found:
            own = [{**point, name: value} for value in values]
            grown += own if applies(space, dimension, point) else [point]
        if len(grown) > most:
            return None
        found = grown
    return found


def _listed(dimension: Dimension, most: int) -> list[Any] | None:
    """Every value of a dimension; None where there are more than `most`."""
    count = dimension.count
    return None if count is None or count > most else dimension.listed()


def identity(space: Mapping[str, Dimension], chosen: Mapping[str, Any]) -> frozenset[Any]:
    """Equal for the same point of a space: a number with a step is not always rounded the same way."""
    return frozenset((name, repr(space[name].place(value))) for name, value in chosen.items())


def chosen_values(space: Mapping[str, Dimension], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """What the chosen names and numbers set in the experiment."""
    return {
        name: dimension.meaning(chosen[name]) if isinstance(dimension, Choice) else chosen[name]
        for name, dimension in space.items()
        if name in chosen
    }


def applies(
    space: Mapping[str, Dimension], dimension: Dimension, chosen: Mapping[str, Any]
) -> bool:
    """Whether a conditional dimension exists, given what was chosen before it."""
    return all(
        name in chosen and space[name].place(chosen[name]) == space[name].place(value)
        for name, value in dimension.when.items()
    )


def tries(space: Mapping[str, Dimension], name: str, value: Any) -> Iterator[dict[str, Any]]:
    """Points with a value of one key, by which to see whether any others go with it.

    The others are at their first and last values, all together and one by one, and then at random ends.
    """
    fixed = {**conditions(space, name), name: value}
    first = {other: one.ends()[0] for other, one in space.items()}
    last = {other: one.ends()[-1] for other, one in space.items()}
    rest = [first, last]
    for other, one in space.items():
        rest += [{**most, other: end} for end in one.ends() for most in (first, last)]
    chance = Random(0)
    for _ in range(RANDOM_TRIES):
        rest.append({other: chance.choice(one.ends()) for other, one in space.items()})
    seen: set[frozenset[Any]] = set()
    for values in rest:
        point = _completed(space, fixed, values)
        if identity(space, point) not in seen:
            seen.add(identity(space, point))
            yield point


def conditions(space: Mapping[str, Dimension], name: str) -> dict[str, Any]:
    """What must be chosen for a dimension to exist, and for its conditions to exist."""
    needed: dict[str, Any] = {}
    for other, value in space[name].when.items():
        needed |= {**conditions(space, other), other: value}
    return needed


def _completed(
    space: Mapping[str, Dimension], fixed: Mapping[str, Any], rest: Mapping[str, Any]
) -> dict[str, Any]:
    chosen: dict[str, Any] = {}
    for name, dimension in space.items():
        if name in fixed:
            chosen[name] = fixed[name]
        elif applies(space, dimension, chosen):
            chosen[name] = rest[name]
    return chosen
