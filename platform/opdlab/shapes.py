"""Shape annotations: jaxtyping where it is installed, plain labels where only torch is.

Axis letters are the same everywhere: B rows, S columns of a padded row, T response tokens of a whole
batch laid end to end, K candidates, N leaves, H hidden width, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from opdlab.postponed import is_postponed


class _Label:
    def __class_getitem__(cls, item: Any) -> Any:
        return item[0]


class _Tensors(type):
    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, torch.Tensor)


if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor
elif is_postponed(torch):
    Bool = Float = Int = _Label

    class Tensor(metaclass=_Tensors):
        """Stands for a tensor in annotations, and when it is asked whether something is one."""

else:
    from torch import Tensor

    try:
        from jaxtyping import Bool, Float, Int
    except ImportError:
        Bool = Float = Int = _Label

__all__ = ["Bool", "Float", "Int", "Tensor"]
