"""Which tensors are made of another one, found without looking at numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from opdlab.shapes import Tensor

_SHAPED_LIKE = ("zeros_like", "ones_like", "empty_like", "full_like", "new_zeros", "new_ones")
_SHAPED_LIKE += ("new_empty", "new_full", "new_empty_strided")


class Following(TorchDispatchMode):
    """Within, what is computed from a tensor is marked; what only has its shape is not."""

    def __init__(self, tensor: Tensor) -> None:
        super().__init__()
        # Kept alive, else others may take over the identity of what is gone.
        self._storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage()}

    def __contains__(self, tensor: Any) -> bool:
        # What the processor packed has no storage, and is a weight.
        is_tensor = isinstance(tensor, torch.Tensor) and not tensor.is_mkldnn
        return is_tensor and tensor.untyped_storage()._cdata in self._storages

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        shaped = func._schema.name.removeprefix("aten::") in _SHAPED_LIKE
        if not shaped and any(one in self for one in tree_leaves((args, kwargs))):
            made = (one for one in tree_leaves(output) if isinstance(one, torch.Tensor))
            self._storages |= {one.untyped_storage()._cdata: one.untyped_storage() for one in made}
        return output
