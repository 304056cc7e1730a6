"""Supervision fidelity as statistics: the sigmoid of its decay, its boundary, how far two models are apart.

Fitted is `F(t) = b + A / (1 + exp(eps * (t - t_star)))`, t in thousands of tokens: the floor b, the
amplitude A, the slope eps per thousand tokens, and the boundary t_star. It is fitted to how F moves
*within* problems: late positions hold only the problems whose answers are long, and were the teacher less
sure of those from their first token on, a mean over whoever still writes would fall where no answer does.
Intervals come from a bootstrap over problems, whose positions are not independent of each other. A fit
that the data do not determine is "not identified", and says why: parameters of a curve that was not seen
are no findings.

Source: arXiv:2605.30833, section 3 (the form of the curve; the rules of refusal are ours).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.sparse.csgraph import connected_components

from opdlab.diagnosis.sigmoid import NAMES, ranges, search, sigmoid
from opdlab.errors import DataError
from opdlab.shapes import Float

FEWEST_BINS = 6
LEVEL = 0.95
ROUNDING = 1e-6
"""Differences of probabilities, or nats, that float32 makes of equal numbers."""
LEEWAY = 0.1
"""How far the limits of A and b may move t_star, as a share of the positions seen."""


@dataclass(frozen=True, eq=False)
class Curves:
    """Fidelity of each problem's responses by position.

    Attributes:
        position: middle of each bin, in thousands of tokens, ascending. `Float[bins]`
        total: sum of F over the tokens of a problem in a bin. `Float[problems bins]`
        count: how many tokens those are; 0 where no response of a problem is so long.
            `Float[problems bins]`
    """

    position: Float[np.ndarray, "bins"]
    total: Float[np.ndarray, "problems bins"]
    count: Float[np.ndarray, "problems bins"]

    def mean(self) -> Float[np.ndarray, "bins"]:
        """F(t) of whoever still writes: mean over the problems that reach a bin; NaN where none does."""
        each = self.each()
        reached = np.isfinite(each).sum(0)
        with np.errstate(invalid="ignore"):
            return np.nansum(each, 0) / np.where(reached > 0, reached, np.nan)

    def each(self) -> Float[np.ndarray, "problems bins"]:
        """Mean F of each problem in each bin; NaN where its answers are not so long."""
        return self.total / np.where(self.count > 0, self.count, np.nan)

    def within(
        self, times: Float[np.ndarray, "R problems"] | None = None
    ) -> tuple[Float[np.ndarray, "R bins"], Float[np.ndarray, "R bins"]]:
        """How F moves within problems, and the tokens that a bin holds.

        Least squares of F = level of the problem + curve of the position, over all tokens. The curve has
        the mean of all tokens; where every problem reaches every bin it is their plain mean.

        Args:
            times: how often each problem counts, in each replicate; once, where it is left out.

        Returns:
            The curve of each replicate, NaN in bins that it does not hold, and its counts.
        """
        times = np.ones((1, len(self.total))) if times is None else times
        count = times @ self.count
        tokens = np.maximum(self.count.sum(1, keepdims=True), 1e-12)
        bins = len(self.position)
        shared = np.einsum("pt,ps->pts", self.count, self.count / tokens).reshape(-1, bins * bins)
        normal = np.eye(bins) * count[:, None] - (times @ shared).reshape(-1, bins, bins)
        level = self.total.sum(1, keepdims=True) / tokens
        moved = times @ (self.total - self.count * level)
        curve = np.einsum("rts,rs->rt", np.linalg.pinv(normal, 1e-9, hermitian=True), moved)
        whole = np.maximum(count.sum(1, keepdims=True), 1e-12)
        overall = (times @ self.total).sum(1, keepdims=True) / whole
        curve += overall - (curve * count).sum(1, keepdims=True) / whole
        return np.where(count > 0, curve, np.nan), count

    def of_all(
        self, times: Float[np.ndarray, "R problems"] | None = None
    ) -> Float[np.ndarray, "R bins"]:
        """F(t) if the answers to every problem were that long: how F moves within problems, at the mean of
        their levels. Where every problem reaches every bin it is their plain mean.

        Args:
            times: as in `within`; NaN in bins that a replicate does not hold.
        """
        times = np.ones((1, len(self.total))) if times is None else times
        curve, _ = self.within(times)
        tokens = self.count.sum(1)
        moved = np.nan_to_num(curve) @ self.count.T
        level = (self.total.sum(1) - moved) / np.maximum(tokens, 1e-12)
        weight = times * (tokens > 0)
        share = weight / np.maximum(weight.sum(1, keepdims=True), 1e-12)
        return curve + (share * level).sum(1, keepdims=True)

    def parts(self) -> int:
        """Groups of bins that no problem joins; of more than one, how F moves between them is not known."""
        joined = (self.count > 0).astype(float)
        return int(connected_components(joined.T @ joined, directed=False)[0])


@dataclass(frozen=True)
class Fit:
    """A fitted sigmoid.

    Attributes:
        values, intervals: by name (`A`, `eps`, `t_star`, `b`); 95 % over problems. Where the fit is not
            identified they are for looking at only.
        r_squared: share of the variance between bins that the curve explains, weighted by tokens.
        reasons: why it is not identified; empty where it is.
        problems, bins: what it rests on.
    """

    values: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    r_squared: float
    reasons: tuple[str, ...]
    problems: int
    bins: int

    @property
    def identified(self) -> bool:
        return not self.reasons

    def __str__(self) -> str:
        based = f"n = {self.problems} problems, {self.bins} bins"
        if self.reasons:
            return f"not identified ({based}): {'; '.join(self.reasons)}"
        shown = [
            f"{name} {self.values[name]:.4g} [{low:.4g}, {high:.4g}]"
            for name, (low, high) in self.intervals.items()
        ]
        return f"{', '.join(shown)}, R^2 {self.r_squared:.4f} ({based})"


def fit(curves: Curves, replicates: int = 1000, seed: int = 0) -> Fit:
    """Fit the sigmoid by least squares over bins, weighted by tokens.

    Raises:
        DataError: there is nothing to fit.
    """
    curves = _with_data(curves)
    problems, bins = len(curves.total), len(curves.position)
    why = ""
    if bins < FEWEST_BINS or problems < 2:
        why = f"{bins} bins of {problems} problems hold data; {FEWEST_BINS} of 2 are needed"
    elif curves.parts() > 1:
        why = "no problem's answers are both early and late enough to join all positions"
    if why:
        nothing = dict.fromkeys(NAMES, float("nan"))
        spans = dict.fromkeys(NAMES, (float("nan"), float("nan")))
        return Fit(nothing, spans, float("nan"), (why,), problems, bins)
    mean, count = curves.within()
    best, free = (search(curves.position, mean, count, bounded)[0] for bounded in (True, False))
    draws = _resample(curves, np.random.default_rng(seed), replicates)
    spread = search(curves.position, np.nan_to_num(draws[0]), draws[1])
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(spread, [tail, 1 - tail], axis=0)
    values = dict(zip(NAMES, best.tolist(), strict=True))
    intervals = dict(zip(NAMES, zip(low.tolist(), high.tolist(), strict=True), strict=True))
    r_squared = _explained(curves, best)
    boundary = float(free[NAMES.index("t_star")])
    reasons = _doubts(curves, values, intervals, spread, draws[0], r_squared, boundary)
    return Fit(values, intervals, r_squared, tuple(reasons), problems, bins)


@dataclass(frozen=True)
class Shift:
    """How far a boundary moved, in thousands of tokens; positive is outwards.

    Attributes:
        value, interval: of t_star after, minus before; NaN where one of the fits is not identified.
        before, after: the fits.
        p: of "no shift", from the bootstrap.
        claims: so many changes are told together, over which p is corrected (Bonferroni).
    """

    value: float
    interval: tuple[float, float]
    before: Fit
    after: Fit
    p: float = 1.0
    claims: int = 1

    def __str__(self) -> str:
        if not (self.before.identified and self.after.identified):
            which = [n for n in ("before", "after") if not getattr(self, n).identified]
            return f"the shift is not identified: the fit {' and the fit '.join(which)} is not"
        low, high = self.interval
        shown = self.p * self.claims < 1 - LEVEL
        word = "outwards" if low > 0 else "inwards"
        word = word if shown and not low <= 0 <= high else "no shift is shown"
        return f"t_star moved by {self.value:+.3g}k [{low:+.3g}, {high:+.3g}]: {word}"


def shift(before: Curves, after: Curves, replicates: int = 1000, seed: int = 0) -> Shift:
    """Whether training moved the boundary, problem by problem: both curves are of the same problems.

    Raises:
        DataError: they are not of equally many problems.
    """
    if len(before.total) != len(after.total):
        raise DataError(
            f"curves of {len(before.total)} and {len(after.total)} problems cannot be paired; measure "
            "both models on the same problems, in one order"
        )
    fits = fit(before, replicates, seed), fit(after, replicates, seed)
    if not all(one.identified for one in fits):
        return Shift(float("nan"), (float("nan"), float("nan")), *fits)
    boundary = NAMES.index("t_star")
    # The same seed draws the same problems for both, so that what they share cancels.
    drawn = []
    for curves in map(_with_data, (before, after)):
        mean, count = _resample(curves, np.random.default_rng(seed), replicates)
        drawn.append(search(curves.position, np.nan_to_num(mean), count))
    moved = drawn[1][:, boundary] - drawn[0][:, boundary]
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(moved, [tail, 1 - tail]).tolist()
    rarer = min(int((moved <= 0).sum()), int((moved >= 0).sum()))
    p = min(1.0, max(2 * rarer, 1) / len(moved))
    return Shift(fits[1].values["t_star"] - fits[0].values["t_star"], (low, high), *fits, p)


def effective_horizon(curves: Curves, least: float) -> float:
    """The last position, in thousands of tokens, with F(t) above `least` (see `Curves.of_all`); NaN without
    one."""
    above = curves.position[np.nan_to_num(curves.of_all()[0], nan=-np.inf) > least]
    return float(above.max()) if len(above) else float("nan")


@dataclass(frozen=True)
class PairDistance:
    """How alike two models judge the same tokens: Pearson's r, and the slope of teacher on student."""

    r: float
    slope: float
    tokens: int


