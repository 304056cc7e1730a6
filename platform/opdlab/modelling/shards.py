"""Where a model's weights are while it is used: whole in this process, or in parts on all (FSDP2).

Layers of a sharded model are gathered one at a time by the forward that comes to them, so every process
must make equally many forwards, and backward passes in the same order. How many each has to make depends
on its own rows; nothing here assumes that these are equal.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar, final

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from transformers import PreTrainedModel

from opdlab.errors import ModelError
from opdlab.modelling import adapters
from opdlab.modelling.head import decoder, hidden_states
from opdlab.modelling.recomputed import layers_of
from opdlab.peers import failing_together, gathered, meet, several_processes
from opdlab.shapes import Tensor

Result = TypeVar("Result")


class Weights(ABC):
    """How the processes that train together hold a model.

    Attributes:
        spread: whether a forward with gradient is one of all processes together.
    """

    spread: bool

    @abstractmethod
    def whole(self) -> AbstractContextManager[None]:
        """Within, this process has all weights and makes as many forwards as it likes, without gradient."""

    @abstractmethod
    def together(self) -> AbstractContextManager[None]:
        """The same, but weights may stay where they are; every process comes here equally often.

        Raises:
            PeerError: another process failed within.
        """

    @abstractmethod
    def sampling(self) -> AbstractContextManager[None]:
        """`whole` where there is room for it on every process, else `together`."""

    @abstractmethod
    def run(self, work: Callable[[], Result]) -> Result:
        """Work with a gradient that makes one forward of the model, as every other process does now.

        Tensors that carry the gradient must be in a tuple, or be the result itself.
        """

    @abstractmethod
    def head(self) -> AbstractContextManager[None]:
        """Within, what is not in a layer is whole: embeddings, last norm, vocabulary projection."""

    @abstractmethod
    def exported(self) -> dict[str, Tensor] | None:
        """All weights on the host of the first process, asked for by all; None where the model has them."""


@final
class WholeWeights(Weights):
    """Each process has a model of its own."""

    spread = False

    def whole(self) -> AbstractContextManager[None]:
        return nullcontext()

    def together(self) -> AbstractContextManager[None]:
        return nullcontext()

    def sampling(self) -> AbstractContextManager[None]:
        return nullcontext()

    def run(self, work: Callable[[], Result]) -> Result:
        return work()

    def head(self) -> AbstractContextManager[None]:
        return nullcontext()

    def exported(self) -> None:
        return None


class _Root(nn.Module):
    """What FSDP takes for the model: whatever is done within its forward finds the weights of no layer.

    The model itself is not: its own forward also runs for the vocabulary projection alone, often within
    one loss, and FSDP would take each for a pass of its own.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, work: Callable[[], Any]) -> Any:
        return work()


@final
class ShardedWeights(Weights):
    """Each process has a part of every weight, and gathers a layer for as long as it is computed.

    Attributes:
        roomy: whether `sampling` may gather all weights; None to look at the memory that is free.
    """

    spread = True

    def __init__(
        self, model: PreTrainedModel, mesh: DeviceMesh, policy: MixedPrecisionPolicy
    ) -> None:
        """Shard a model in place.

        Args:
            model: not moved to the mesh's device yet.

        Raises:
            ModelError: its layers cannot be told.
        """
        decoder(model)  # found by a forward in some models, which must not be the first of all
        try:
            layers = layers_of(model)
        except ModelError as error:
            raise ModelError(
                f"{type(model).__name__} has no layers that could be sharded; set training.strategy: ddp"
            ) from error
        self.model, self.layers = model, layers
        self.roomy: bool | None = None
        self.gathering = False
        options = {"mesh": mesh, "mp_policy": policy}
        for layer in layers:
            fully_shard(layer, **options)
        self.root = _Root(model)
        fully_shard(self.root, **options)

    def run(self, work: Callable[[], Result]) -> Result:
        return self.root(work)

    @contextmanager
    def head(self) -> Iterator[None]:
        with torch.no_grad():
            self.root(lambda: None)  # gathers them, and settles which module is the outermost
        try:
            yield
        finally:
            as_sharded(self.root).reshard()

    def sampling(self) -> AbstractContextManager[None]:
        return self.whole() if self._has_room() else self.together()

    def _has_room(self) -> bool:
        """Whether every process has memory for all weights, and as much again for keys and values."""
        if self.roomy is None:
            weights = list(self.model.parameters())
            device = weights[0].device
            wanted = 2 * sum(weight.numel() * weight.element_size() for weight in weights)
            here = device.type != "cuda" or torch.cuda.mem_get_info(device)[0] > wanted
            self.roomy = all(gathered(here, alone=not several_processes()))
        return self.roomy

    @contextmanager
    def whole(self) -> Iterator[None]:
        with self.head():
            for layer in self._sharded():
                layer.set_reshard_after_forward(False, recurse=False)
                layer.unshard()
            try:
                yield
            finally:
                for layer in self._sharded():
                    layer.set_reshard_after_forward(True, recurse=False)
                    layer.reshard()
                self._forget()

    @contextmanager
    def together(self) -> Iterator[None]:
        if self.gathering:
            yield
            return
        self.gathering, first = True, self.layers[0]
        with self.head(), torch.no_grad():
            # Before the layer's own hook, which gathers its weights.
            handle = first.register_forward_pre_hook(lambda *_: meet(), prepend=True)
            try:
                with failing_together(still=self._follow):
                    try:
                        yield
                    finally:
                        handle.remove()
            finally:
                self.gathering = False
                self._forget()

    def _follow(self) -> None:
        """A forward of one token, as others make one of theirs."""
        device = next(self.model.parameters()).device
        hidden_states(self.model, torch.zeros(1, 1, dtype=torch.long, device=device))

    def exported(self) -> dict[str, Tensor]:
        # Of adapters alone, where there are some: nothing else is written of a student with them.
        options = StateDictOptions(
            full_state_dict=True, cpu_offload=True, ignore_frozen_params=adapters.has(self.model)
        )
        found: dict[str, Any] = get_model_state_dict(self.model, options=options)
        return found

    def _sharded(self) -> Iterator[FSDPModule]:
        return map(as_sharded, self.layers)

    def _forget(self) -> None:
        """FSDP notes each forward for the backward pass, which here is none."""
        state: Any = as_sharded(self.root)._get_fsdp_state()
        state._comm_ctx.post_forward_order.clear()
        for each in state._state_ctx.all_states:
            for group in each._fsdp_param_groups:
                group._post_forward_indices.clear()


def as_sharded(module: nn.Module) -> FSDPModule:
    """The module by what FSDP made of it."""
    assert isinstance(module, FSDPModule)
    return module
