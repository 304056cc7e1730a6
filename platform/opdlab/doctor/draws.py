"""Whether an engine's tokens are samples of the student's distribution, by what samples satisfy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from scipy.stats import kstest, norm, poisson

from opdlab.doctor.independence import independent, unforeseen, unrelated
from opdlab.doctor.lines import Line, judged, skipped
from opdlab.doctor.probe import TOKENS, Probe
from opdlab.modelling import expectation, log_distribution
from opdlab.records import Rollout
from opdlab.scoring import part, states_before_tokens
from opdlab.shapes import Float, Int, Tensor

UNSURE = 0.3
"""Nats of entropy from which a position counts as unsure: sure tokens do not tell how they were drawn."""
LEAST = 200
"""Unsure tokens below which the test has no power."""
ENOUGH = 4000.0
"""Summed variance of the log-probabilities, in square nats, that shows a temperature of 0.9."""
ROUNDS, CALLS = 32, 8
"""Calls of the engine, at most, and those that it should take."""
HELD = 1 << 15
"""Tokens of a call, prompts included, at most, or those of the probe's rows."""
WORKED_ON = 1 << 22
"""Entries of the vocabulary, of all tokens, that are worked on together, or those of one row."""
TAILS = (0.9, 0.95, 0.98, 0.99)
"""Shares of the probability beyond which tokens are counted: a nucleus leaves them out."""
BITS = (4, 6, 8, 12)
"""Of random numbers: so few never reach tokens between two multiples, which are counted."""
CHANCE = 1e-4
"""Probability, at most, that right samples fail: that of all tests together."""
_BINS_A_NAT, _BINS = 16, 512


@dataclass(frozen=True)
class Draws:
    """Tokens drawn where the student was unsure.

    Attributes:
        surprise: recorded log-probability plus entropy; its mean is 0, in nats. `Float[T]`
        variance: of that. `Float[T]`
        place, rank: where in its share of the cumulative distribution, in the order of the vocabulary and
            the likeliest first; uniform. `Float[T]`
        middle: of its share, in the order of the vocabulary, less its mean of a half. `Float[T]`
        spread: variance of that. `Float[T]`
        outside: whether likelier tokens hold so much of the probability; by `TAILS`. `Float[T n]`
        outside_chance: probability of that. `Float[T n]`
        between: whether numbers of so few bits fall beside its share; by `BITS`. `Float[T n]`
        between_chance: probability of that. `Float[T n]`
        call: of the engine, in which it was drawn. `Int[T]`
        row: answer of that call. `Int[T]`
        step: position in the answer. `Int[T]`
    """

    surprise: Float[Tensor, "T"]
    variance: Float[Tensor, "T"]
    place: Float[Tensor, "T"]
    rank: Float[Tensor, "T"]
    middle: Float[Tensor, "T"]
    spread: Float[Tensor, "T"]
    outside: Float[Tensor, "T n"]
    outside_chance: Float[Tensor, "T n"]
    between: Float[Tensor, "T n"]
    between_chance: Float[Tensor, "T n"]
    call: Int[Tensor, "T"]
    row: Int[Tensor, "T"]
    step: Int[Tensor, "T"]


def drawn_as_recorded(probe: Probe) -> Line:
    """Whether the tokens are samples of the student's distribution, each drawn by a number of its own.

    The mean of log-probability plus entropy is 0; the unlikeliest tokens, and those that few bits do not
    reach, are as many as they should be. The place of each token in its cumulative distribution, made even
    within the token's share, is uniform, and independent of the others.
    """
    what = "tokens are samples of the student's distribution"
    engine = probe.config.rollout
    if (engine.temperature, engine.top_p) != (1.0, 1.0):
        return skipped(what, "the experiment asks for samples of another distribution")
    draws = gather(probe)
    size = len(draws.place)
    if size < LEAST:
        return skipped(what, f"only {size} tokens were drawn from more than one likely one")
    chances = chances_of(draws)
    worst = min(chances, key=lambda name: chances[name])
    found = f"{size} unsure tokens; {worst}: probability {min(1.0, chances[worst]):.2g}"
    remedy = (
        "the rollout engine draws other tokens than the student would: report it, or use another"
    )
    return judged(what, chances[worst] > CHANCE / len(chances), found, remedy)


def chances_of(draws: Draws) -> dict[str, float]:
    """Probability that right samples differ so much from what is expected, by what was looked at."""
    size = len(draws.place)
    lead = float(draws.surprise.sum() / draws.variance.sum().sqrt())
    mean = float(draws.surprise.mean())
    found = {
        f"mean of log-probability and entropy {mean:+.3f} nats": 2 * norm.sf(abs(lead)),
        "places in the distribution": kstest(draws.place.cpu().numpy(), "uniform").pvalue,
        "places by likelihood": kstest(draws.rank.cpu().numpy(), "uniform").pvalue,
    }
    counted = zip(TAILS, _counts(draws.outside, draws.outside_chance), strict=True)
    for share, (count, expected) in counted:
        name = f"{count} tokens, instead of {expected:.1f}, outside of the nucleus of {share}"
        found[name] = 2 * min(poisson.cdf(count, expected), poisson.sf(count - 1, expected))
    counted = zip(BITS, _counts(draws.between, draws.between_chance), strict=True)
    for bits, (count, expected) in counted:
        name = f"{count} tokens, instead of {expected:.1f}, that {bits} random bits do not reach"
        found[name] = poisson.cdf(count, expected)
    answer = draws.call * size + draws.row
    groups = {
        "one step's tokens": draws.call * TOKENS + draws.step,
        "tokens at one row and step of all calls": draws.row * TOKENS + draws.step,
    }
    laid_out = draws.middle, draws.spread
    found["places of one answer's tokens"] = unforeseen(*laid_out, answer, draws.step)
    for name, group in groups.items():
        found[f"places of {name}"] = independent(*laid_out, group)
    apart, chance = unrelated(*laid_out, draws.call, draws.row, draws.step)
    found[f"places of {apart}"] = chance
    return {name: float(chance) for name, chance in found.items()}


