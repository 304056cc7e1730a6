"""The teacher's answers the slow way: a whole plain forward for every candidate.

The reference that the fast way is held against, and what scores a model whose attention cannot be hooked.
It uses no hook, no cache, no padding and none of the fast way's code. What is said after a prefix is what
a forward of it alone says, also where a longer forward would say something else
(`opdlab.modelling.length_dependence`).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from transformers import PreTrainedModel

from opdlab.modelling import forget, learned_positions, original_length
from opdlab.records import Questions, Rollout, TeacherScores
from opdlab.scoring.tree import Draws, draws
from opdlab.shapes import Bool, Float, Int, Tensor
from opdlab.transfers import to_device, to_host


@torch.no_grad()
def naive_scores(
    model: PreTrainedModel,
    rollout: Rollout,
    questions: Questions,
    vocabulary: int | None = None,
) -> TeacherScores:
    """What `Teacher.score` gives, without `hidden`; costs candidates times length squared."""
    uniform = draws(rollout, questions.candidates)
    said = [
        row_scores(
            model, rollout.tokens[row, : prompt + len(drawn)], drawn, questions.measure, vocabulary
        )
        for row, (prompt, drawn) in enumerate(
            zip(
                rollout.prompt_lengths.tolist(),
                uniform.trunk.split(rollout.response_lengths.tolist()),
                strict=True,
            )
        )
    ]
    log_prob, entropy, fidelity, sampled = torch.cat(said, 1)
    wanted = questions.candidates >= 0
    confidence = naive_confidence(model, rollout, questions, wanted, uniform, vocabulary)
    if questions.lookahead.beyond:
        tokens = rollout.token.where(wanted.any(1) & ~rollout.is_eos, -1)[:, None]
        own = replace(questions, candidates=tokens)
        sampled = naive_confidence(model, rollout, own, tokens >= 0, uniform, vocabulary)[:, 0]
    return TeacherScores(
        log_prob=log_prob,
        entropy=entropy,
        fidelity=fidelity.masked_fill(rollout.is_eos, torch.nan),
        sampled_confidence=sampled.masked_fill(rollout.is_eos, torch.nan),
        confidence=confidence,
    )


@torch.no_grad()
def naive_log_probs(
    model: PreTrainedModel, rollout: Rollout, row: int, vocabulary: int | None = None
) -> Float[Tensor, "t V"]:
    """What is said before each response token of a row, in log-probabilities."""
    prompt, response = int(rollout.prompt_lengths[row]), int(rollout.response_lengths[row])
    return _after_prefixes(model, rollout.tokens[row, : prompt + response], prompt, vocabulary)[:-1]


@torch.no_grad()
def row_scores(
    model: PreTrainedModel,
    tokens: Int[Tensor, "S"],
    drawn: Float[Tensor, "t"],
    measure: str,
    vocabulary: int | None = None,
) -> Float[Tensor, "4 t"]:
    """Log-probability, entropy, fidelity and the sampled tokens' measure of a row with a response of t."""
    prompt = len(tokens) - len(drawn)
    log_p = _after_prefixes(model, tokens, prompt, vocabulary)
    log_prob = log_p[:-1].gather(1, tokens[prompt:, None]).squeeze(1)
    fidelity = log_p[1:].amax(-1).exp()
    return torch.stack(
        [log_prob, _entropy(log_p[:-1]), fidelity, _confidence(log_p[1:], measure, drawn)]
    )


@torch.no_grad()
def naive_confidence(
    model: PreTrainedModel,
    rollout: Rollout,
    questions: Questions,
    wanted: Bool[Tensor, "T K"],
    uniform: Draws,
    vocabulary: int | None = None,
) -> Float[Tensor, "T K"]:
    """The measure after each wanted candidate, NaN elsewhere; the candidates of a position run together."""
    found = uniform.candidate.new_full(wanted.shape, torch.nan)
    # What to look at is known on the host: each position would wait for a device.
    asked, row, column = to_host([wanted, rollout.row, rollout.column])
    for t in asked.any(1).nonzero().squeeze(1).tolist():
        slots = to_device(asked[t].nonzero()[:, 0], found.device)
        candidates = questions.candidates[t, slots]
        prefix = rollout.tokens[int(row[t]), : int(column[t])].expand(len(candidates), -1)
        rows = torch.cat([prefix, candidates[:, None]], dim=1)
        if questions.lookahead.beyond:
            followed = [
                _followed(model, row, questions, rollout.eos_ids, vocabulary) for row in rows
            ]
            found[t, slots] = torch.stack(followed)
            continue
        log_p = log_probs(model, rows, vocabulary, -1)[:, 0]
        found[t, slots] = _confidence(log_p, questions.measure, uniform.candidate[t, slots])
    return found


def _followed(
    model: PreTrainedModel,
    tokens: Int[Tensor, "S"],
    questions: Questions,
    ends: tuple[int, ...],
    vocabulary: int | None,
) -> Float[Tensor, ""]:
    """What the largest probabilities after a text come to, along the likeliest tokens; see `Lookahead`."""
    ahead, limit, found = questions.lookahead, learned_positions(model), []
    while True:
        p, token = log_probs(model, tokens[None], vocabulary, -1)[0, 0].exp().max(-1)
        found.append(p)
        full = limit is not None and len(tokens) >= limit
        over = len(found) == ahead.steps or int(token) in ends or full
        if over or not p > ahead.certain_above:
            break
        tokens = torch.cat([tokens, token[None]])
    each = torch.stack(found)
    if ahead.over == "last":
        return each[-1]
    return each.min() if ahead.over == "minimum" else each.prod() ** (1 / len(each))


def _after_prefixes(
    model: PreTrainedModel, tokens: Int[Tensor, "S"], first: int, vocabulary: int | None
) -> Float[Tensor, "n V"]:
    """What is said after the first `first` tokens, after one more, and so on to all of them."""
    whole = original_length(model)
    if whole is None or len(tokens) <= whole:
        return log_probs(model, tokens[None], vocabulary, first - 1)[0]
    ends = range(first, len(tokens) + 1)
    return torch.cat([log_probs(model, tokens[None, :n], vocabulary, -1)[0] for n in ends])


def log_probs(
    model: PreTrainedModel, tokens: Int[Tensor, "B S"], vocabulary: int | None, first: int = 0
) -> Float[Tensor, "B n V"]:
    """What is said after each token of rows of equal length, by a forward of the model's own.

    Args:
        first: the token from which on this is wanted; -1 for the last.
    """
    forget(model)
    logits = model(input_ids=tokens, use_cache=False).logits[:, first:]
    return logits[..., :vocabulary].float().log_softmax(-1)


def _entropy(log_p: Float[Tensor, "N V"]) -> Float[Tensor, "N"]:
    # An entry that the model rules out has a logarithm of minus infinity, and counts nothing.
    return -(log_p.exp() * log_p.clamp(min=torch.finfo(log_p.dtype).min)).sum(-1)


def _confidence(
    log_p: Float[Tensor, "N V"], measure: str, uniform: Float[Tensor, "N"]
) -> Float[Tensor, "N"]:
    if measure == "max_prob":
        return log_p.amax(-1).exp()
    p = log_p.exp()
    if measure == "sampled_prob":
        cumulative = p.cumsum(-1, dtype=torch.float64)
        picked = (cumulative <= uniform.double()[:, None] * cumulative[:, -1:]).sum(-1)
        return p.gather(1, picked[:, None].clamp(max=p.shape[1] - 1)).squeeze(1)
    entropy = _entropy(log_p)
    return -entropy if measure == "entropy" else -entropy.exp()
