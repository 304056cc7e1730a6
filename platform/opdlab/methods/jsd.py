"""Generalised Jensen-Shannon divergence on the student's own answers.

    JSD_beta = beta KL(pi_T || m) + (1 - beta) KL(pi_S || m),      m = beta pi_T + (1 - beta) pi_S

Bounded, between the forward KL (beta towards 0) and the reverse KL (beta towards 1); the nearer beta is
to an end, the smaller its gradient, by a factor of beta or 1 - beta. Source: GKD, arXiv:2306.13649.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from opdlab.methods.base import Contract
from opdlab.methods.divergences import generalised_jsd
from opdlab.methods.forward_kl import ForwardKL
from opdlab.methods.needs import Needs
from opdlab.records import option
from opdlab.shapes import Float, Tensor


@dataclass(frozen=True)
class JSD(ForwardKL):
    """On-policy distillation by generalised Jensen-Shannon divergence."""

    beta: float = option(
        0.5, "The teacher's share of the mixture; near 1 it resembles the reverse KL.", gt=0, lt=1
    )

    @property
    def needs(self) -> Needs:
        return replace(super().needs, linear=False)

    @property
    def contract(self) -> Contract:
        return self.contract_of(f"generalised JSD, beta {self.beta:g}", "jsd")

    def divergence(
        self, student: Float[Tensor, "T N"], teacher: Float[Tensor, "T N"]
    ) -> Float[Tensor, "T"]:
        return generalised_jsd(student, teacher, self.beta)
