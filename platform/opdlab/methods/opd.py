"""On-policy distillation (OPD): the student's own answers, scored token by token by the teacher.

The objective is the reverse KL at every position of the student's trajectory,

    sum_t KL(pi_S(. | s_t) || pi_T(. | s_t)),         s_t = (x, y_<t),  y ~ pi_S,

with no gradient through the sampling of the trajectory. By support:

    sampled   the policy gradient of the sampled token,
              adv_t = log pi_T(y_t | s_t) - log pi_S(y_t | s_t),   loss_t = - adv_t * log pi_S(y_t | s_t)
    top_k     between the student's K likeliest tokens and all others as one, differentiated directly
    full      over the whole vocabulary, differentiated directly

`sampled` and `full` have the same expected gradient. A top-k sum without the others is not a divergence:
its minimum is not at the teacher, and the student sheds top-k probability; so it is not offered.

Source: arXiv:2605.30833, section 2 (there as a cost, with the sign turned); MiniLLM, arXiv:2306.08543.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from opdlab.methods.base import Contract
from opdlab.methods.divergences import (
    clip_advantage,
    no_smaller_tail,
    reverse_kl,
    teachers_top_k_with_tail,
    top_k_with_tail,
)
from opdlab.methods.needs import Needs
from opdlab.methods.sampled import SampledMethod, supervision_of
from opdlab.records import Rollout, Supervision, TeacherScores, option
from opdlab.shapes import Float, Tensor


@dataclass(frozen=True)
class OPD(SampledMethod):
    """On-policy distillation by reverse KL."""

    support: Literal["sampled", "top_k", "full"] = option(
        "sampled",
        "How much of the teacher's distribution is used: the sampled token, the student's most "
        "likely tokens with all others merged into one, or all of it.",
    )
    top_k: int | None = option(None, "K of `support: top_k`.", ge=1)
    top_k_of: Literal["student", "teacher"] = option(
        "student",
        "Whose most likely tokens `support: top_k` uses. A served teacher offers only its own; the "
        "KL is then a lower bound that does not see how the student distributes probability among "
        "all other tokens.",
    )
    tail: Literal["bucket", "renormalised", "dropped"] = option(
        "bucket",
        "How tokens outside the top K are treated: `bucket` merges them into one. The other two "
        "exist in other frameworks and are refused, with the reason.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.support == "top_k") != (self.top_k is not None):
            raise ValueError("top_k: set it only with `support: top_k`")
        if self.top_k_of == "teacher" and self.support != "top_k":
            raise ValueError("top_k_of: it is of `support: top_k`; set that, and top_k")
        if self.tail != "bucket":
            raise ValueError(f"tail: {NO_TAIL[self.tail]}; use bucket")
        if self.support != "sampled":
            self.refuse_limits(f"`support: {self.support}` has no sampled term that it could limit")

    @property
    def needs(self) -> Needs:
        if self.top_k is not None and self.top_k_of == "teacher":
            return Needs("top-k", self.top_k)
        return Needs("sampled" if self.support == "sampled" else "full")

    @property
    def corrected(self) -> bool:
        return self.full or super().corrected

    @property
    def contract(self) -> Contract:
        if self.support == "full":
            how = ("full", "exact", "back-propagation")
            return Contract("reverse KL", *how, gradient={"reverse_kl": 1.0})
        if self.support == "top_k":
            how = ("top-k with tail", "exact over K + 1 buckets", "back-propagation")
            name = "teachers_" if self.top_k_of == "teacher" else ""
            return Contract("reverse KL", *how, gradient={f"{name}top_k_reverse_kl": 1.0})
        name = "reverse_kl" if self.advantage_clip is None else "bounded_log_ratio"
        how = ("sampled", "log pi_T - log pi_S (k1)", "policy gradient")
        on = "the student's own samples" if not self.corrected else "ratios within their limit"
        return Contract("reverse KL", *how, gradient={name: 1.0}, condition=on)

    def supervise(self, rollout: Rollout, scores: TeacherScores) -> Supervision:
        advantage = clip_advantage(scores.log_prob - rollout.log_prob, self.advantage_clip)
        return supervision_of(rollout, advantage)

    def token_loss(
        self,
        student: Float[Tensor, "T V"],
        teacher: Float[Tensor, "T V"] | None,
        supervision: Supervision,
    ) -> Float[Tensor, "T"]:
        if teacher is None:
            return self.sampled_loss(student, supervision)
        if self.top_k is not None:
            split = teachers_top_k_with_tail if self.top_k_of == "teacher" else top_k_with_tail
            return reverse_kl(*split(student, teacher, self.top_k))
        return reverse_kl(student, teacher)

    def listed_loss(
        self,
        student: Float[Tensor, "T N"],
        teacher: Float[Tensor, "T N"],
        supervision: Supervision,
    ) -> Float[Tensor, "T"]:
        return reverse_kl(student, no_smaller_tail(teacher))


NO_TAIL = {
    "renormalised": "a KL between top-k probabilities made to sum to 1 does not see what leaves "
    "the top, and over one token it is identically zero: it trains nothing",
    "dropped": "a KL summed over only the top-k is not a divergence: its minimum is not at the teacher, "
    "and the student sheds top-k probability",
}
