"""A model in half precision computed in float32, one operation at a time: rounding then hides nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from transformers import PreTrainedModel

from opdlab.modelling.eval_mode import sampling_mode

_HALF = (torch.bfloat16, torch.float16)


def hides_faults(model: PreTrainedModel) -> bool:
    """Whether a model computes in half precision, with weights that `in_float32` can read."""
    whole = model.dtype == torch.float32 and not torch.is_autocast_enabled(model.device.type)
    return not whole and all(type(one.data) is torch.Tensor for one in model.parameters())


@contextmanager
def in_float32(model: PreTrainedModel) -> Iterator[None]:
    """Within, operations of torch compute and answer in float32, whatever the format of weights is.

    Without gradients or dropout. A copy of a weight in float32 takes room for as long as one operation
    needs it. Kernels of others may refuse float32.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        # In inference mode convolutions come here before they compare formats.
        whole = torch.autocast(model.device.type, enabled=False)
        with sampling_mode(model), whole, _InFloat32():
            yield
    finally:
        torch.set_float32_matmul_precision(before)


class _InFloat32(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func._schema.name == "mkldnn::_linear_pointwise":
            # Packed weights (`packed_weights`) are in the format that they were packed in.
            inputs, packed, bias, *_ = args
            func, args = torch.ops.aten.linear.default, (inputs, packed.to_dense(), bias)
        schema = func._schema
        given = [*args, *kwargs.values()]
        written = [
            value
            for place, value in zip(schema.arguments, given, strict=False)
            if place.alias_info is not None and place.alias_info.is_write
        ]
        view = not written and any(one.alias_info is not None for one in schema.returns)
        format = written[0].dtype if written and written[0].dtype in _HALF else torch.float32

        def cast(value: Any) -> Any:
            if isinstance(value, torch.dtype):
                return torch.float32 if value in _HALF else value
            if not isinstance(value, torch.Tensor) or view or any(value is one for one in written):
                return value
            return value.to(format) if value.dtype in (*_HALF, torch.float32) else value

        return func(*tree_map(cast, args), **tree_map(cast, kwargs))
