"""Whether an engine's tokens are samples of the student's distribution, by what samples satisfy."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

import torch
from scipy.stats import chi2, kstest, norm, poisson

from opdlab.doctor.lines import Line, judged, skipped
from opdlab.doctor.probe import TOKENS, Probe
from opdlab.modelling import expectation, log_distribution
from opdlab.records import Rollout
from opdlab.scoring import states_before_tokens
from opdlab.shapes import Float, Int, Tensor

UNSURE = 0.3
"""Nats of entropy from which a position counts as unsure: sure tokens do not tell how they were drawn."""
LEAST, ENOUGH = 20, 1000
"""Unsure tokens below which the test has no power, and from which it sees a nucleus of 0.9."""
ROUNDS = 32
"""Times that the prompts are answered while there are not enough."""
TAIL = 0.95
"""Share of the probability beyond which tokens are counted: a nucleus leaves them out."""
CHANCE = 1e-4
"""Probability with which each number of samples that are right is called wrong."""


@dataclass(frozen=True)
class Draws:
    """Tokens drawn where the student was unsure.

    Attributes:
        surprise: log-probability plus entropy; its mean is 0, in nats. `Float[T]`
        variance: of that. `Float[T]`
        place: where in the token's share of the cumulative distribution; uniform. `Float[T]`
        outside: whether likelier tokens hold TAIL of the probability. `Float[T]`
        outside_chance: probability of that. `Float[T]`
        row: answer that each stands in. `Int[T]`
        step: at which it was drawn, together with others. `Int[T]`
        spot: prompt and position, which several rounds of answers share. `Int[T]`
    """

    surprise: Float[Tensor, "T"]
    variance: Float[Tensor, "T"]
    place: Float[Tensor, "T"]
    outside: Float[Tensor, "T"]
    outside_chance: Float[Tensor, "T"]
    row: Int[Tensor, "T"]
    step: Int[Tensor, "T"]
    spot: Int[Tensor, "T"]


def drawn_as_recorded(probe: Probe) -> Line:
    """Whether the tokens are samples of the student's distribution, each drawn by a number of its own.

    The mean of log-probability plus entropy is 0, and the unlikeliest tokens are as many as they should
    be. The place of each token in its cumulative distribution, made even within the token's share, is
    uniform, and independent of the others of its answer, of those that are drawn in the same step, and of
    those at the same position of other answers to the prompt.
    """
    what = "tokens are samples of the student's distribution"
    engine = probe.config.rollout
    if (engine.temperature, engine.top_p) != (1.0, 1.0):
        return skipped(what, "the experiment asks for samples of another distribution")
    draws = gather(probe)
    size = len(draws.place)
    if size < LEAST:
        return skipped(what, f"only {size} tokens were drawn from more than one likely one")
    lead = float(draws.surprise.sum() / draws.variance.sum().sqrt())
    tail, expected = int(draws.outside.sum()), float(draws.outside_chance.sum())
    mean = float(draws.surprise.mean())
    chances = {
        f"mean of log-probability and entropy {mean:+.3f} nats": 2 * norm.sf(abs(lead)),
        f"{tail} tokens, in place of {expected:.1f}, outside of the nucleus of {TAIL}": 2
        * min(poisson.cdf(tail, expected), poisson.sf(tail - 1, expected)),
        "places in the distribution": kstest(draws.place.cpu().numpy(), "uniform").pvalue,
        "places of one answer's tokens": independent(draws.place, draws.row),
        "places of one step's tokens": independent(draws.place, draws.step),
        "places at one position of several answers": independent(draws.place, draws.spot),
    }
    worst = min(chances, key=lambda name: chances[name])
    found = f"{size} unsure tokens; {worst}: probability {min(1.0, chances[worst]):.2g}"
    remedy = (
        "the rollout engine draws other tokens than the student would: report it, or use another"
    )
    return judged(what, bool(chances[worst] > CHANCE), found, remedy)


def gather(probe: Probe) -> Draws:
    """Draws from several answers to each prompt, until there are enough."""
    parts: list[Draws] = []
    for number in count():
        parts.append(unsure(probe, probe.again(number), number))
        if number + 1 == ROUNDS or sum(len(part.place) for part in parts) >= ENOUGH:
            break
    return Draws(*(torch.cat([getattr(p, name) for p in parts]) for name in vars(parts[0])))


@torch.no_grad()
def unsure(probe: Probe, rollout: Rollout, number: int) -> Draws:
    """The draws where the student was unsure, of a rollout that is one of several."""
    states = states_before_tokens(probe.student, rollout)
    log_p = log_distribution(probe.student, states, probe.vocabulary).double()
    p = log_p.exp()
    entropy = -expectation(p, log_p)
    token = rollout.token[:, None]
    own, mass = (x.gather(-1, token)[:, 0] for x in (log_p, p))
    seeded = torch.Generator().manual_seed(number)
    even = torch.rand(len(mass), generator=seeded, dtype=torch.float64).to(mass.device)
    place = (p.cumsum(-1).gather(-1, token)[:, 0] - mass * even).clamp(0, 1)
    variance = (expectation(p, log_p.square()) - entropy.square()).clamp(min=0)
    likely, order = p.sort(-1, descending=True)
    beyond = likely.cumsum(-1) - likely >= TAIL
    outside = (beyond & (order == token)).any(-1).double()
    outside_chance = (likely * beyond).sum(-1)
    row = rollout.row + number * len(rollout.tokens)
    step = rollout.position + number * TOKENS
    spot = rollout.row * TOKENS + rollout.position
    chosen = entropy > UNSURE
    found = (own + entropy, variance, place, outside, outside_chance, row, step, spot)
    return Draws(*(one[chosen] for one in found))


def independent(place: Float[Tensor, "T"], group: Int[Tensor, "T"]) -> float:
    """Probability that uniform places which know nothing of their group differ so much, or so little,
    between groups.

    Sums within groups, each of variance 1/12 a token, against a chi-square of one degree a group.
    """
    _, member, size = group.unique(return_inverse=True, return_counts=True)
    sums = torch.zeros(len(size), dtype=place.dtype, device=place.device)
    sums.index_add_(0, member, place - 0.5)
    apart = float((12 * sums.square() / size).sum())
    return 2 * float(min(chi2.sf(apart, len(size)), chi2.cdf(apart, len(size))))
