"""Forward KL on the student's own answers, `sum_t KL(pi_T(. | s_t) || pi_S(. | s_t))`, y ~ pi_S.

It asks the student to cover everything that the teacher might say. arXiv:2605.30833 reports it as
failing on long answers: the teacher's log-probability of what the student writes collapses.
"""

from __future__ import annotations

from dataclasses import dataclass

from opdlab.methods.base import Contract, Method
from opdlab.methods.divergences import forward_kl
from opdlab.methods.needs import Needs
from opdlab.methods.sampled import supervision_of
from opdlab.records import Rollout, Supervision, TeacherScores
from opdlab.shapes import Float, Tensor


@dataclass(frozen=True)
class ForwardKL(Method):
    """On-policy distillation by forward KL over the whole vocabulary."""

    @property
    def needs(self) -> Needs:
        return Needs("full")

    @property
    def corrected(self) -> bool:
        return True

    @property
    def contract(self) -> Contract:
        return Contract(
            "forward KL", "full", "exact", "back-propagation", gradient={"forward_kl": 1.0}
        )

    def supervise(self, rollout: Rollout, scores: TeacherScores) -> Supervision:
        return supervision_of(rollout, scores.log_prob - rollout.log_prob)

    def token_loss(
        self,
        student: Float[Tensor, "T V"],
        teacher: Float[Tensor, "T V"] | None,
        supervision: Supervision,
    ) -> Float[Tensor, "T"]:
        assert teacher is not None
        return forward_kl(student, teacher)
