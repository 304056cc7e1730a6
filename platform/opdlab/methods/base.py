"""The interface of a training method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, final

from opdlab.methods.needs import Needs
from opdlab.records import Covered, Questions, Rollout, Supervision, TeacherScores
from opdlab.shapes import Float, Tensor


@dataclass(frozen=True)
class Contract:
    """What an objective claims; `opdlab doctor objective` proves `gradient` by enumeration.

    Attributes:
        direction: the divergence, or what else is minimised.
        support: how much of the teacher's distribution at a position enters.
        estimator: what is computed at a token.
        delivery: `policy gradient` weighs the gradient of the sampled token's log-probability by
            a detached number, `back-propagation` differentiates a function of the distributions, `both`
            adds one of each.
        baseline: what is subtracted from a reward, if anything.
        normalisation: what advantages are divided by; the mean over tokens is the trainer's.
        gradient: the sum of true gradients that its expected gradient equals, by their names in
            `opdlab.objectives.true_gradients`; None instead of a factor that is positive and differs from
            prompt to prompt. It must be that of `opdlab.objectives.outcome_factor` where that knows it.
        condition: when it holds, if not always.
    """

    direction: str
    support: Literal["none", "sampled", "top-k", "top-k with tail", "full"]
    estimator: str
    delivery: Literal["policy gradient", "back-propagation", "both"]
    baseline: str = "none"
    normalisation: str = "none"
    gradient: Mapping[str, float | None] = field(default_factory=dict)
    condition: str = ""


@dataclass(frozen=True)
class Method(Covered, ABC):
    """A rule that turns a rollout and a teacher's scores into a loss for every response token.

    A frozen dataclass: its fields are the options that an experiment may set (`opdlab.records.option`), its
    functions the mathematics, without state. Register it under the entry point `opdlab.methods`.
    """

    @property
    @abstractmethod
    def contract(self) -> Contract:
        """What this objective with these options is."""

    @property
    def group(self) -> int:
        """Number of top candidates that the rollout must record with every token; 0 for none."""
        return 0

    @property
    def needs(self) -> Needs:
        """What it needs from a teacher; by default the log-probability of the sampled tokens."""
        return Needs()

    @final
    @property
    def full(self) -> bool:
        """Whether `token_loss` is given the teacher's next-token distribution, by its `needs`."""
        return self.needs.distribution

    @property
    def sampler(self) -> Literal["student", "teacher"]:
        """Who writes the responses."""
        return "student"

    @property
    def graded(self) -> bool:
        """Whether `supervise` needs `Rollout.outcome`, so prompts that can be graded."""
        return False

    @property
    def corrected(self) -> bool:
        """Whether the loss stays right on responses of an earlier student (`training.epochs` > 1)."""
        return False

    @property
    def of_answers(self) -> bool:
        """Whether advantages depend on later tokens too; `rollout.ahead` then weighs whole answers."""
        return self.graded

    @property
    def own_samples(self) -> bool:
        """Whether tokens must be the student's own samples, at `rollout.temperature` and `top_p` 1."""
        contract = self.contract
        sampled = contract.support == "sampled" or contract.delivery != "back-propagation"
        return self.sampler == "student" and sampled

    def questions(self, rollout: Rollout) -> Questions:
        """What the teacher must score for this rollout; by default its `needs`, without candidates."""
        needs = self.needs
        return Questions(rollout.candidates[:, :0], full=needs.support == "full", top_k=needs.top_k)

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
            teacher: the teacher's, detached; given when its `needs` are `full` or `top-k`, else None. Of
                `top-k` it is right for the teacher's k likeliest tokens and for the sum of all others.
            supervision: of the same tokens. Called on pieces of a batch, so nothing here may
                depend on other tokens.
        """

    @final
    @property
    def listed(self) -> bool:
        """Whether its `listed_loss` goes with its `token_loss`: of the same class, or of one below."""
        own = next(kind for kind in type(self).__mro__ if "listed_loss" in vars(kind))
        whole = next(kind for kind in type(self).__mro__ if "token_loss" in vars(kind))
        return issubclass(own, whole)

    def listed_loss(
        self,
        student: Float[Tensor, "T N"],
        teacher: Float[Tensor, "T N"],
        supervision: Supervision,
    ) -> Float[Tensor, "T"]:
        """The loss of `token_loss`, computed from only the tokens that a teacher gives.

        Optional, and faster; without it `token_loss` gets these tokens spread over the whole vocabulary.

        Args:
            student: log-probabilities of these tokens; with a teacher's top-k the last is of all others.
            teacher: the teacher's; where `needs` are `full` and `linear`, shares of draws.
            supervision: as in `token_loss`.
        """
        raise NotImplementedError
