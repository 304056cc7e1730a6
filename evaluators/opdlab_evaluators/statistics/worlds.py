"""Worlds with a known truth, in which intervals can be tried: how hard problems are, and for whom."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import special

Size = tuple[int, ...]


class Difficulty(ABC):
    """How likely one sample of a problem is correct."""

    @abstractmethod
    def draw(self, generator: np.random.Generator, size: Size) -> np.ndarray:
        """Of so many problems."""

    @abstractmethod
    def passing(self, k: int) -> float:
        """The true pass@k: the mean over problems of the chance that k samples hold a correct one."""


@dataclass(frozen=True)
class Beta(Difficulty):
    """Beta-distributed over problems."""

    a: float
    b: float

    def draw(self, generator: np.random.Generator, size: Size) -> np.ndarray:
        """See `Difficulty`."""
        return generator.beta(self.a, self.b, size)

    def passing(self, k: int) -> float:
        """See `Difficulty`."""
        return float(1 - special.beta(self.a, self.b + k) / special.beta(self.a, self.b))


@dataclass(frozen=True)
class Two(Difficulty):
    """A share of the problems apart from the rest."""

    share: float
    apart: float
    rest: float

    def draw(self, generator: np.random.Generator, size: Size) -> np.ndarray:
        """See `Difficulty`."""
        return np.where(generator.random(size) < self.share, self.apart, self.rest)

    def passing(self, k: int) -> float:
        """See `Difficulty`."""
        missed = self.share * (1 - self.apart) ** k + (1 - self.share) * (1 - self.rest) ** k
        return 1 - missed


DIFFICULTIES: dict[str, Difficulty] = {
    "spread over all, Beta(1, 1)": Beta(1, 1),
    "mostly easy or hard, Beta(0.3, 0.3)": Beta(0.3, 0.3),
    "hard, Beta(0.2, 0.8)": Beta(0.2, 0.8),
    "easy, Beta(8, 1)": Beta(8, 1),
    "all at 0.3": Two(0, 0, 0.3),
    "all at 0.01": Two(0, 0, 0.01),
    "all at 0.99": Two(0, 0, 0.99),
    "2 % always, the rest at 0.01": Two(0.02, 1, 0.01),
    "3 % never, the rest at 0.995": Two(0.03, 0, 0.995),
    "5 % at 0.9, the rest at 0.01": Two(0.05, 0.9, 0.01),
    "5 % always, the rest never": Two(0.05, 1, 0),
    "10 % never, the rest always": Two(0.1, 0, 1),
    "30 % never, the rest at 0.99": Two(0.3, 0, 0.99),
}


@dataclass(frozen=True)
class Change:
    """How likely one sample of a problem is correct, of two models, and the true mean difference."""

    draw: Callable[[np.random.Generator, Size], tuple[np.ndarray, np.ndarray]]
    truth: float


def _apart(before: Difficulty, after: Difficulty) -> Change:
    """Two models that have nothing to do with each other."""
    return Change(
        lambda generator, size: (before.draw(generator, size), after.draw(generator, size)),
        after.passing(1) - before.passing(1),
    )


def _gain(generator: np.random.Generator, size: Size) -> tuple[np.ndarray, np.ndarray]:
    before = generator.beta(0.4, 0.6, size)
    return before, before + (1 - before) * generator.beta(0.5, 4, size)


def _mixed(generator: np.random.Generator, size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Three in five problems gain a sixth of what is left, the others lose a sixth of what they have."""
    before, moved = generator.beta(0.4, 0.6, size), generator.beta(1, 5, size)
    gains = generator.random(size) < 0.6
    return before, np.where(gains, before + (1 - before) * moved, before * (1 - moved))


def _same(generator: np.random.Generator, size: Size) -> tuple[np.ndarray, np.ndarray]:
    before = generator.beta(0.3, 0.3, size)
    return before, before


CHANGES: dict[str, Change] = {
    "some gain": Change(_gain, 0.6 * 0.5 / 4.5),
    "gains and losses": Change(_mixed, 0.6 * 0.6 / 6 - 0.4 * 0.4 / 6),
    "no difference": Change(_same, 0.0),
    "all from 0.3 to 0.5": _apart(Two(0, 0, 0.3), Two(0, 0, 0.5)),
    "both weak": _apart(Beta(0.1, 3), Beta(0.2, 3)),
    "5 % from 0.5 to 1": _apart(Two(0, 0, 0.5), Two(0.05, 1, 0.5)),
    "4 % from never to always": _apart(Two(0, 0, 0), Two(0.04, 1, 0)),
    "3 % from 0.995 to never": _apart(Two(0, 0, 0.995), Two(0.03, 0, 0.995)),
    "20 % from 0.1 to 0.9": _apart(Two(0, 0, 0.1), Two(0.2, 0.9, 0.1)),
}
