"""What objectives claim to descend, computed from the tables of a `World` and no method's code.

Each is a scalar that is differentiated. Those of one position stand under the weight of how often
the state is visited, which is not differentiated: `sum_s d(s) L(pi(. | s))`. `raise_*` are
descended to raise something.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from opdlab.objectives.tiny_world import Answer, World
from opdlab.records import ONE_STEP
from opdlab.shapes import Float, Tensor

LABELS = {
    "reverse_kl": "reverse KL",
    "forward_kl": "forward KL",
    "jsd": "generalised JSD",
    "top_k_reverse_kl": "reverse KL of top-k and tail",
    "teachers_top_k_reverse_kl": "reverse KL of the teacher's top-k and tail",
    "teachers_top_k_forward_kl": "forward KL of the teacher's top-k and tail",
    "teachers_top_k_jsd": "generalised JSD of the teacher's top-k and tail",
    "bounded_log_ratio": "reverse KL with a bounded log-ratio",
    "future_reverse_kl": "reverse KL to come",
    "teacher_forward_kl": "forward KL on the teacher's answers",
    "kl_to_sampler": "KL to the student that sampled",
    "negative_entropy": "negative entropy",
    "raise_outcome": "outcome",
    "raise_lookahead": "lookahead reward",
    "raise_group_lookahead": "lookahead reward of the whole group",
}


def true_gradients(
    world: World, method: Any, sequence_mean: bool = False
) -> dict[str, Float[Tensor, "n"]]:
    """Gradients by name, with respect to the student's logits, laid out flat.

    Args:
        method: whose options (K, beta, discount, threshold ...) are used where a name depends on them.
        sequence_mean: weigh an answer by one over its length.
    """
    log_p = world.student.log_softmax(-1)
    log_q = world.teacher[: len(log_p)]
    of_now = world.ahead and _of(method, "of_answers", False)
    visited = replace(world, sampler=world.recorded) if of_now else world
    visits = _visits(visited, sequence_mean)
    base = _of(method, "below", method)
    totals: dict[str, Tensor] = {
        name: (visits * local(log_p, log_q, world, method if name in _REWARDS else base)).sum()
        for name, local in _LOCAL.items()
    }
    totals["future_reverse_kl"] = (
        visits * _future(world, log_p, log_q, _of(base, "discount", 1.0))
    ).sum()
    totals["raise_outcome"] = _outcome(world, log_p)
    totals["teacher_forward_kl"] = _teacher_forward_kl(
        world, log_p, _of(base, "support", "sampled")
    )
    bounds = _bounds(base)
    if bounds is not None:
        ratio = (log_q - log_p).detach().clamp(*bounds)
        totals["bounded_log_ratio"] = -(visits * (log_p.exp() * ratio).sum(-1)).sum()
    return {
        name: torch.autograd.grad(total, world.student, retain_graph=True)[0].flatten()
        for name, total in totals.items()
    }


def _of(method: Any, name: str, default: Any) -> Any:
    value = getattr(method, name, None)
    return default if value is None else value


def _bounds(method: Any) -> tuple[float | None, float | None] | None:
    clip, mixture = _of(method, "advantage_clip", None), _of(method, "mixture", None)
    if clip is None and mixture is None:
        return None
    # REOPOLD, arXiv:2603.11137, eq. 7.
    floor = None if mixture is None else math.log(mixture) - math.log(1 - mixture)
    low = max(x for x in (-clip if clip else None, floor) if x is not None)
    return low, clip


def _visits(world: World, sequence_mean: bool) -> Float[Tensor, "S"]:
    """How often each state is visited, by who writes the answers."""
    visits = torch.zeros(len(world.student_states), dtype=torch.float64)
    for answer, p in world.probability.items():
        for t in range(len(answer)):
            visits[world.states[answer[:t]]] += p / (len(answer) if sequence_mean else 1)
    return visits


def _reverse(log_p: Tensor, log_q: Tensor, *_: Any) -> Tensor:
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def _forward(log_p: Tensor, log_q: Tensor, *_: Any) -> Tensor:
    return (log_q.exp() * (log_q - log_p)).sum(-1)


def _jsd(log_p: Tensor, log_q: Tensor, _world: World, method: Any) -> Tensor:
    beta, p, q = _of(method, "beta", 0.5), log_p.exp(), log_q.exp()
    m = beta * q + (1 - beta) * p
    return beta * (q * (q / m).log()).sum(-1) + (1 - beta) * (p * (p / m).log()).sum(-1)


def _top_k(log_p: Tensor, log_q: Tensor, world: World, method: Any) -> Tensor:
    K = min(_of(method, "top_k", 2), world.vocabulary - 1)
    top = log_p.detach().topk(K, -1).indices
    p, q = log_p.exp().gather(-1, top), log_q.exp().gather(-1, top)
    p_rest, q_rest = 1 - p.sum(-1), 1 - q.sum(-1)
    return (p * (p / q).log()).sum(-1) + p_rest * (p_rest / q_rest).log()


def _of_teachers_top(local: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A divergence between the teacher's K likeliest tokens and all others as one."""

    def split(log_p: Tensor, top: Tensor) -> Tensor:
        p = log_p.exp().gather(-1, top)
        return torch.cat([p, 1 - p.sum(-1, keepdim=True)], -1).log()

    def found(log_p: Tensor, log_q: Tensor, world: World, method: Any) -> Tensor:
        top = log_q.topk(min(_of(method, "top_k", 2), world.vocabulary - 1), -1).indices
        return local(split(log_p, top), split(log_q, top), world, method)

    return found


