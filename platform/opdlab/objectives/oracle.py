"""The exact-gradient oracle: which true gradient does an objective's expected gradient equal?

A method's own code runs on every batch of answers of a `World`, each weighted by its probability.
Its expected gradient is then explained as a sum of at most three true gradients, or it is said that
none fits. Several worlds are explained at once, so that nothing fits by chance.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import combinations, product
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from opdlab.errors import PluginError
from opdlab.methods import Method, importance
from opdlab.modelling import Listed
from opdlab.objectives.outcome_factor import outcome_factor
from opdlab.objectives.tiny_world import World, make_world
from opdlab.objectives.true_gradients import LABELS, true_gradients
from opdlab.plugins import declared, returned
from opdlab.records import Supervision
from opdlab.shapes import Float, Tensor

EXACT = 1e-8
"""Relative difference below which two gradients in float64 are the same."""
_TERMS = 3
DEEPER = (3, 3)
"""Vocabulary and length of the deeper worlds."""
WIDER = (3, 1)
"""Of those with two groups."""


@dataclass(frozen=True)
class Setting:
    """How large the worlds are, and how the trainer weighs answers.

    Attributes:
        vocabulary, length: of a world.
        rows: answers of one prompt in a batch; methods that compare answers need two or more.
        groups: that the rows are shared out to, each compared within itself.
        worlds: explained at once.
        deeper: further worlds of three tokens, with answers of three: in answers of two a discount that
            does not compound cannot be seen. A method that compares answers gets as many worlds with two
            groups: in one, the deviation of a batch is that of its group.
        stale: how far, in logits, the student has moved since it wrote the answers.
        truncation: largest importance weight of a token, where answers are those of one step ahead
            (`rollout.ahead`); None where they are not.
        temperature, top_p: how answers are drawn.
        listed: whether the teacher tells some tokens alone, which a method may take without the vocabulary:
            all that it needs.
        sequence_mean: the trainer's `normalisation: sequence_mean`. Its other one, the mean over all
            tokens, is taken as a sum here: where batches are large, their number is constant.
    """

    vocabulary: int = 4
    length: int = 2
    rows: int = 2
    groups: int = 1
    worlds: int = 2
    deeper: int = 1
    stale: float = 0.0
    sequence_mean: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    listed: bool = False
    truncation: float | None = None

    def made(self, method: Method) -> Iterator[tuple[World, Setting]]:
        """The worlds for a method, each with its setting."""
        drawn = (method.sampler, self.stale, self.temperature, self.top_p)
        drawn = (*drawn, self.truncation is not None)
        for seed in range(self.worlds):
            yield make_world(seed, self.vocabulary, self.length, *drawn), self
        alone = self if method.graded else replace(self, rows=1)
        for seed in range(self.worlds, self.worlds + self.deeper):
            yield make_world(seed, *DEEPER, *drawn), alone
            if method.graded:
                yield make_world(seed, *WIDER, *drawn), replace(self, rows=4, groups=2)


@dataclass(frozen=True)
class Finding:
    """What an objective's expected gradient is.

    Attributes:
        terms: true gradients with their factors, the lowest and highest over worlds; empty for zero, None
            where no sum of them fits.
        declared: whether the contract's sum is equal to it; None where the contract declares none.
        difference: relative distance to the contract's sum; without one, to the nearest single one.
        nearest: that single one.
    """

    terms: Mapping[str, tuple[float, float]] | None
    declared: bool | None
    difference: float
    nearest: str

    def __str__(self) -> str:
        if self.terms is None:
            return f"none of the known ones (nearest: {LABELS[self.nearest]})"
        if not self.terms:
            return "zero: it trains nothing"
        return _said(self.terms)


def examine(method: Method, setting: Setting | None = None) -> Finding:
    """Enumerate a method's expected gradient and explain it."""
    setting = setting or Setting()
    declared.method(method)
    targets, columns, factors = [], [], []
    for world, its_own in setting.made(method):
        targets.append(expected_gradient(method, world, its_own))
        columns.append(true_gradients(world, method, setting.sequence_mean))
        factors.append(outcome_factor(world, method, its_own.rows, its_own.groups))
    names = [name for name in LABELS if all(name in c for c in columns)]
    # Zeros where a world has fewer logits than another: they fit anything.
    table = pad_sequence([torch.stack([c[n] for n in names], -1) for c in columns], True)
    target = pad_sequence(targets, True)
    nearest, gap = _nearest(names, table, target)
    claim = declared.contract(method).gradient
    if unknown := [name for name in claim if name not in names]:
        raise PluginError(
            f"{returned.name_of(method)}.contract: gradient names {unknown[0]!r}, which is no true "
            f"gradient of this objective; known: {', '.join(names)}"
        )
    if not claim:
        return Finding(_explain(names, table, target), None, gap, nearest)
    known = (
        {"raise_outcome": torch.tensor(factors, dtype=target.dtype)} if None not in factors else {}
    )
    terms, gap = _check(claim, names, table, target, known)
    if gap < EXACT:
        return Finding(terms, True, gap, nearest)
    return Finding(_explain(names, table, target), False, gap, nearest)


