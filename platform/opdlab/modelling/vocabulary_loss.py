"""Losses over whole next-token distributions without ever holding all of them.

The loss of a token depends on its own vocabulary row alone, so rows are projected, scored and
differentiated a chunk at a time, in the forward pass: no row is kept, and none is computed twice. What
remains for the backward pass is to scale finished gradients. The idea is that of fused cross entropies
(Cut Your Losses, arXiv:2411.09009; Liger Kernel, arXiv:2410.10989), here for any `token_loss` and any head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear

from opdlab.errors import ModelError
from opdlab.modelling.listed import Listed
from opdlab.modelling.precision import expectation, rule_out_alike, unbounded
from opdlab.records import Supervision
from opdlab.shapes import Float, Tensor

TokenLoss = Callable[[Tensor, Tensor | None, Supervision], Tensor]


@dataclass(frozen=True, eq=False)
class TokenLosses:
    """What the loss over the vocabulary gives for each response token.

    Attributes:
        loss: in nats; carries the gradient; infinite where one model rules out a token that the other does
            not, and the loss has no bound. `Float[T]`
        entropy: of the student, nats, detached. `Float[T]`
        reverse_kl: KL(student || teacher), nats, detached; None without a teacher, and of one that lists
            some tokens alone. `Float[T]`
    """

    loss: Float[Tensor, "T"]
    entropy: Float[Tensor, "T"]
    reverse_kl: Float[Tensor, "T"] | None


@dataclass(frozen=True, eq=False)
class Rows:
    """Everything that gives the losses of hidden rows.

    Attributes:
        student, teacher: hidden rows of a slice -> logits over the shared vocabulary, in float32. The
            student's takes the rows themselves, the teacher's knows its own.
        listed: instead of `teacher`, of one that tells some tokens alone.
        weights: what the losses will be multiplied by, up to a factor; at most 1. `Float[T]`
        at_a_time: vocabulary rows projected together, and those whose loss is computed together.
        head: the linear layer at the end of the student, where it is no more than that.
    """

    student: Callable[[Float[Tensor, "C H"]], Float[Tensor, "C V"]]
    teacher: Callable[[slice], Float[Tensor, "C V"]] | None
    listed: Listed | None
    supervision: Supervision
    token_loss: TokenLoss
    weights: Float[Tensor, "T"]
    at_a_time: tuple[int, int]
    head: nn.Linear | None = None

    def losses(
        self, logits: Float[Tensor, "C V"], teacher: Float[Tensor, "C V"] | None, part: slice
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Loss with its gradient, and what is logged, of some rows."""
        # Autocast would take products and sums of a method in half precision.
        with torch.autocast(logits.device.type, enabled=False):
            if self.listed is not None:
                student, said, entropy = self.listed.compared(logits, part)
                loss = unbounded(self.token_loss(student, said, self.supervision[part]))
                return loss, entropy, torch.zeros_like(entropy)
            log_p = logits.log_softmax(-1)
            log_q = None if teacher is None else teacher.log_softmax(-1)
            if log_q is not None:
                rule_out_alike(log_p, log_q)
            loss = unbounded(self.token_loss(log_p, log_q, self.supervision[part]))
        with torch.no_grad():
            p = log_p.exp()
            entropy = -expectation(p, log_p)
            kl = torch.zeros_like(entropy)
            if log_q is not None:
                kl = unbounded(-entropy - expectation(p, log_q))
        return loss, entropy, kl

    def teacher_logits(self, part: slice) -> Float[Tensor, "C V"] | None:
        if self.teacher is None:
            return None
        with torch.no_grad():
            return self.teacher(part)


