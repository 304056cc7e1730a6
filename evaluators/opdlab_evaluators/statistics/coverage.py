"""How often 95 % intervals hold the truth, over a grid of worlds where it is known.

The units of a world are problems, or training seeds. Each world is studied many times, and every interval
is computed of the same studies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from opdlab_evaluators.statistics.answer_sheets import pass_at_every_k
from opdlab_evaluators.statistics.intervals import (
    TAIL,
    combine,
    difference_interval,
    mean_interval,
    seed_interval,
    with_imaginary,
)
from opdlab_evaluators.statistics.worlds import CHANGES, DIFFICULTIES

Interval = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
PROBLEMS = (5, 8, 15, 30, 64, 175, 512)
SAMPLES = (1, 2, 4, 8, 16)
SEEDS = (2, 3, 5, 10)
COMBINED = (2, 3, 6)
EDGE = 1e-9
"""A truth at the end of an interval lies within."""


@dataclass(frozen=True)
class Coverage:
    """What one interval does in one world.

    Attributes:
        kind: of number, such as "mean@k".
        units: problems, or training seeds; of each benchmark where several are combined.
        held: share of studies whose interval holds the truth.
        length: mean length, on the scale of 0 to 1.
    """

    kind: str
    world: str
    units: int
    samples: int
    interval: str
    held: float
    length: float


def student_t(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The plain one, for comparison."""
    n = values.shape[-1]
    half = stats.t.isf(TAIL, n - 1) * values.std(-1, ddof=1) / n**0.5
    return values.mean(-1) - half, values.mean(-1) + half