def _to_sampler(log_p: Tensor, _log_q: Tensor, world: World, _method: Any) -> Tensor:
    return (log_p.exp() * (log_p - world.sampler)).sum(-1)


def _negative_entropy(log_p: Tensor, *_: Any) -> Tensor:
    return (log_p.exp() * log_p).sum(-1)


def _lookahead(log_p: Tensor, _log_q: Tensor, world: World, method: Any) -> Tensor:
    reward = torch.zeros_like(log_p)
    for number, prefix in enumerate(world.student_states):
        for token, worth in _rewards(world, method, prefix)[0].items():
            reward[number, token] = worth
    return -(log_p.exp() * reward).sum(-1)


def _group_lookahead(log_p: Tensor, _log_q: Tensor, world: World, method: Any) -> Tensor:
    weight = torch.zeros_like(log_p)
    for number, prefix in enumerate(world.student_states):
        _, group = _rewards(world, method, prefix)
        share = log_p[number].detach().exp()
        whole = sum(float(share[v]) for v in group)
        for token, worth in group.items():
            weight[number, token] = worth / whole
    return -(log_p.exp() * weight).sum(-1)


_Local = Callable[[Tensor, Tensor, World, Any], Tensor]
_LOCAL: Mapping[str, _Local] = {
    "reverse_kl": _reverse,
    "forward_kl": _forward,
    "jsd": _jsd,
    "top_k_reverse_kl": _top_k,
    "teachers_top_k_reverse_kl": _of_teachers_top(_reverse),
    "teachers_top_k_forward_kl": _of_teachers_top(_forward),
    "teachers_top_k_jsd": _of_teachers_top(_jsd),
    "kl_to_sampler": _to_sampler,
    "negative_entropy": _negative_entropy,
    "raise_lookahead": _lookahead,
    "raise_group_lookahead": _group_lookahead,
}


_REWARDS = ("raise_lookahead", "raise_group_lookahead")  # on top of a base with options of its own


def _rewards(
    world: World, method: Any, prefix: Answer
) -> tuple[dict[int, float], dict[int, float]]:
    """Lookahead reward of every token that could be sampled in a state, and of the group alone."""
    log_s = world.recorded[world.states[prefix]]
    entropy = -float((log_s.exp() * log_s).sum())
    tokens = [v for v in range(world.vocabulary) if v != world.eos]
    measure = _of(method, "confidence", "max_prob")
    ahead = _of(method, "ahead", ONE_STEP)
    c = {v: world.confidence(prefix, v, measure, ahead) for v in tokens}
    if entropy <= _of(method, "entropy_threshold", 0.2):
        return {}, {}
    limit = _of(method, "reward_clip", float("inf"))
    if _of(method, "reward", "group") == "potential":
        before = world.confidence(prefix[:-1], prefix[-1], measure) if prefix else 0.0
        return {v: max(-limit, min(limit, c[v] - before)) for v in tokens}, {}
    likeliest = log_s.argsort(descending=True).tolist()[: _of(method, "top_k", 8)]
    held, group = 0.0, []
    for order, v in enumerate(likeliest):
        if order < 2 or held < _of(method, "probability_mass", 2.0):
            group.append(v)
        held += float(log_s[v].exp())
    group = [v for v in group if v != world.eos]
    if len(group) < 2:
        return {}, {}
    mean = statistics.fmean(c[v] for v in group)
    scale = max(statistics.pstdev(c[v] for v in group), _of(method, "deviation_floor", 0.05))
    r = {v: max(-limit, min(limit, (c[v] - mean) / scale)) for v in tokens}
    return r, {v: r[v] for v in group}


def _future(world: World, log_p: Tensor, log_q: Tensor, discount: float) -> Float[Tensor, "S"]:
    """Divergence of a state's token and, discounted, of all that follows, which is not differentiated."""
    value = torch.zeros(len(world.states), dtype=torch.float64)
    found: list[Tensor] = []
    for number, prefix in reversed(list(enumerate(world.student_states))):
        after = torch.zeros(world.vocabulary, dtype=torch.float64)
        for v in range(world.eos):
            after[v] = value[world.states[(*prefix, v)]]
        here = (log_p[number].exp() * (log_p[number] - log_q[number] + discount * after)).sum()
        value[number] = here.detach()
        found.append(here)
    return torch.stack(found[::-1])


def _outcome(world: World, log_p: Tensor) -> Tensor:
    expected = torch.zeros((), dtype=torch.float64)
    for answer, grade in zip(world.answers, world.grade, strict=True):
        steps = [log_p[s, y] for s, y in world.steps(answer)]
        expected = expected + grade * torch.stack(steps).sum().exp()
    return -expected


def _teacher_forward_kl(world: World, log_p: Tensor, support: str) -> Tensor:
    """Cross entropy of the student under the teacher's answers: their KL up to a constant.

    At a state of one of them it is that to the distribution which the token was drawn from, or with `full`
    support to the teacher's own.
    """
    total = torch.zeros((), dtype=torch.float64)
    written = world.drawn(world.teacher)
    target = world.teacher if support == "full" else written
    for answer in world.answers:
        steps = world.steps(answer)
        p = torch.stack([written[s, y] for s, y in steps]).sum().exp()
        total = total - p * torch.stack([target[s].exp() @ log_p[s] for s, _ in steps]).sum()
    return total
