"""The teacher's answers the slow way: a whole plain forward for every candidate.

The reference that the fast way is held against, and what scores a model whose attention cannot be hooked.
It uses no hook, no cache, no padding and none of the fast way's code. What is said after a prefix is what
a forward of it alone says, also where a longer forward would say something else
(`opdlab.modelling.length_dependence`).
"""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from opdlab.modelling import forget, original_length
from opdlab.records import Questions, Rollout, TeacherScores
from opdlab.scoring.tree import Draws, draws
from opdlab.shapes import Bool, Float, Int, Tensor


@torch.no_grad()
def naive_scores(
    model: PreTrainedModel,
    rollout: Rollout,
    questions: Questions,
    vocabulary: int | None = None,
) -> TeacherScores:
    """What `Teacher.score` gives, without `hidden`; costs candidates times length squared."""
    uniform = draws(rollout, questions.candidates)
    log_prob, entropy, after = [], [], []
    for row in range(len(rollout.tokens)):
        prompt, response = int(rollout.prompt_lengths[row]), int(rollout.response_lengths[row])
        tokens = rollout.tokens[row, : prompt + response]
        log_p = _after_prefixes(model, tokens, prompt, vocabulary)
        log_prob.append(log_p[:-1].gather(1, tokens[prompt:, None]).squeeze(1))
        entropy.append(_entropy(log_p[:-1]))
        after.append(log_p[1:])
    next_step = torch.cat(after)
    sampled = _confidence(next_step, questions.measure, uniform.trunk)
    return TeacherScores(
        log_prob=torch.cat(log_prob),
        entropy=torch.cat(entropy),
        fidelity=next_step.exp().amax(-1).masked_fill(rollout.is_eos, torch.nan),
        sampled_confidence=sampled.masked_fill(rollout.is_eos, torch.nan),
        confidence=naive_confidence(
            model, rollout, questions, questions.candidates >= 0, uniform, vocabulary
        ),
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
    confidence = torch.full_like(uniform.candidate, torch.nan)
    for t in wanted.any(1).nonzero().squeeze(1).tolist():
        candidates = questions.candidates[t, wanted[t]]
        prefix = rollout.tokens[rollout.row[t], : rollout.column[t]].expand(len(candidates), -1)
        rows = torch.cat([prefix, candidates[:, None]], dim=1)
        log_p = log_probs(model, rows, vocabulary, last=True)[:, -1]
        confidence[t, wanted[t]] = _confidence(
            log_p, questions.measure, uniform.candidate[t, wanted[t]]
        )
    return confidence


def _after_prefixes(
    model: PreTrainedModel, tokens: Int[Tensor, "S"], first: int, vocabulary: int | None
) -> Float[Tensor, "n V"]:
    """What is said after the first `first` tokens, after one more, and so on to all of them."""
    whole = original_length(model)
    if whole is None or len(tokens) <= whole:
        return log_probs(model, tokens[None], vocabulary)[0, first - 1 :]
    ends = range(first, len(tokens) + 1)
    return torch.cat([log_probs(model, tokens[None, :n], vocabulary, last=True)[0] for n in ends])


def log_probs(
    model: PreTrainedModel, tokens: Int[Tensor, "B S"], vocabulary: int | None, last: bool = False
) -> Float[Tensor, "B n V"]:
    """What is said after each token of rows of equal length, by a forward of the model's own.

    Args:
        last: after the last token alone.
    """
    forget(model)
    logits = model(input_ids=tokens, use_cache=False).logits
    logits = logits[:, -1:] if last else logits
    return logits[..., :vocabulary].float().log_softmax(-1)


def _entropy(log_p: Float[Tensor, "N V"]) -> Float[Tensor, "N"]:
    # An entry that the model rules out has a logarithm of minus infinity, and counts nothing.
    return -(log_p.exp() * log_p.clamp(min=torch.finfo(log_p.dtype).min)).sum(-1)


def _confidence(
    log_p: Float[Tensor, "N V"], measure: str, uniform: Float[Tensor, "N"]
) -> Float[Tensor, "N"]:
    p = log_p.exp()
    if measure == "max_prob":
        return p.amax(-1)
    if measure == "sampled_prob":
        cumulative = p.cumsum(-1, dtype=torch.float64)
        picked = (cumulative <= uniform.double()[:, None] * cumulative[:, -1:]).sum(-1)
        return p.gather(1, picked[:, None].clamp(max=p.shape[1] - 1)).squeeze(1)
    entropy = _entropy(log_p)
    return -entropy if measure == "entropy" else -entropy.exp()