def _counts(of: Float[Tensor, "T n"], chance: Float[Tensor, "T n"]) -> Iterator[tuple[int, float]]:
    yield from (
        (int(one), other) for one, other in zip(of.sum(0), chance.sum(0).tolist(), strict=True)
    )


def gather(probe: Probe) -> Draws:
    """Draws from many answers, until there are enough.

    The first call's tokens tell how many answers the next ones need. These answer one prompt each, and two
    in turn the same: what draws know of each other shows where they are from like distributions.
    """
    parts = [unsure(probe, probe.rollout, 0)]
    drawn = rows = len(probe.problems)
    longest = int(probe.rollout.prompt_lengths.max()) + TOKENS
    most = max(rows, HELD // longest)
    while (found := sum(float(one.variance.sum()) for one in parts)) < ENOUGH:
        if len(parts) == ROUNDS:
            break
        if len(parts) == 1:
            wanted = drawn * ENOUGH / max(found, 1e-9) / CALLS
            rows = int(min(max(rows, wanted), most))
        problem = probe.problems[(len(parts) - 1) // 2 % len(probe.problems)]
        parts.append(unsure(probe, probe.more(problem, range(drawn, drawn + rows)), len(parts)))
        drawn += rows
    return _joined(parts)


def _joined(parts: list[Draws]) -> Draws:
    return Draws(*(torch.cat([getattr(p, name) for p in parts]) for name in vars(parts[0])))


@torch.no_grad()
def unsure(probe: Probe, rollout: Rollout, call: int) -> Draws:
    """The draws where the student was unsure, of one call of the engine."""
    seeded = torch.Generator().manual_seed(call)
    even = torch.rand(len(rollout.token), generator=seeded, dtype=torch.float64)
    count, longest = len(rollout.tokens), int(rollout.response_lengths.max())
    together = max(1, WORKED_ON // (longest * probe.vocabulary))
    pieces = []
    for rows in torch.arange(count, device=rollout.tokens.device).split(together):
        piece, place = part(rollout, rows)
        chosen = (piece.entropy > UNSURE).nonzero()[:, 0]
        states = states_before_tokens(probe.student, piece)[chosen]
        log_p = log_distribution(probe.student, states, probe.vocabulary).double()
        surprise = (piece.log_prob + piece.entropy)[chosen].double()
        found = _of_tokens(log_p, piece.token[chosen, None], even.to(log_p.device)[place[chosen]])
        row = piece.row[chosen] + rows[0]
        where = torch.full_like(row, call), row, piece.position[chosen]
        pieces.append(Draws(*[surprise, *found, *where]))
    return _joined(pieces)


def _of_tokens(
    log_p: Float[Tensor, "T V"], token: Int[Tensor, "T one"], even: Float[Tensor, "T"]
) -> tuple[Tensor, ...]:
    """What the distributions say of the tokens, in the order of `Draws`."""
    p = log_p.exp()
    entropy = -expectation(p, log_p)
    variance = (expectation(p, log_p.square()) - entropy.square()).clamp(min=0)
    share, end = p.gather(-1, token)[:, 0], p.cumsum(-1)
    place = end.gather(-1, token)[:, 0] - share * even
    between = [((end - p) * 2.0**bits).ceil() >= end * 2.0**bits for bits in BITS]
    # Likeliest first, to a 16th of a nat: sorting takes many times as long.
    bins = (-log_p * _BINS_A_NAT).clamp(0, _BINS - 1).long()
    mass = torch.zeros(len(p), _BINS, dtype=p.dtype, device=p.device).scatter_add_(1, bins, p)
    before = mass.cumsum(-1) - mass
    mine = bins.gather(-1, token)
    rank = (before + mass * even[:, None]).gather(-1, mine)[:, 0]
    beyond = [before >= share for share in TAILS]
    return (
        variance,
        place.clamp(0, 1),
        rank.clamp(0, 1),
        end.gather(-1, token)[:, 0] - share / 2 - 0.5,
        (1 - p.pow(3).sum(-1)) / 12,
        torch.stack([one.gather(-1, mine)[:, 0] for one in beyond], -1).double(),
        torch.stack([(mass * one).sum(-1) for one in beyond], -1),
        torch.stack([one.gather(-1, token)[:, 0] for one in between], -1).double(),
        torch.stack([(p * one).sum(-1) for one in between], -1),
    )
