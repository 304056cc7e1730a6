"""Sums of products in another order: what it changes is what rounding does to a model's numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

ORDERS = (2, 3)
"""Parts of each sum, of the orders that are tried."""

_ATEN = torch.ops.aten
_PRODUCTS: dict[Any, tuple[int, Callable[..., Any]]] = {
    _ATEN.mm.default: (0, _ATEN.mm.default),
    _ATEN.bmm.default: (0, _ATEN.bmm.default),
    _ATEN.addmm.default: (1, _ATEN.mm.default),
    _ATEN.baddbmm.default: (1, _ATEN.bmm.default),
}
"""First factor's place among the arguments, and the product alone."""


class InParts(TorchDispatchMode):
    """Within, sums of products are taken in so many parts, each rounded to the format of the factors."""

    def __init__(self, parts: int) -> None:
        super().__init__()
        self.parts = parts

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name == "mkldnn::_linear_pointwise":
            # Packed weights (`packed_weights`) cannot be cut, so the inputs are, by zeros.
            inputs, packed, bias, *rest = args
            part = torch.arange(inputs.shape[-1]) * self.parts // inputs.shape[-1]
            cut = [inputs * (part == number) for number in range(self.parts)]
            pieces = [func(one, packed, None, *rest) for one in cut[1:]]
            return sum(pieces, func(cut[0], packed, bias, *rest))
        if func not in _PRODUCTS or kwargs:
            return func(*args, **(kwargs or {}))
        first, product = _PRODUCTS[func]
        left, right = args[first : first + 2]
        columns, rows = left.tensor_split(self.parts, -1), right.tensor_split(self.parts, -2)
        pieces = [product(one, other) for one, other in zip(columns, rows, strict=True)]
        return sum(pieces[1:], pieces[0]) if first == 0 else sum(pieces, args[0])