def expected_gradient(method: Method, world: World, setting: Setting) -> Float[Tensor, "n"]:
    """Of the sum of token losses an answer, by the student's logits, over every batch there is."""
    states, weights, pieces = [], [], []
    possible = [answer for answer, p in world.probability.items() if p > 0]
    for answers in product(possible, repeat=setting.rows):
        rollout = world.rollout(answers, method.group, setting.groups)
        questions = returned.questions(method, rollout, world.vocabulary)
        scores = world.scores(rollout, questions)
        pieces.append(returned.supervision(method, rollout, scores, world.vocabulary))
        states.append(world.state_of(rollout))
        p = math.prod(world.probability[answer] for answer in answers)
        weight = torch.full_like(rollout.log_prob, p / setting.rows)
        if setting.truncation is not None:
            weight = weight * importance(method, rollout, setting.truncation)
        if setting.sequence_mean:
            weight = weight / rollout.response_lengths[rollout.row]
        weights.append(weight)
    state = torch.cat(states)
    losses = _losses(method, world, state, _together(pieces), setting.listed)
    if not bool(losses.isfinite().all()):
        where = f"{returned.name_of(method)}.token_loss"
        count = int((~losses.isfinite()).sum())
        raise PluginError(f"{where}: {count} of {len(losses)} losses are not finite")
    (gradient,) = torch.autograd.grad((torch.cat(weights) * losses).sum(), world.student)
    return gradient.flatten()


def _losses(
    method: Method, world: World, state: Tensor, supervision: Supervision, listed: bool
) -> Float[Tensor, "T"]:
    """The method's own, of tokens in these states."""
    if not listed:
        student = world.student.log_softmax(-1)[state]
        teacher = world.teacher[state] if method.full else None
        return returned.TokenLoss(method)(student, teacher, supervision)
    top = world.teacher[state].topk(world.vocabulary, -1)
    told = Listed(top.indices, top.values)
    if top_k := method.needs.top_k:
        told = told.likeliest(top_k)
    student, teacher, _ = told.compared(world.student[state], slice(None))
    return returned.TokenLoss(method, "listed_loss")(student, teacher, supervision)


def _together(pieces: Sequence[Supervision]) -> Supervision:
    tensors = [f.name for f in fields(Supervision) if f.name != "metrics"]
    parts: dict[str, Any] = {
        name: torch.cat([getattr(piece, name) for piece in pieces]) for name in tensors
    }
    return Supervision(**parts)


