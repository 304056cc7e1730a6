"""GRPO: graded answers of one prompt compared with each other; with the teacher's word, where wanted.

    adv_i = (R_i - mean of the group's R) / scale            the same for every token of answer i
    adv_t = adv_i + distillation_weight * (log pi_T(y_t | s_t) - log pi_S(y_t | s_t))

The outcome is scaled before the teacher's part is added; whitening the sum afterwards would divide the
teacher's word by the noise of the outcomes, and is refused. A group whose grades all agree has no
advantage. An answer whose grader failed has no grade: it is left out of its group and gets no outcome
term.

Source: DeepSeekMath, arXiv:2402.03300 (there with `scale: group`); without a scale it is Dr. GRPO,
arXiv:2503.20783.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from opdlab.methods.base import Contract
from opdlab.methods.divergences import clip_advantage, reverse_kl
from opdlab.methods.needs import Needs
from opdlab.methods.sampled import SampledMethod, supervision_of
from opdlab.records import Rollout, Supervision, TeacherScores, option
from opdlab.shapes import Float, Int, Tensor

SMALLEST_DEVIATION = 1e-6  # of a group's grades: below, they agree


@dataclass(frozen=True)
class GRPO(SampledMethod):
    """Group-relative policy optimisation of graded answers, optionally with distillation."""

    scale: Literal["group", "none", "batch"] = option(
        "group",
        "What an outcome's advantage is divided by: the standard deviation of its group, nothing, "
        "or that of the whole batch.",
    )
    distillation_weight: float = option(
        0.0, "Weight of the reverse KL to the teacher; 0 uses the outcome only.", ge=0
    )
    support: Literal["sampled", "full"] = option(
        "sampled",
        "For the distillation term: the sampled token, or the teacher's whole distribution.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scale == "batch" and self.distillation_weight > 0:
            raise ValueError(
                "scale: whitening over the batch together with a distillation term z-scores the teacher "
                "away; use group or none, which leave the teacher's part as it is"
            )
        if self.distillation_weight == 0:
            for name in ("support", "advantage_clip"):
                if getattr(self, name) != getattr(GRPO, name, None):
                    raise ValueError(f"{name}: it is of the distillation; set distillation_weight")
        if self.full and self.advantage_clip is not None:
            raise ValueError("advantage_clip: `support: full` has no sampled log-ratio to limit")

    @property
    def needs(self) -> Needs:
        return Needs(self.support if self.distillation_weight > 0 else "none")

    @property
    def graded(self) -> bool:
        return True

    @property
    def contract(self) -> Contract:
        gradient: dict[str, float | None] = {"raise_outcome": None}
        if self.distillation_weight > 0:
            bounded = self.advantage_clip is not None
            gradient["bounded_log_ratio" if bounded else "reverse_kl"] = self.distillation_weight
        mixed = self.distillation_weight > 0
        return Contract(
            "outcome and reverse KL" if mixed else "outcome",
            ("full" if self.full else "sampled") if mixed else "none",
            "grade of the whole answer" + (" + k1" if mixed and not self.full else ""),
            "both" if self.full else "policy gradient",
            baseline="mean of the group",
            normalisation=f"deviation of the {self.scale}" if self.scale != "none" else "none",
            gradient=gradient,
            condition="weighing answers by their length changes what is rewarded",
        )

    def supervise(self, rollout: Rollout, scores: TeacherScores) -> Supervision:
        assert rollout.group is not None
        assert rollout.outcome is not None
        relative, mixed = group_advantage(rollout.outcome, rollout.group, self.scale)
        advantage = relative.to(rollout.log_prob)[rollout.row]
        if self.distillation_weight > 0 and not self.full:
            ratio = clip_advantage(scores.log_prob - rollout.log_prob, self.advantage_clip)
            advantage = advantage + self.distillation_weight * ratio
        return supervision_of(
            rollout,
            advantage,
            outcome=rollout.outcome,
            graded_share=rollout.outcome.isfinite().float(),
            mixed_group_share=mixed,
        )

    def token_loss(
        self,
        student: Float[Tensor, "T V"],
        teacher: Float[Tensor, "T V"] | None,
        supervision: Supervision,
    ) -> Float[Tensor, "T"]:
        loss = self.sampled_loss(student, supervision)
        if teacher is not None:
            loss = loss + self.distillation_weight * reverse_kl(student, teacher)
        return loss


def group_advantage(
    outcome: Float[Tensor, "B"], group: Int[Tensor, "B"], scale: str
) -> tuple[Float[Tensor, "B"], Float[Tensor, "groups"]]:
    """Each answer's outcome less its group's mean, scaled; and 1 for each group that does not agree."""
    known = outcome.isfinite()
    values = outcome.nan_to_num(0.0)
    groups = int(group.max()) + 1
    count = torch.zeros(groups, device=group.device).index_add(0, group, known.float()).clamp(min=1)
    mean = values.new_zeros(groups).index_add(0, group, values) / count
    centred = (values - mean[group]).where(known, 0.0)
    variance = values.new_zeros(groups).index_add(0, group, centred.square()) / count
    deviation = variance.sqrt()
    mixed = (deviation > SMALLEST_DEVIATION).float()
    if scale == "group":
        centred = centred / deviation.clamp(min=SMALLEST_DEVIATION)[group]
    elif scale == "batch":
        graded = values[known] if known.any() else values
        whole = graded.std(correction=0)
        centred = centred / whole.clamp(min=SMALLEST_DEVIATION)
    return centred, mixed