def varies(values: Float[np.ndarray, "n"]) -> bool:
    """Whether numbers that were computed in float32 differ by more than its rounding."""
    return bool(np.ptp(values) > ROUNDING)


def pair_distance(student: Float[np.ndarray, "n"], teacher: Float[np.ndarray, "n"]) -> PairDistance:
    """Of log-probabilities of the same tokens.

    Raises:
        DataError: fewer than three tokens, or one of the two does not vary.
    """
    if len(student) < 3 or not (varies(student) and varies(teacher)):
        raise DataError(
            "a pair distance needs three tokens or more with differing log-probabilities"
        )
    r = float(np.corrcoef(student, teacher)[0, 1])
    return PairDistance(r, r * float(teacher.std() / student.std()), len(student))


def _with_data(curves: Curves) -> Curves:
    """Only bins and problems that hold tokens."""
    rows, bins = curves.count.sum(1) > 0, curves.count.sum(0) > 0
    if not bins.any():
        raise DataError("the curves hold no tokens; there is nothing to fit")
    held = np.ix_(rows, bins)
    return Curves(curves.position[bins], curves.total[held], curves.count[held])


def _explained(curves: Curves, parameters: Float[np.ndarray, "4"]) -> float:
    """R^2: share of the variance between bins, weighted by tokens."""
    (mean,), (count,) = curves.within()
    left = np.average((mean - sigmoid(curves.position, *parameters)) ** 2, weights=count)
    whole = np.average((mean - np.average(mean, weights=count)) ** 2, weights=count)
    return float(1 - left / max(whole, 1e-30))


