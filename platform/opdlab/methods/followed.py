"""Lookahead past one step: how far the teacher is followed behind each candidate.

One step sees nothing where a certain token lies between a choice and its consequence. So a candidate may be
followed by the teacher's likeliest tokens: with w_1, w_2, ... those,

    p_0 = max_u pi_T(u | s_t, v),  p_j = max_u pi_T(u | s_t, v, w_1 .. w_j)
    c(v) = (p_0 * p_1 * ... * p_(d-1)) ^ (1/d)

or their last, or their minimum. A chain ends early with the answer, or where the teacher is not certain of
the next token. With d = 1 this is the confidence of arXiv:2605.30833; more is beyond the paper.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from opdlab.methods.rewarded import RewardedMethod
from opdlab.records import Lookahead, Questions, Rollout, option


@dataclass(frozen=True)
class FollowedMethod(RewardedMethod):
    """Base of methods whose candidates may be followed."""

    lookahead: int = option(
        1, "Steps that are looked ahead (d): a candidate is followed by d - 1 tokens.", ge=1
    )
    over: Literal["geometric_mean", "last", "minimum"] = option(
        "geometric_mean", "What the confidences of several steps come to."
    )
    certain_above: float = option(
        0.0,
        "Follow a candidate further only while the teacher's largest probability is above this.",
        ge=0,
        lt=1,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("over", "certain_above"):
            if self.lookahead == 1 and getattr(self, name) != getattr(type(self), name):
                raise ValueError(f"{name}: it is about several steps; set lookahead above 1")

    @property
    def ahead(self) -> Lookahead:
        """How far, for the teacher."""
        return Lookahead(self.lookahead, self.over, self.certain_above)

    def questions(self, rollout: Rollout) -> Questions:
        return replace(super().questions(rollout), lookahead=self.ahead)
