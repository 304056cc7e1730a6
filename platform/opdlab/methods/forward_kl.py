"""Forward KL on the student's own answers, `sum_t KL(pi_T(. | s_t) || pi_S(. | s_t))`, y ~ pi_S.

It asks the student to cover everything that the teacher might say. arXiv:2605.30833 reports it as
failing on long answers: the teacher's log-probability of what the student writes collapses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from opdlab.methods.base import Contract, Method
from opdlab.methods.divergences import (
    forward_kl,
    no_smaller_tail,
    teachers_top_k_with_tail,
)
from opdlab.methods.needs import Needs
from opdlab.methods.sampled import supervision_of
from opdlab.records import Rollout, Supervision, TeacherScores, option
from opdlab.shapes import Float, Tensor


@dataclass(frozen=True)
class ForwardKL(Method):
    """On-policy distillation by forward KL."""

    support: Literal["full", "top_k"] = option(
        "full",
        "How much of the teacher's distribution is used: all of it, or the teacher's most likely "
        "tokens with all others merged into one. The latter also works with a served teacher; it "
        "is a lower bound that does not see how the student distributes probability among the "
        "merged tokens.",
    )
    top_k: int | None = option(None, "K of `support: top_k`.", ge=1)

    def __post_init__(self) -> None:
        if (self.support == "top_k") != (self.top_k is not None):
            raise ValueError("top_k: set it only with `support: top_k`")

    @property
    def needs(self) -> Needs:
        if self.top_k is None:
            return Needs("full", linear=True)
        return Needs("top-k", self.top_k)

    @property
    def corrected(self) -> bool:
        return True

    @property
    def contract(self) -> Contract:
        return self.contract_of("forward KL", "forward_kl")

    def contract_of(self, direction: str, gradient: str) -> Contract:
        """The contract of a divergence, whose true gradient has this name over the whole distribution."""
        if self.top_k is None:
            how = ("full", "exact", "back-propagation")
            return Contract(direction, *how, gradient={gradient: 1.0})
        how = ("top-k with tail", "exact over K + 1 buckets", "back-propagation")
        return Contract(direction, *how, gradient={f"teachers_top_k_{gradient}": 1.0})

    def supervise(self, rollout: Rollout, scores: TeacherScores) -> Supervision:
        return supervision_of(rollout, scores.log_prob - rollout.log_prob)

    def token_loss(
        self,
        student: Float[Tensor, "T V"],
        teacher: Float[Tensor, "T V"] | None,
        supervision: Supervision,
    ) -> Float[Tensor, "T"]:
        assert teacher is not None
        if self.top_k is None:
            return self.divergence(student, teacher)
        return self.divergence(*teachers_top_k_with_tail(student, teacher, self.top_k))

    def listed_loss(
        self,
        student: Float[Tensor, "T N"],
        teacher: Float[Tensor, "T N"],
        supervision: Supervision,
    ) -> Float[Tensor, "T"]:
        return self.divergence(student, teacher if self.top_k is None else no_smaller_tail(teacher))

    def divergence(
        self, student: Float[Tensor, "T N"], teacher: Float[Tensor, "T N"]
    ) -> Float[Tensor, "T"]:
        """Between N entries of the vocabulary, or K of them and the rest."""
        return forward_kl(student, teacher)
