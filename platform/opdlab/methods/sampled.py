"""What methods share whose sampled tokens get a policy gradient: limits, and old responses set right."""

from __future__ import annotations

from dataclasses import dataclass

from opdlab.methods.base import Method
from opdlab.methods.divergences import at, policy_gradient
from opdlab.records import Rollout, Supervision, option
from opdlab.shapes import Float, Tensor


@dataclass(frozen=True)
class SampledMethod(Method):
    """Base of methods with an advantage for each sampled token."""

    advantage_clip: float | None = option(
        None,
        "Clip the sampled token's log-ratio of teacher to student to +- this, in nats.",
        gt=0,
    )
    ratio_cap: float | None = option(
        None,
        "Weight the sampled token's term by the importance ratio of the current student to the one "
        "that sampled, capped at this value; for `training.epochs` above 1. Null is correct if the "
        "student samples in the same step; values below 1 would shrink the gradient of the "
        "student's own samples.",
        ge=1,
    )
    ratio_clip: float | None = option(
        None,
        "PPO's rule: a token whose importance ratio has left 1 +- this in the direction of its "
        "advantage gets no gradient. Instead of ratio_cap.",
        gt=0,
        lt=1,
    )

    def __post_init__(self) -> None:
        if self.ratio_cap is not None and self.ratio_clip is not None:
            raise ValueError("ratio_clip: ratio_cap is set, too; the importance ratio is used once")

    @property
    def corrected(self) -> bool:
        return self.ratio_cap is not None or self.ratio_clip is not None

    def sampled_loss(
        self, student: Float[Tensor, "T V"], supervision: Supervision
    ) -> Float[Tensor, "T"]:
        """The policy gradient of the sampled tokens."""
        return policy_gradient(
            at(student, supervision.token),
            supervision.advantage,
            supervision.log_prob,
            self.ratio_cap,
            self.ratio_clip,
        )

    def refuse_limits(self, why: str) -> None:
        """Refuse options of the sampled term where there is none.

        Raises:
            ValueError: naming the first of them.
        """
        for name in ("advantage_clip", "ratio_cap", "ratio_clip"):
            if getattr(self, name) is not None:
                raise ValueError(f"{name}: {why}")


def supervision_of(
    rollout: Rollout, advantage: Float[Tensor, "T"], **metrics: Tensor
) -> Supervision:
    """Supervision of the sampled tokens alone."""
    none = rollout.candidates[:, :0]
    found = {"advantage": advantage, **metrics}
    return Supervision(rollout.token, rollout.log_prob, advantage, none, none.to(advantage), found)