def wilson(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's with the effective number of trials that the spread among problems implies, for comparison.

    Exact (Clopper and Pearson) where all problems agree. Source: Korn and Graubard 1998.

    Returns:
        Lower and upper limits, one per row of `values`.
    """
    n, mean = values.shape[-1], values.mean(-1)
    spread = np.maximum(mean * (1 - mean), 1e-300)
    r = stats.t.isf(TAIL, n - 1) ** 2 * values.var(-1, ddof=1) / n / spread
    centre, half = mean + r / 2, np.sqrt(r * spread + r**2 / 4)
    share = (1 - TAIL ** (1 / n)) * (np.ptp(values, axis=-1) == 0)
    return (
        np.minimum((centre - half) / (1 + r), mean - share * mean),
        np.maximum((centre + half) / (1 + r), mean + share * (1 - mean)),
    )


def imaginary(count: float, floor: float) -> Interval:
    """As `mean_interval`, with other numbers of imaginary problems at either end."""
    return lambda values: with_imaginary(values, None, floor, 1.0, count)


OF_MEANS: Mapping[str, Interval] = {
    "opdlab": mean_interval,
    "half of each": imaginary(0.5, 0.0),
    "Wilson": wilson,
    "Student's t": student_t,
}
OF_DIFFERENCES: Mapping[str, Interval] = {
    "opdlab": difference_interval,
    "half of each": imaginary(0.5, -1.0),
    "Student's t": student_t,
}
OF_SEEDS: Mapping[str, Interval] = {"opdlab": seed_interval}


def grid(
    studies: int,
    seed: int = 0,
    problems: Sequence[int] = PROBLEMS,
    samples: Sequence[int] = SAMPLES,
) -> Iterator[Coverage]:
    """Coverage of every interval in every world, yielded as soon as a world was simulated.

    Args:
        studies: simulated studies per world. 2,000 give a coverage of 95 % to within 1 point (two
            standard errors).
        seed: of the simulation.
        problems: numbers n of problems.
        samples: numbers k of samples per problem.

    Yields:
        One result per interval, world and numbers of problems and samples.
    """
    for n in problems:
        for k in samples:
            yield from _means(studies, seed, n, k)
            yield from _differences(studies, seed, n, k)
            yield from _combined(studies, seed, n, k)
        yield from _right_or_wrong(n)
    yield from _over_seeds(studies, seed)


def _means(studies: int, seed: int, n: int, k: int) -> Iterator[Coverage]:
    for number, (world, problem) in enumerate(DIFFICULTIES.items()):
        generator = np.random.default_rng([seed, n, k, number])
        correct = generator.binomial(k, problem.draw(generator, (studies, n)))
        yield from _held("mean@k", world, n, k, OF_MEANS, correct / k, problem.passing(1))
        if k > 1:
            at = k // 2
            passed = pass_at_every_k(correct.ravel(), np.full(studies * n, k))[:, at - 1]
            values = passed.reshape(studies, n)
            yield from _held("pass@k/2", world, n, k, OF_MEANS, values, problem.passing(at))


def _differences(studies: int, seed: int, n: int, k: int) -> Iterator[Coverage]:
    for number, (world, change) in enumerate(CHANGES.items()):
        generator = np.random.default_rng([seed, n, k, 100 + number])
        before, after = (generator.binomial(k, p) for p in change.draw(generator, (studies, n)))
        values = (after - before) / k
        yield from _held("difference", world, n, k, OF_DIFFERENCES, values, change.truth)


def _combined(studies: int, seed: int, n: int, k: int) -> Iterator[Coverage]:
    """Benchmarks of n, 2 n, 3 n, n ... problems whose worlds are drawn from all of them."""
    names = list(DIFFICULTIES)
    for count in COMBINED:
        generator = np.random.default_rng([seed, n, k, 200 + count])
        worlds = [DIFFICULTIES[names[i]] for i in generator.integers(0, len(names), count)]
        drawn = [
            generator.binomial(k, world.draw(generator, (studies, n * (1 + place % 3)))) / k
            for place, world in enumerate(worlds)
        ]
        truth, label = float(np.mean([world.passing(1) for world in worlds])), f"{count} benchmarks"
        means = np.stack([values.mean(-1) for values in drawn], -1)
        for name, interval in OF_MEANS.items():
            ends = np.stack([np.stack(interval(values)) for values in drawn], -1)
            _, low, high = combine(means, *ends)
            yield _coverage("mean over benchmarks", label, n, k, name, (low, high), truth)


def _over_seeds(studies: int, seed: int) -> Iterator[Coverage]:
    """Training moves all problems of a run together; 30 problems of 10 samples, half of them solved."""
    for n in SEEDS:
        for deviation in (0.0, 0.02, 0.1):
            generator = np.random.default_rng([seed, n, int(100 * deviation)])
            moved = np.clip(0.5 + generator.normal(0, deviation, (2, studies, n)), 0, 1)
            scores = generator.binomial(300, moved) / 300
            world = f"runs vary by {100 * deviation:g} points"
            yield from _held("over seeds", world, n, 10, OF_SEEDS, scores[1] - scores[0], 0.0)


def _right_or_wrong(n: int) -> Iterator[Coverage]:
    """The worst over every share of problems that are right, and the rest wrong: enumerated, not drawn."""
    shares = np.unique(
        np.concatenate([np.geomspace(1e-4, 0.5, 400), 1 - np.geomspace(1e-4, 0.5, 400)])
    )
    values = (np.arange(n) < np.arange(n + 1)[:, None]).astype(float)
    chance = stats.binom.pmf(np.arange(n + 1)[:, None], n, shares)
    for kind, intervals in (("any share right", OF_MEANS), ("any share won", OF_DIFFERENCES)):
        for name, interval in intervals.items():
            low, high = (end[:, None] for end in interval(values))
            held = (chance * ((low - EDGE <= shares) & (shares <= high + EDGE))).sum(0)
            worst = int(held.argmin())
            length = float((chance * (high - low)).sum(0).mean())
            label = f"{100 * shares[worst]:.2g} %"
            yield Coverage(kind, label, n, 1, name, float(held[worst]), length)


def _held(
    kind: str,
    world: str,
    n: int,
    k: int,
    intervals: Mapping[str, Interval],
    values: np.ndarray,
    truth: float,
) -> Iterator[Coverage]:
    for name, interval in intervals.items():
        yield _coverage(kind, world, n, k, name, interval(values), truth)


def _coverage(
    kind: str,
    world: str,
    n: int,
    k: int,
    name: str,
    ends: tuple[np.ndarray, np.ndarray],
    truth: float,
) -> Coverage:
    low, high = ends
    held = float(np.mean((low - EDGE <= truth) & (truth <= high + EDGE)))
    return Coverage(kind, world, n, k, name, held, float(np.mean(high - low)))
