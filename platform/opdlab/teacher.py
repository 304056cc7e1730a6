"""The teacher's answers about a rollout: log-probabilities, fidelity, confidence after each candidate."""

from __future__ import annotations

from time import perf_counter

import torch
from transformers import PreTrainedModel

from opdlab.errors import NonFiniteError
from opdlab.head import CHUNK, entropy_of, hidden_states, vocabulary_statistics
from opdlab.records import Questions, Rollout, TeacherScores
from opdlab.shapes import Bool, Float, Tensor
from opdlab.tree import Draws, draws, leaves


class Teacher:
    """A frozen model that scores rollouts.

    Args:
        model: any causal language model; it is put in evaluation mode and gets no gradient.
        vocabulary: entries that student and teacher share; None for all.
        leaf_chunk: leaves computed at a time.
        head_chunk: vocabulary rows held at a time.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        vocabulary: int | None = None,
        leaf_chunk: int = 1024,
        head_chunk: int = CHUNK,
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.vocabulary = vocabulary
        self.leaf_chunk = leaf_chunk
        self.head_chunk = head_chunk

    @torch.no_grad()
    def score(self, rollout: Rollout, questions: Questions) -> TeacherScores:
        """Answer the questions; nothing returned carries a gradient.

        Raises:
            NonFiniteError: a score is NaN or infinite; the message names row and position.
        """
        started = perf_counter()
        uniform = draws(rollout, questions)
        hidden = hidden_states(self.model, rollout.tokens)
        before = hidden[rollout.row, rollout.column - 1]
        after = hidden[rollout.row, rollout.column]
        said = vocabulary_statistics(
            self.model, before, rollout.token, self.vocabulary, self.head_chunk
        )
        next_step = vocabulary_statistics(
            self.model,
            after,
            rollout.token,
            self.vocabulary,
            self.head_chunk,
            uniform=uniform.trunk if questions.measure == "sampled_prob" else None,
        )
        fidelity = next_step.max_log_prob.exp()
        sampled = next_step.confidence(questions.measure)
        middle = perf_counter()
        tree = leaves(rollout, questions.candidates)
        confidence = _naive_confidence(
            self.model, rollout, questions, uniform, self.vocabulary, skip=tree.index < 0
        )
        is_sampled = questions.candidates == rollout.token[:, None]
        confidence = torch.where(is_sampled, sampled[:, None], confidence)
        scores = TeacherScores(
            log_prob=said.log_prob,
            entropy=said.entropy,
            fidelity=fidelity.masked_fill(rollout.is_eos, torch.nan),
            sampled_confidence=sampled.masked_fill(rollout.is_eos, torch.nan),
            confidence=confidence,
            hidden=before if questions.full else None,
            seconds={"trunk": middle - started, "leaves": perf_counter() - middle},
            leaves=len(tree),
        )
        check_finite(scores, rollout, questions)
        return scores


def check_finite(scores: TeacherScores, rollout: Rollout, questions: Questions) -> None:
    """Refuse scores that are NaN or infinite where a number belongs.

    Raises:
        NonFiniteError: names the first such row and position.
    """
    no_next_step = rollout.is_eos
    no_candidate = questions.candidates < 0
    for name, allowed in (
        ("log_prob", torch.zeros_like(no_next_step)),
        ("entropy", torch.zeros_like(no_next_step)),
        ("fidelity", no_next_step),
        ("sampled_confidence", no_next_step),
        ("confidence", no_candidate),
    ):
        value: Tensor = getattr(scores, name)
        bad = ~torch.isfinite(value) & ~allowed
        if bad.any():
            t = int(bad.nonzero()[0, 0])
            raise NonFiniteError(
                f"the teacher's {name} is {value[t].tolist()} in row {int(rollout.row[t])} at response "
                f"position {int(rollout.position[t])} (token {int(rollout.token[t])}); load the teacher "
                "in bfloat16 or float32, or check its weights"
            )


@torch.no_grad()
def naive_scores(
    model: PreTrainedModel,
    rollout: Rollout,
    questions: Questions,
    vocabulary: int | None = None,
) -> TeacherScores:
    """The same answers by plain forwards: one of each row, one of each candidate's whole prefix.

    Uses no hook, no cache, no padding and none of the fast way's code but the measures. Costs
    candidates times the length squared.
    """
    uniform = draws(rollout, questions)
    log_prob, entropy, log_q = [], [], []
    for row in range(len(rollout.tokens)):
        prompt, response = int(rollout.prompt_lengths[row]), int(rollout.response_lengths[row])
        tokens = rollout.tokens[row, : prompt + response]
        log_p = _log_probs(model, tokens[None], vocabulary)[0]
        before = log_p[prompt - 1 : prompt + response - 1]
        log_prob.append(before.gather(1, tokens[prompt:, None]).squeeze(1))
        entropy.append(entropy_of(before))
        log_q.append(log_p[prompt : prompt + response])
    after = torch.cat(log_q)
    sampled = _confidence(after, questions.measure, uniform.trunk)
    none = torch.zeros_like(questions.candidates, dtype=torch.bool)
    return TeacherScores(
        log_prob=torch.cat(log_prob),
        entropy=torch.cat(entropy),
        fidelity=after.amax(-1).exp().masked_fill(rollout.is_eos, torch.nan),
        sampled_confidence=sampled.masked_fill(rollout.is_eos, torch.nan),
        confidence=_naive_confidence(model, rollout, questions, uniform, vocabulary, none),
    )


def _naive_confidence(
    model: PreTrainedModel,
    rollout: Rollout,
    questions: Questions,
    uniform: Draws,
    vocabulary: int | None,
    skip: Bool[Tensor, "T K"],
) -> Float[Tensor, "T K"]:
    """Confidence after each candidate, one whole forward each; the candidates of a position together."""
    confidence = torch.full_like(uniform.candidate, torch.nan)
    asked = (questions.candidates >= 0) & ~skip
    for t in asked.any(1).nonzero().squeeze(1).tolist():
        candidates = questions.candidates[t, asked[t]]
        prefix = rollout.tokens[rollout.row[t], : rollout.column[t]].expand(len(candidates), -1)
        rows = torch.cat([prefix, candidates[:, None]], dim=1)
        log_p = _log_probs(model, rows, vocabulary)[:, -1]
        confidence[t, asked[t]] = _confidence(
            log_p, questions.measure, uniform.candidate[t, asked[t]]
        )
    return confidence


def _log_probs(
    model: PreTrainedModel, tokens: Tensor, vocabulary: int | None
) -> Float[Tensor, "B S V"]:
    logits = model(input_ids=tokens, use_cache=False).logits
    return logits[..., :vocabulary].float().log_softmax(-1)


def _confidence(
    log_p: Float[Tensor, "N V"], measure: str, uniform: Float[Tensor, "N"]
) -> Float[Tensor, "N"]:
    p = log_p.exp()
    if measure == "max_prob":
        return p.amax(-1)
    if measure == "sampled_prob":
        picked = (p.cumsum(-1) <= uniform[:, None] * p.sum(-1, keepdim=True)).sum(-1)
        return p.gather(1, picked[:, None].clamp(max=p.shape[1] - 1)).squeeze(1)
    entropy = -(p * log_p).sum(-1)
    return -entropy if measure == "entropy" else -entropy.exp()
