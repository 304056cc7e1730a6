"""Shape annotations: jaxtyping where it is installed, plain labels where only torch is.

Axis letters are the same everywhere: B rows, S columns of a padded row, T response tokens of a whole
batch laid end to end, K candidates, N leaves, H hidden width, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
else:
    try:
        from jaxtyping import Bool, Float, Int
    except ImportError:

        class _Label:
            def __class_getitem__(cls, item: Any) -> Any:
                return item[0]

        Bool = Float = Int = _Label

__all__ = ["Bool", "Float", "Int", "Tensor"]