def token_losses(
    rows: Rows, hidden: Float[Tensor, "T H"], parameters: Sequence[nn.Parameter]
) -> TokenLosses:
    """Losses of all rows; gradients flow to `hidden` and to the head's `parameters`.

    Raises:
        ModelError: a transform of `torch.func` asks for the gradient of many rows.
    """
    chunk, few = rows.at_a_time
    if len(hidden) > few and torch.is_grad_enabled():
        if torch._C._are_functorch_transforms_active():
            raise ModelError(
                "the loss over the vocabulary is made in chunks, which torch.func (grad, vmap, jvp ...) "
                "cannot transform; call backward() or torch.autograd.grad on it instead"
            )
        found = _ChunkedLoss.apply(rows, hidden, *parameters)
    else:
        parts = list(slices(len(hidden), chunk)) or [slice(0, 0)]
        pieces = [
            rows.losses(rows.student(hidden[part]), rows.teacher_logits(part), part)
            for part in parts
        ]
        found = [torch.cat(column) for column in zip(*pieces, strict=True)]
    loss, entropy, kl = found
    return TokenLosses(loss, entropy, None if rows.teacher is None else kl)


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Rows, hidden: Tensor, *parameters: nn.Parameter) -> Any:
        values, gradients = _run(rows, hidden, parameters, rows.weights)
        ctx.rows, ctx.parameters, ctx.gradients = rows, parameters, gradients
        ctx.versions = [one._version for one in parameters]
        ctx.save_for_backward(hidden)
        ctx.dtype = hidden.dtype
        ctx.mark_non_differentiable(*values[1:])
        return values

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        if torch.is_grad_enabled():
            raise ModelError(
                "the loss over the vocabulary is made in chunks, whose gradient cannot be differentiated "
                "again; leave out create_graph=True"
            )
        weights = ctx.rows.weights
        scale = upstream[0].sum() / weights.sum().clamp(min=1e-12)
        gradients = ctx.gradients
        if gradients is None or not torch.allclose(upstream[0], scale * weights, rtol=1e-4, atol=0):
            # A backward pass before took them, or the losses were weighted in another way than announced.
            gradients = _run(ctx.rows, _as_it_was(ctx), ctx.parameters, upstream[0])[1]
            scale = torch.ones_like(scale)
        ctx.gradients = None
        for_hidden, *others = (None if g is None else g.mul_(scale) for g in gradients)
        assert for_hidden is not None
        return None, for_hidden.to(ctx.dtype), *others


def _as_it_was(ctx: Any) -> Float[Tensor, "T H"]:
    """The hidden states of a loss that goes backward again, where nothing has changed since.

    Raises:
        ModelError: the head's weights or the states have, or the graph was freed.
    """
    try:
        (hidden,) = ctx.saved_tensors
    except RuntimeError as error:
        raise ModelError(
            "the loss over the vocabulary cannot go backward again: its hidden states were freed, or "
            "changed in place; compute it again, or keep them with backward(retain_graph=True)"
        ) from error
    if ctx.versions != [one._version for one in ctx.parameters]:
        raise ModelError(
            "the loss over the vocabulary cannot go backward again: weights of the head were changed in "
            "place since, as an optimizer's step does; compute the loss again after each step"
        )
    return hidden


def _run(
    rows: Rows, hidden: Tensor, parameters: Sequence[nn.Parameter], weights: Float[Tensor, "T"]
) -> tuple[tuple[Tensor, ...], list[Tensor | None]]:
    """Losses and logged numbers of all rows, and the gradients of their weighted sum."""
    values = hidden.new_empty(3, len(hidden), dtype=torch.float32)
    wanted = [p.requires_grad for p in parameters]
    small = _in_float16(hidden)
    for_hidden = torch.empty_like(hidden, dtype=torch.float32 if small else hidden.dtype)
    # Sums over many chunks, so in float32 whatever the weights are.
    sums = [
        torch.zeros_like(p, dtype=torch.float32) if want else None
        for p, want in zip(parameters, wanted, strict=True)
    ]
    trained = [p for p in parameters if p.requires_grad]
    for part in slices(len(hidden), rows.at_a_time[0]):
        with torch.enable_grad(), _adding(rows.head, parameters, sums):
            leaf = hidden[part].detach().requires_grad_()
            logits = rows.student(leaf)
        gradient = _logit_gradient(rows, logits.detach(), part, weights, values)
        scale = _to_one(gradient) if small else None
        found = iter(torch.autograd.grad(logits, [leaf, *trained], gradient, allow_unused=True))
        for_hidden[part] = _unscaled(next(found), scale)
        for total in sums:
            if total is not None and (piece := next(found)) is not None:
                total += _unscaled(piece, scale)
        # Else they would still be there while the next rows are projected.
        del logits, gradient, leaf
    finished = [
        None if total is None else total.to(p.dtype)
        for total, p in zip(sums, parameters, strict=True)
    ]
    return tuple(values), [for_hidden, *finished]


