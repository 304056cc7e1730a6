"""Losses between a student and a teacher that tells some tokens alone, not spread over a vocabulary.

The student's own probabilities need its whole vocabulary once; of the teacher 64 numbers are enough, for
the loss and for its gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from opdlab.modelling.precision import FLOOR, expectation, rule_out_alike
from opdlab.shapes import Float, Int, Tensor
from opdlab.transfers import to_device

NEVER = -87.0
"""Log-probability of what is not a token: as probability it is as good as 0, and still a number."""


@dataclass(frozen=True, eq=False)
class Listed:
    """A teacher's next-token distributions by some of their tokens.

    Attributes:
        ids: none twice in a row; -1, after the others, is none. `Int[T M]`
        log_prob: in nats. `Float[T M]`
        rest: of all other tokens together; None where they have no probability. `Float[T]`
    """

    ids: Int[Tensor, "T M"]
    log_prob: Float[Tensor, "T M"]
    rest: Float[Tensor, "T"] | None = None

    def likeliest(self, count: int) -> Listed:
        """The same by the first tokens, where the likeliest come first; the others join the rest."""
        if count >= self.ids.shape[1]:
            return self
        others = self.log_prob[:, count:].logsumexp(-1)
        rest = others if self.rest is None else torch.logaddexp(others, self.rest)
        return Listed(self.ids[:, :count], self.log_prob[:, :count], rest)

    def to(self, device: torch.device) -> Listed:
        """The same on a device."""
        rest = None if self.rest is None else to_device(self.rest, device)
        return Listed(to_device(self.ids, device), to_device(self.log_prob, device), rest)

    def compared(
        self, logits: Float[Tensor, "C V"], part: slice
    ) -> tuple[Float[Tensor, "C N"], Float[Tensor, "C N"], Float[Tensor, "C"]]:
        """What a loss compares at a slice of the tokens: log-probabilities of the listed tokens and, where
        there is one, of the rest, last.

        Returns:
            The student's, with the gradient to its logits; the teacher's; the student's entropy, detached.
        """
        ids, log_prob = self.ids[part], self.log_prob[part].to(logits.dtype)
        student, entropy = _ListedLogProb.apply(logits, ids)
        none = ids < 0
        # Of both alike, so that no divergence counts what is not a token.
        student = student.masked_fill(torch.nn.functional.pad(none, (0, 1)), NEVER)
        teacher = log_prob.masked_fill(none, NEVER)
        if self.rest is None:
            student = student[:, :-1]
        else:
            teacher = torch.cat([teacher, self.rest[part, None].to(logits.dtype)], -1)
        teacher = teacher.log_softmax(-1)
        rule_out_alike(student, teacher)
        return student, teacher, entropy


class _ListedLogProb(torch.autograd.Function):
    """Log-probabilities of some tokens and of all others together, last; and the entropy.

    The probability of the others is summed over their own: 1 minus the rest loses all digits where that is
    sure. What is not a token (-1) gets that of the first one.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        none = ids < 0
        places = torch.where(none, ids[:, :1], ids)
        listed = logits.gather(-1, places)
        others = logits.scatter(-1, places, -torch.inf)
        most = others.amax(-1, keepdim=True).clamp(min=FLOOR)
        # Not minus infinity, which times a probability of 0 is not a number.
        torch.sub(logits, most, out=others).scatter_(-1, places, FLOOR)
        p = others.exp()
        total = p.sum(-1, keepdim=True)  # 1 or more, but where all tokens are listed
        rest = most + total.log()
        total.clamp_(min=1)
        each = listed.masked_fill(none, -torch.inf)
        whole = torch.logaddexp(rest, each.logsumexp(-1, keepdim=True))
        found = torch.cat([listed, rest], -1) - whole
        share = found[:, -1:].exp() / total
        inside = (found[:, :-1].exp() * found[:, :-1]).masked_fill(none, 0).sum(-1)
        outside = expectation(p, others) * share[:, 0] + found[:, -1].exp() * (most - whole)[:, 0]
        entropy = -(inside + outside)
        ctx.save_for_backward(p, total, places, none, found)
        ctx.mark_non_differentiable(entropy)
        return found, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        p, total, places, none, found = ctx.saved_tensors
        own, of_rest = upstream[0][:, :-1], upstream[0][:, -1:]
        whole = upstream[0].sum(-1, keepdim=True)
        gradient = p * ((of_rest - whole * found[:, -1:].exp()) / total)
        inside = whole * found[:, :-1].exp().masked_fill(none, 0)
        return gradient.scatter_add_(-1, places, own - inside), None