def _resample(
    curves: Curves, draw: np.random.Generator, replicates: int
) -> tuple[Float[np.ndarray, "R bins"], Float[np.ndarray, "R bins"]]:
    """Curve within problems and token counts of replicates, problems drawn with replacement."""
    problems = len(curves.total)
    times = draw.multinomial(problems, np.full(problems, 1 / problems), size=replicates)
    return curves.within(times.astype(float))


def _doubts(
    curves: Curves,
    values: Mapping[str, float],
    intervals: Mapping[str, tuple[float, float]],
    spread: Float[np.ndarray, "R 4"],
    drawn: Float[np.ndarray, "R bins"],
    r_squared: float,
    free: float,
) -> list[str]:
    """Why the data do not determine the curve."""
    t = curves.position
    flat, sharp, _, _ = ranges(t)
    A, eps, t_star, b = (values[name] for name in NAMES)
    fall = float(np.subtract(*sigmoid(t[[0, -1]], A, eps, t_star, b)))
    noise = float(np.nanstd(drawn[:, 0] - drawn[:, -1]))
    if fall < 3 * noise or fall <= 0:
        return [f"flat: the fitted curve falls by {fall:.3g}, with a standard error of {noise:.2g}"]
    low, high = intervals["t_star"]
    ends = (spread[:, 1] < 1.02 * flat) | (spread[:, 1] > 0.98 * sharp) | (spread[:, 0] <= 0)
    seen = f"{t[0]:.3g}k to {t[-1]:.3g}k"
    doubts = {
        f"t_star ({t_star:.3g}k) is outside of the observed range, {seen}": not t[0]
        < t_star
        < t[-1],
        f"eps is at its lower bound, {flat:.3g}: a straight line fits as well": eps < 1.02 * flat,
        f"eps is at its upper bound, {sharp:.3g}: a step fits as well": eps > 0.98 * sharp,
        f"t_star is where the limits of b and b + A put it, and {free:.3g}k without them": abs(
            t_star - free
        )
        > LEEWAY * (t[-1] - t[0]),
        f"the interval of t_star [{low:.3g}k, {high:.3g}k] spans more than half of what was seen": high
        - low
        > (t[-1] - t[0]) / 2,
        f"{ends.mean():.0%} of the bootstrap's fits end at a bound": ends.mean() > 0.1,
        f"the curve explains {r_squared:.0%} of the variance between bins": r_squared < 0.5,
    }
    return [why for why, holds in doubts.items() if holds]