def _fit(table: Float[Tensor, "n m"], target: Float[Tensor, "n"]) -> tuple[list[float], float]:
    """Factors of the columns, and what they leave of the target, relative."""
    size = table.norm(dim=0).clamp(min=1e-300)
    factors = torch.linalg.lstsq(table / size, target[:, None]).solution[:, 0] / size
    return factors.tolist(), float((table @ factors - target).norm() / target.norm())


def _is_zero(table: Float[Tensor, "W n m"], target: Float[Tensor, "W n"]) -> bool:
    return float(target.norm()) < EXACT * float(table[..., 0].norm())


def _nearest(
    names: Sequence[str], table: Float[Tensor, "W n m"], target: Float[Tensor, "W n"]
) -> tuple[str, float]:
    if _is_zero(table, target):
        return names[0], 1.0
    gaps = [_fit(table[..., i].reshape(-1, 1), target.flatten())[1] for i in range(len(names))]
    best = min(range(len(names)), key=gaps.__getitem__)
    return names[best], gaps[best]


def _explain(
    names: Sequence[str], table: Float[Tensor, "W n m"], target: Float[Tensor, "W n"]
) -> dict[str, tuple[float, float]] | None:
    """The fewest true gradients that give the target: one factor for all worlds, or else one each."""
    if _is_zero(table, target):
        return {}
    there = [i for i in range(len(names)) if float(table[..., i].norm()) > 1e-9]
    for count in range(1, _TERMS + 1):
        for chosen in combinations(there, count):
            factors, gap = _fit(table[..., list(chosen)].reshape(-1, count), target.flatten())
            if gap < EXACT and min(map(abs, factors)) > 1e-6:
                return {names[i]: (f, f) for i, f in zip(chosen, factors, strict=True)}
    for i in there:
        fits = [_fit(t[:, [i]], g) for t, g in zip(table, target, strict=True)]
        found = [factors[0] for factors, _ in fits]
        if max(gap for _, gap in fits) < EXACT and min(found) * max(found) > 0:
            return {names[i]: (min(found), max(found))}
    return None


def _check(
    claim: Mapping[str, float | None],
    names: Sequence[str],
    table: Float[Tensor, "W n m"],
    target: Float[Tensor, "W n"],
    known: Mapping[str, Float[Tensor, "W"]],
) -> tuple[dict[str, tuple[float, float]], float]:
    """The declared sum with its free factors, and its relative distance to the target.

    Args:
        known: the factors of each world that a formula gives; others are found by the target itself.
    """
    terms: dict[str, tuple[float, float]] = {}
    left = target.clone()
    for name, factor in claim.items():
        if factor is not None:
            left -= factor * table[..., names.index(name)]
            terms[name] = (factor, factor)
    free = [name for name, factor in claim.items() if factor is None]
    for name in free:
        column = table[..., names.index(name)]
        fitted = (column * left).sum(-1) / column.square().sum(-1).clamp(min=1e-300)
        factors = known.get(name, fitted)
        left = left - factors.clamp(min=0)[:, None] * column
        terms[name] = (float(factors.min()), float(factors.max()))
    larger = max(float(target.norm()), float((target - left).norm()))
    return terms, float(left.norm()) / larger


def _said(terms: Mapping[str, tuple[float, float]]) -> str:
    """Terms as a person writes them: `reverse KL - 0.5 x forward KL, raises outcome`."""
    text = ""
    for name, (low, high) in terms.items():
        near = abs(high - low) < 1e-6 * abs(high)
        factor = f"{abs(low):.3g}" if near else f"{abs(low):.3g} to {abs(high):.3g}"
        if name.startswith("raise_"):
            word = "raises" if low > 0 else "lowers"
            piece = f"{word} the {LABELS[name]}" + ("" if factor == "1" else f" x {factor}")
            text += f", {piece}" if text else piece
        else:
            sign = "-" if low < 0 else ("+" if text else "")
            piece = LABELS[name] if factor == "1" else f"{factor} x {LABELS[name]}"
            text += f" {sign} {piece}" if text else f"{sign}{piece}"
    return text