def _in_float16(hidden: Tensor) -> bool:
    """Whether the head computes in float16, where what is below 6e-8 is 0."""
    kind = hidden.device.type
    mixed = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.float16
    return mixed or hidden.dtype == torch.float16


def _to_one(gradient: Float[Tensor, "C V"]) -> Float[Tensor, ""]:
    """Scale a gradient so that its largest entry is about 1; the power of two that does it.

    Rows of one step may weigh a thousandth of others; scaling the whole loss does not help them.
    """
    power = torch.exp2(-gradient.abs().amax().clamp(min=2.0**-100).log2().ceil())
    scale = torch.where(power.isfinite(), power, 1.0)
    gradient.mul_(scale)
    return scale


def _unscaled(gradient: Tensor, scale: Float[Tensor, ""] | None) -> Tensor:
    return gradient if scale is None else gradient.float() / scale


@contextmanager
def _adding(
    head: nn.Linear | None, parameters: Sequence[nn.Parameter], sums: Sequence[Tensor | None]
) -> Iterator[None]:
    """Within, the head adds its weight's gradient to the sum instead of making one for every chunk.

    Of a large vocabulary that gradient is larger than all else that a chunk needs.
    """
    total = next(
        (
            total
            for total, p in zip(sums, parameters, strict=True)
            if head is not None and p is head.weight
        ),
        None,
    )
    if head is None or total is None:
        yield
        return
    head.forward = lambda input: _AddingLinear.apply(input, head.weight, head.bias, total)
    try:
        yield
    finally:
        del head.forward


class _AddingLinear(torch.autograd.Function):
    """A linear layer whose backward pass adds the gradient of its weight to `total`, in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, total: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.biased, ctx.total = bias is not None, total
        return linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        rows = upstream[0].flatten(0, -2)
        _add_product(ctx.total, rows.t(), x.flatten(0, -2))
        return upstream[0] @ weight, None, rows.sum(0) if ctx.biased else None, None


def _add_product(
    total: Float[Tensor, "V H"], left: Float[Tensor, "V C"], right: Float[Tensor, "C H"]
) -> None:
    """Add a product to a float32 sum, in float32 whatever the factors are."""
    if total.is_cuda and left.dtype == right.dtype != torch.float32:
        # Products of short formats with sums in float32: fifteen times as fast as of float32.
        torch.ops.aten.addmm.dtype_out(total, left, right, torch.float32, out=total)
    else:
        total.addmm_(left.float(), right.float())


def _logit_gradient(
    rows: Rows,
    logits: Float[Tensor, "C V"],
    part: slice,
    weights: Float[Tensor, "T"],
    values: Float[Tensor, "3 T"],
) -> Float[Tensor, "C V"]:
    """Gradient of the weighted losses of a chunk; its losses are written into `values`."""
    teacher = rows.teacher_logits(part)
    gradient = torch.empty_like(logits)
    for block in slices(len(logits), rows.at_a_time[1]):
        place = slice(part.start + block.start, part.start + block.stop)
        with torch.enable_grad():
            leaf = logits[block].requires_grad_()
            numbers = rows.losses(leaf, None if teacher is None else teacher[block], place)
        (gradient[block],) = torch.autograd.grad(numbers[0], leaf, weights[place])
        for line, number in zip(values, numbers, strict=True):
            line[place] = number.detach()
    return gradient


def slices(length: int, size: int) -> Iterator[slice]:
    """Consecutive parts of at most `size` elements."""
    for start in range(0, length, size):
        yield slice(start, min(start + size, length))
