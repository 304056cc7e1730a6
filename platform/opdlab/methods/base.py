"""The interface of a training method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from opdlab.records import Questions, Rollout, Supervision, TeacherScores
from opdlab.shapes import Float, Tensor


@dataclass(frozen=True)
class Method(ABC):
    """A rule that turns a rollout and a teacher's scores into a loss for every response token.

    A method is a frozen dataclass: its fields are the options that an experiment may set (declared with
    `opdlab.records.option`), its functions the mathematics. It holds no state, so a step depends on
    nothing but its rollout. Register it under the entry point `opdlab.methods`.
    """

    @property
    def group(self) -> int:
        """Top candidates that the rollout must bring along with every token; 0 for none."""
        return 0

    @property
    def full(self) -> bool:
        """Whether `token_loss` needs the teacher's whole next-token distribution."""
        return False

    @abstractmethod
    def questions(self, rollout: Rollout) -> Questions:
        """What to ask the teacher about this rollout."""

    @abstractmethod
    def supervise(self, rollout: Rollout, scores: TeacherScores) -> Supervision:
        """Advantages, all detached, from the teacher's answers."""

    @abstractmethod
    def token_loss(
        self,
        student: Float[Tensor, "T V"],
        teacher: Float[Tensor, "T V"] | None,
        supervision: Supervision,
    ) -> Float[Tensor, "T"]:
        """Loss of each response token, in nats; the trainer takes the mean.

        Args:
            student: log-probabilities of the student's next-token distribution; carries the gradient.
            teacher: the teacher's, detached; given when `full`, else None.
            supervision: of the same tokens. Called on pieces of a batch, so nothing here may
                depend on other tokens.
        """
