"""The sigmoid of decay and its least squares, for many curves at once.

`F(t) = b + A / (1 + exp(eps * (t - t_star)))` with 0 <= A, 0 <= b and b + A <= 1: F is a probability, and a
curve that begins near 1 must not be fitted by one that comes from above it.
"""

from __future__ import annotations

import numpy as np

from opdlab.shapes import Float

NAMES: tuple[str, ...] = ("A", "eps", "t_star", "b")
FLATTEST, SHARPEST = 0.5, 3.0
"""Slopes looked at: the first times the span of the positions, below which a curve is a straight line
there; the second times the width of a bin, above which most of the fall is within one."""
_ZOOMS, _FINE = 8, 9


def sigmoid(
    t: Float[np.ndarray, "..."], amplitude: float, eps: float, t_star: float, floor: float
) -> Float[np.ndarray, "..."]:
    """F(t) = b + A / (1 + exp(eps (t - t_star))), with the parameters in the order of `NAMES`."""
    return floor + amplitude * falling(eps * (t - t_star))


def falling(z: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """1 / (1 + exp(z)), without overflow."""
    return 0.5 * (1 - np.tanh(0.5 * z))


def ranges(t: Float[np.ndarray, "bins"]) -> tuple[float, float, float, float]:
    """Slopes and boundaries looked at: the boundary up to half a span outside of what was seen."""
    span = t[-1] - t[0]
    width = float(np.median(np.diff(t)))
    return FLATTEST / span, SHARPEST / width, t[0] - span / 2, t[-1] + span / 2


def search(
    t: Float[np.ndarray, "bins"],
    mean: Float[np.ndarray, "R bins"],
    count: Float[np.ndarray, "R bins"],
    bounded: bool = True,
) -> Float[np.ndarray, "R 4"]:
    """Least squares for many curves at once.

    A and b enter linearly, so only slope and boundary are searched: on a grid, then on ever finer ones
    around the best place.

    Args:
        bounded: within what probabilities can be; without it only A >= 0.
    """
    flat, sharp, first, last = ranges(t)
    log_eps, star = np.linspace(np.log(flat), np.log(sharp), 40), np.linspace(first, last, 60)
    grid = np.stack(np.meshgrid(log_eps, star, indexing="ij"), -1).reshape(-1, 2)
    shape = falling(np.exp(grid[:, :1]) * (t - grid[:, 1:]))
    best = grid[_levels(shape, mean, count, bounded)[2].argmin(1)]
    steps = np.array([log_eps[1] - log_eps[0], star[1] - star[0]])
    near = np.stack(np.meshgrid(*[np.linspace(-1, 1, _FINE)] * 2, indexing="ij"), -1).reshape(-1, 2)
    low, high = np.array([np.log(flat), first]), np.array([np.log(sharp), last])
    for _ in range(_ZOOMS):
        tried = np.clip(best[:, None] + near * steps, low, high)
        shape = falling(np.exp(tried[..., :1]) * (t - tried[..., 1:]))
        chosen = _levels(shape, mean, count, bounded)[2].argmin(1)
        best = tried[np.arange(len(best)), chosen]
        steps = steps * 0.4
    shape = falling(np.exp(best[:, :1]) * (t - best[:, 1:]))[:, None]
    A, b, _ = _levels(shape, mean, count, bounded)
    return np.stack([A[:, 0], np.exp(best[:, 0]), best[:, 1], b[:, 0]], -1)


def _levels(
    shape: Float[np.ndarray, "..."],
    mean: Float[np.ndarray, "R bins"],
    count: Float[np.ndarray, "R bins"],
    bounded: bool,
) -> tuple[Float[np.ndarray, "R G"], Float[np.ndarray, "R G"], Float[np.ndarray, "R G"]]:
    """Best amplitude and floor of given shapes (`[G bins]` or `[R G bins]`), and the squares left.

    The squares are convex in both: where their least is not allowed, it is at a limit.
    """
    w = count / count.sum(-1, keepdims=True)
    pattern = "rt,gt->rg" if shape.ndim == 2 else "rt,rgt->rg"
    s, ss = np.einsum(pattern, w, shape), np.einsum(pattern, w, shape**2)
    sf = np.einsum(pattern, w * mean, shape)
    f, ff = (w * mean).sum(-1, keepdims=True), (w * mean**2).sum(-1, keepdims=True)

    def left(
        amplitude: Float[np.ndarray, "R G"], floor: Float[np.ndarray, "R G"]
    ) -> Float[np.ndarray, "R G"]:
        crossed = 2 * floor * f + 2 * amplitude * sf - 2 * amplitude * floor * s
        return ff + floor**2 + amplitude**2 * ss - crossed

    A = np.maximum((sf - s * f) / np.maximum(ss - s**2, 1e-14), 0.0)
    b = f - A * s
    if not bounded:
        return A, b, left(A, b)
    from_one = np.clip((1 - f - s + sf) / np.maximum(1 - 2 * s + ss, 1e-14), 0.0, 1.0)
    to_zero = np.clip(sf / np.maximum(ss, 1e-14), 0.0, 1.0)
    better = left(from_one, 1 - from_one) <= left(to_zero, np.zeros_like(to_zero))
    allowed = (b >= 0) & (b + A <= 1)
    A = np.where(allowed, A, np.where(better, from_one, to_zero))
    b = np.where(allowed, b, np.where(better, 1 - from_one, 0.0))
    return A, b, left(A, b)
