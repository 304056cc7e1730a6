"""What an answer is: a value, a list, a tuple, a set, a region of numbers, a matrix, an equation ..."""

from __future__ import annotations

from dataclasses import dataclass

from opdlab_evaluators.answers.region import Region
from opdlab_evaluators.answers.trees import Tree
from opdlab_evaluators.answers.units import Unit


@dataclass(frozen=True)
class Thing:
    """An answer as it was understood.

    Attributes:
        kind: value, list, tuple, set, region, matrix, equation, relation, words, choice, numeral, ratio.
        trees: of a value, an equation (its sides), a ratio (its parts), a relation (the difference).
        items: of a list, tuple, set; of a matrix, its rows as lists.
        brackets: of a tuple.
        name: the variable that is said to have this value; of words, the words.
        unit: what follows a value; None where nothing does.
        percent: a percent sign follows.
        modulus: what follows `mod`.
        sign: of a relation: <, <=, !=.
        base: of a numeral.
        rounded: the decimal that is said to be about this value.
        finest: the smallest unit of `2 hours 40 minutes`, whose unit is the hour.
    """

    kind: str
    trees: tuple[Tree, ...] = ()
    items: tuple[Thing, ...] = ()
    region: Region | None = None
    brackets: str = ""
    name: str = ""
    unit: Unit | None = None
    percent: bool = False
    modulus: Tree | None = None
    sign: str = ""
    base: int = 0
    rounded: Tree | None = None
    finest: Unit | None = None


@dataclass(frozen=True)
class Context:
    """What the other answer tells of how to read this one.

    Attributes:
        letters: those that are variables, and no units.
        grouping: `1,234` is one number.
        e_is_constant: see `tokens_of`.
        own_units: words that the gold uses as units.
        unit: that of the gold.
        is_gold: unknown words behind its number are its unit.
        vectors: i, j and k are unit vectors.
        j_is_imaginary: engineers' j is meant by i.
        is_point: the gold is a tuple, so that `P(1, 2)` names a point and is no number.
    """

    letters: frozenset[str] = frozenset()
    grouping: bool = True
    e_is_constant: bool = False
    own_units: frozenset[str] = frozenset()
    is_gold: bool = False
    vectors: bool = False
    j_is_imaginary: bool = False
    is_point: bool = False
    unit: Unit | None = None
