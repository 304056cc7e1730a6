"""Whether steps reach the weights: an update smaller than a weight's last digit is lost in it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from opdlab.configuration import Training
from opdlab.shapes import Tensor

LOOKED_AT = 64  # tensors of weights, evenly over the model
OF_EACH = 64  # weights


class ReachedWeights:
    """The share of weights that a step changed, of those that had a gradient, in a sample of them.

    The sample is always the same. Weights that no answer asked for (the embeddings of other tokens) stay
    as they are in any format and do not count.
    """

    def __init__(self, model: nn.Module) -> None:
        self.weights = _looked_at(model)
        self.found = self.moved = torch.zeros(0)

    def before(self) -> None:
        """Look at the weights before a step, with its gradients there."""
        self.found = _sample(self.weights)
        none = [torch.zeros_like(one) if one.grad is None else one.grad for one in self.weights]
        self.moved = _sample(none) != 0

    def share(self) -> float:
        """The share of them that is another number now; NaN where none had a gradient."""
        other = (_sample(self.weights) != self.found) & self.moved
        return float(other.sum() / self.moved.sum())


def reached_by_a_step(model: nn.Module, training: Training) -> float:
    """The share of weights that AdamW's step at the highest learning rate changes, whatever the gradient.

    Its step is about the learning rate in size, so what it reaches is a matter of the weights' format.
    """
    before = _sample(_looked_at(model))
    if training.precision == "bf16-true":
        before = before.bfloat16()
    weights = nn.Parameter(before.clone())
    weights.grad = torch.ones_like(before)
    weights.grad[::2] = -1
    torch.optim.AdamW([weights], lr=training.learning_rate, weight_decay=0.0).step()
    return float((weights.detach() != before).float().mean())


def _looked_at(model: nn.Module) -> list[nn.Parameter]:
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    return trained[:: max(1, len(trained) // LOOKED_AT)]


def local(tensor: Tensor) -> Tensor:
    """What this process holds of it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def _sample(tensors: Sequence[Tensor]) -> Tensor:
    """A copy of some of their entries."""
    flat = [local(one.detach()).flatten() for one in tensors]
    return torch.cat([one[:: max(1, len(one) // OF_EACH)][:OF_EACH] for one in flat])
