"""What a card's recording of a step does, without a card: operators are kept and run again, code is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from opdlab.shapes import Tensor

_WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2"}


class _Made(int):
    """Stands for a tensor that an operator makes, by number."""


class OperatorTape(TorchDispatchMode):
    """Operators of a function; whenever they are played they read and write where they did when recorded.

    Recording leaves all tensors as they were, as a card's does, which computes nothing meanwhile.
    """

    def __init__(self, function: Callable[[], Tensor]) -> None:
        """Record it.

        Raises:
            RuntimeError: it waits for the device.
        """
        super().__init__()
        self.calls: list[tuple[Any, list[Any], dict[str, Any], list[_Made | None]]] = []
        self.made: dict[int, _Made] = {}
        # All of them stay, so that none has the identity of another.
        self.kept: list[Tensor] = []
        self.found: dict[int, tuple[Tensor, Tensor]] = {}
        with self:
            self.result = self._slot(function())
        for tensor, content in reversed(self.found.values()):
            tensor.copy_(content)

    def _slot(self, one: Any) -> Any:
        if type(one) in (list, tuple):
            return [self._slot(each) for each in one]
        return self.made.get(id(one), one)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func._schema.name.rpartition("::")[2] in _WAITS:
            raise RuntimeError(f"operation not permitted when stream is capturing: {func}")
        for one in pytree.tree_leaves((args, kwargs)):
            if isinstance(one, Tensor) and id(one) not in self.made and id(one) not in self.found:
                self.found[id(one)] = one, one.clone()
        given = self._slot(args), {name: self._slot(one) for name, one in kwargs.items()}
        result = func(*args, **kwargs)
        results = list(result) if isinstance(result, (list, tuple)) else [result]
        for one in results:
            if isinstance(one, Tensor) and id(one) not in self.found and id(one) not in self.made:
                self.made[id(one)] = _Made(len(self.kept))
                self.kept.append(one)
        self.calls.append((func, *given, [self.made.get(id(one)) for one in results]))
        return result

    def play(self) -> Tensor:
        """Run the operators."""
        now: list[Any] = [None] * len(self.kept)

        def current(one: Any) -> Any:
            if type(one) is list:
                return [current(each) for each in one]
            return now[one] if type(one) is _Made else one

        for func, args, kwargs, places in self.calls:
            given = {name: current(one) for name, one in kwargs.items()} if kwargs else kwargs
            result = func(*[current(one) for one in args], **given)
            results = result if isinstance(result, (list, tuple)) else [result]
            for place, one in zip(places, results, strict=True):
                if place is not None:
                    now[place] = one
        return current(self.result)
