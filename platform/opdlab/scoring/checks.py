"""What no teacher can score, and scores that cannot be trained on."""

from __future__ import annotations

import torch

from opdlab.errors import ModelError, NonFiniteError
from opdlab.methods import Offers
from opdlab.records import Questions, Rollout, TeacherScores
from opdlab.shapes import Tensor


def check_tokens(rollout: Rollout, vocabulary: int | None) -> None:
    """Refuse tokens that a teacher cannot read.

    Raises:
        ModelError: a prompt is empty, or a token outside the entries that it shares with the student.
    """
    if int(rollout.prompt_lengths.min()) < 1:
        row = int(rollout.prompt_lengths.argmin())
        raise ModelError(f"row {row} has an empty prompt; begin it with a BOS token")
    if vocabulary is None:
        return
    columns = torch.arange(rollout.tokens.shape[1], device=rollout.tokens.device)
    foreign = (rollout.tokens >= vocabulary) & (columns < rollout.prompt_lengths[:, None])
    if foreign.any():
        row, column = foreign.nonzero()[0].tolist()
        raise ModelError(
            f"the prompt of row {row} holds token {int(rollout.tokens[row, column])} at place {column}, "
            f"outside the {vocabulary} entries that student and teacher share, so the teacher cannot read "
            "it; set prompts.template: none, or choose a teacher whose vocabulary has it"
        )
    if int(rollout.token.max()) >= vocabulary:
        t = int(rollout.token.argmax())
        raise ModelError(
            f"row {int(rollout.row[t])} holds token {int(rollout.token[t])} at response position "
            f"{int(rollout.position[t])}, outside the {vocabulary} entries that student and teacher "
            "share; sample among those only"
        )


def require_one_step(questions: Questions, offers: Offers) -> None:
    """Refuse to follow candidates past one step where a teacher does not offer that.

    Raises:
        ModelError: with the reason.
    """
    if questions.lookahead.beyond and not offers.steps:
        raise ModelError(f"lookahead: {offers.why_not['steps']}")


def check_finite(
    scores: TeacherScores,
    rollout: Rollout,
    questions: Questions,
    not_told: frozenset[str] = frozenset(),
) -> None:
    """Refuse scores that are NaN or infinite where a number belongs.

    Args:
        not_told: names of those that this teacher cannot tell.

    Raises:
        NonFiniteError: names the first such row and position.
    """
    never = torch.zeros_like(rollout.is_eos)
    # Of a loss over distributions, which says itself whether it is finite, the sampled token is no part.
    whole = questions.full or questions.top_k > 0
    silent = rollout.is_eos
    if questions.lookahead.beyond:
        silent = silent | (questions.candidates < 0).all(1)
    for name, allowed in (
        ("log_prob", scores.log_prob == -torch.inf if whole else never),
        ("entropy", never),
        ("fidelity", rollout.is_eos),
        ("sampled_confidence", silent),
        ("confidence", questions.candidates < 0),
    ):
        if name in not_told:
            continue
        value: Tensor = getattr(scores, name)
        bad = ~torch.isfinite(value) & ~allowed
        if bad.any():
            t = int(bad.nonzero()[0, 0])
            raise NonFiniteError(
                f"the teacher's {name} is {value[t].tolist()} in row {int(rollout.row[t])} at response "
                f"position {int(rollout.position[t])} (token {int(rollout.token[t])}); "
                f"{_remedy(name, value[t])}"
            )


def _remedy(name: str, value: Tensor) -> str:
    if name == "log_prob" and float(value) == -torch.inf:
        return (
            "it gives this token no probability at all (a logit of minus infinity), which the student did "
            "not rule out, so their divergence is infinite: rule the token out in both, take another "
            "teacher, or a method whose loss stays finite there (jsd, forward_kl)"
        )
    return "load the teacher in bfloat16 or float32, or check its weights"
