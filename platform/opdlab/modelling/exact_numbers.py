"""A model in half precision computed in float32, one operation at a time: rounding then hides nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

_HALF = (torch.bfloat16, torch.float16)


@contextmanager
def in_float32(device: torch.device) -> Iterator[None]:
    """Within, operations of torch compute and answer in float32, whatever the format of weights is.

    A copy of a weight in float32 takes room for as long as one operation needs it.
    """
    with torch.autocast(device.type, enabled=False), _InFloat32():
        yield


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
            if value in _HALF if isinstance(value, torch.dtype) else False:
                return torch.float32
            if not isinstance(value, torch.Tensor) or view or any(value is one for one in written):
                return value
            return value.to(format) if value.dtype in (*_HALF, torch.float32) else value

        return func(*tree_map(cast, args), **tree_map(cast, kwargs))
