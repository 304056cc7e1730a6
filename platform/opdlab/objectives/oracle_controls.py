"""Objectives known to be wrong, as frameworks have shipped them: the oracle must name each.

None of them can be chosen in an experiment. They prove, each time the oracle's table is made, that
the oracle can tell right from wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from opdlab.methods import LGR, OPD, Contract, Method, Needs, at, policy_gradient, supervision_of
from opdlab.records import Rollout, Supervision, TeacherScores
from opdlab.shapes import Float, Tensor

K = 2
_CLAIM = Contract("reverse KL", "sampled", "wrong", "both", gradient={"reverse_kl": 1.0})


@dataclass(frozen=True)
class _Wrong(OPD):
    @property
    def contract(self) -> Contract:
        return _CLAIM


@dataclass(frozen=True)
class _WrongFull(_Wrong):
    @property
    def needs(self) -> Needs:
        return Needs("full")


@dataclass(frozen=True)
class K1Backpropagated(_Wrong):
    """k1 = log pi_S - log pi_T of the sampled token, differentiated."""

    def token_loss(
        self, student: Float[Tensor, "T V"], teacher: Tensor | None, supervision: Supervision
    ) -> Float[Tensor, "T"]:
        return at(student, supervision.token) - supervision.advantage - supervision.log_prob


@dataclass(frozen=True)
class K3Backpropagated(_Wrong):
    """k3 = r - 1 - log r, a good estimate of the reverse KL's value, differentiated."""

    def token_loss(
        self, student: Float[Tensor, "T V"], teacher: Tensor | None, supervision: Supervision
    ) -> Float[Tensor, "T"]:
        teacher_log_prob = supervision.advantage + supervision.log_prob
        log_ratio = teacher_log_prob - at(student, supervision.token)
        return log_ratio.exp() - 1 - log_ratio


@dataclass(frozen=True)
class K2AsReward(_Wrong):
    """k2 = (log r)^2 / 2, detached, as a cost of the sampled token."""

    def supervise(self, rollout: Rollout, scores: TeacherScores) -> Supervision:
        return supervision_of(rollout, -(scores.log_prob - rollout.log_prob).square() / 2)


@dataclass(frozen=True)
class K3AsReward(_Wrong):
    """k3, detached, as a cost of the sampled token."""

    def supervise(self, rollout: Rollout, scores: TeacherScores) -> Supervision:
        log_ratio = scores.log_prob - rollout.log_prob
        return supervision_of(rollout, -(log_ratio.exp() - 1 - log_ratio))


@dataclass(frozen=True)
class DetachedTopK(_WrongFull):
    """A KL over the top-k, detached, as the (negative) advantage of the sampled token."""

    def token_loss(
        self, student: Float[Tensor, "T V"], teacher: Tensor | None, supervision: Supervision
    ) -> Float[Tensor, "T"]:
        assert teacher is not None
        cost = _top_k_sum(student, teacher).detach()
        return policy_gradient(at(student, supervision.token), -cost, supervision.log_prob)


@dataclass(frozen=True)
class TopOneRenormalised(_WrongFull):
    """A KL between distributions over the student's likeliest token alone, each made to sum to 1."""

    def token_loss(
        self, student: Float[Tensor, "T V"], teacher: Tensor | None, supervision: Supervision
    ) -> Float[Tensor, "T"]:
        assert teacher is not None
        top = student.detach().topk(1, -1).indices
        p, q = (x.gather(-1, top).log_softmax(-1) for x in (student, teacher))
        return (p.exp() * (p - q)).sum(-1)


@dataclass(frozen=True)
class TopKDropped(_WrongFull):
    """The reverse KL's summands of the top-k alone, differentiated."""

    def token_loss(
        self, student: Float[Tensor, "T V"], teacher: Tensor | None, supervision: Supervision
    ) -> Float[Tensor, "T"]:
        assert teacher is not None
        return _top_k_sum(student, teacher)


@dataclass(frozen=True)
class Whitened(_Wrong):
    """Advantages made to have mean 0 and deviation 1 over the batch, after the teacher's term."""

    def supervise(self, rollout: Rollout, scores: TeacherScores) -> Supervision:
        raw = scores.log_prob - rollout.log_prob
        scale = raw.std(correction=0).clamp(min=1e-6)
        return supervision_of(rollout, (raw - raw.mean()) / scale)


@dataclass(frozen=True)
class PrintedSign(LGR):
    """LGR as its formula is printed: the reward added to a cost."""

    top_k: int = 3

    @property
    def contract(self) -> Contract:
        return replace(_CLAIM, gradient={"reverse_kl": 1.0, "raise_lookahead": 1.0})

    def supervise(self, rollout: Rollout, scores: TeacherScores) -> Supervision:
        right = super().supervise(rollout, scores)
        plain = scores.log_prob - rollout.log_prob
        return replace(right, advantage=2 * plain - right.advantage)


def _top_k_sum(student: Float[Tensor, "T V"], teacher: Float[Tensor, "T V"]) -> Float[Tensor, "T"]:
    top = student.detach().topk(K, -1).indices
    p, q = student.gather(-1, top), teacher.gather(-1, top)
    return (p.exp() * (p - q)).sum(-1)


CONTROLS: Mapping[str, Method] = {
    "k1, back-propagated": K1Backpropagated(),
    "k3, back-propagated": K3Backpropagated(),
    "k2 as a reward": K2AsReward(),
    "k3 as a reward": K3AsReward(),
    "top-k KL, detached, as a reward": DetachedTopK(),
    "top-1 KL, renormalised": TopOneRenormalised(),
    "top-k KL without its tail": TopKDropped(),
    "advantages whitened after the teacher's term": Whitened(),
    "LGR with the printed sign": PrintedSign(),
}
