"""What methods share that add a reward to another objective, which may be any that leaves room for one.

Where the base weighs the sampled token by an advantage, the reward is added to that, and the base's own
limits hold for the sum. Where the base is differentiated, the reward gets a policy gradient of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from opdlab.methods.base import Method
from opdlab.methods.needs import Needs
from opdlab.methods.opd import OPD
from opdlab.methods.sampled import SampledMethod
from opdlab.records import Rollout, Supervision, TeacherScores, option
from opdlab.shapes import Float, Tensor


@dataclass(frozen=True)
class RewardedMethod(SampledMethod):
    """Base of methods that reward tokens on top of OPD or of another objective."""

    support: Literal["sampled", "full"] = option(
        "sampled", "OPD's term: the sampled token, or the teacher's whole distribution."
    )
    base: Method | None = option(
        None, "Another objective instead of OPD, with its options.", one_of="opdlab.methods"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.support == "full" and self.advantage_clip is not None:
            raise ValueError("advantage_clip: `support: full` has no sampled log-ratio to limit")
        if self.base is None:
            return
        if self.base.sampler == "teacher":
            raise ValueError("base: it must train on the student's own answers")
        if isinstance(self.base, RewardedMethod):
            raise ValueError("base: it has a reward already")
        if self.own_term and not self.base.full:
            raise ValueError("base: it has no advantage that a reward could be added to; see opd")
        theirs = ("support", "advantage_clip") + (
            () if self.own_term else ("ratio_cap", "ratio_clip")
        )
        for name in theirs:
            if getattr(self, name) != getattr(type(self), name):
                raise ValueError(f"{name}: with a base it is the base's; set base.{name}")

    @property
    def below(self) -> Method:
        """The objective that the reward is added to."""
        if self.base is not None:
            return self.base
        if self.support == "full":
            return OPD(support="full")
        return OPD(self.advantage_clip, self.ratio_cap, self.ratio_clip)

    @property
    def own_term(self) -> bool:
        """Whether the reward is delivered beside the base, which has no advantage to add it to."""
        return self.below.contract.delivery == "back-propagation"

    @property
    def needs(self) -> Needs:
        return self.below.needs

    @property
    def graded(self) -> bool:
        return self.below.graded

    @property
    def of_answers(self) -> bool:
        return self.below.of_answers

    @property
    def corrected(self) -> bool:
        return self.below.corrected and (not self.own_term or super().corrected)

    @property
    def own_samples(self) -> bool:
        return self.below.own_samples or self.weighs_sampled

    @property
    def weighs_sampled(self) -> bool:
        """Whether the reward is a weight of the sampled token."""
        return True

    def base_advantage(
        self, rollout: Rollout, scores: TeacherScores
    ) -> tuple[Float[Tensor, "T"], Mapping[str, Tensor]]:
        """The base's weight of each sampled token, 0 where it weighs none, and its metrics."""
        base = self.below.supervise(rollout, scores)
        advantage = torch.zeros_like(base.advantage) if self.own_term else base.advantage
        return advantage, base.metrics

    def token_loss(
        self,
        student: Float[Tensor, "T V"],
        teacher: Float[Tensor, "T V"] | None,
        supervision: Supervision,
    ) -> Float[Tensor, "T"]:
        loss = self.below.token_loss(student, teacher, supervision)
        return self.sampled_loss(student, supervision) + loss if self.own_term else loss
