"""Make the simulated accelerator known to torch and to Lightning; once a process, for all of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import lightning
import torch
from gpu.simulated import NAME, run, to_device, wait
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch.utils import _pytree as pytree

# What autocast does in half precision.
_AUTOCAST = (
    *("mm", "bmm", "addmm", "baddbmm", "matmul", "linear", "einsum"),
    *("scaled_dot_product_attention", "conv1d"),
)


class _Stream:
    """The only one: all is done when it is launched, but who asks waits."""

    def synchronize(self) -> None:
        wait("stream")


_STREAM = _Stream()


class _Module:
    """What torch asks of a device's module."""

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return True

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed(self, seed: int) -> None:
        pass

    def manual_seed_all(self, seed: int) -> None:
        pass

    def synchronize(self, device: Any = None) -> None:
        raise RuntimeError(
            "operation not permitted when stream is capturing: who waits for all streams of a card breaks "
            "a recording that another thread makes there; wait for the current one"
        )

    def set_device(self, device: Any) -> None:
        pass

    def current_stream(self, device: Any = None) -> _Stream:
        return _STREAM

    def stream(self, stream: Any) -> AbstractContextManager[None]:
        return nullcontext()

    def get_rng_state(self, device: Any = None) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor, device: Any = None) -> None:
        pass

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


class _Accelerator(Accelerator):
    """What Lightning asks of a kind of devices."""

    def setup_device(self, device: torch.device) -> None:
        pass

    def get_device_stats(self, device: Any) -> dict[str, Any]:
        return {}

    def teardown(self) -> None:
        pass

    @staticmethod
    def parse_devices(devices: Any) -> int:
        return 1

    @staticmethod
    def get_parallel_devices(devices: Any) -> list[torch.device]:
        return [torch.device(NAME, 0)]

    @staticmethod
    def auto_device_count() -> int:
        return 1

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def name() -> str:
        return NAME


class _Trainer(lightning.Trainer):
    """Lightning's own, which takes the simulated device where it would take a GPU."""

    def __init__(self, **options: Any) -> None:
        if options.get("accelerator") != "cpu":
            device = torch.device(NAME, 0)
            strategy = SingleDeviceStrategy(device=device, accelerator=_Accelerator())
            options |= {"accelerator": "auto", "devices": 1, "strategy": strategy}
            if str(options.get("precision")).endswith("-mixed"):
                mixed = MixedPrecision(options.pop("precision"), NAME)
                options["plugins"] = [*options.get("plugins", ()), mixed]
        super().__init__(**options)


@cache
def register() -> str:
    """Let torch and Lightning find the device; its name."""
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

    _setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
    torch.__future__.set_swap_module_params_on_conversion(True)
    aten = torch.library.Library("aten", "IMPL")
    for name, operator in _factories():
        aten.impl(name, _kernel(operator), "PrivateUse1")
    aten.impl("_to_copy", to_device, "PrivateUse1")
    aten.impl("_copy_from", _copied, "PrivateUse1")
    for name in _AUTOCAST:
        aten.impl(name, _cast(getattr(torch.ops.aten, name).default), "AutocastPrivateUse1")
    rest = torch.library.Library("_", "IMPL")
    rest.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    # They end with the objects.
    register.kept = aten, rest  # pyright: ignore[reportFunctionMemberAccess]
    lightning.Trainer = _Trainer
    # Else a backward pass has a thread of its own, which the end of the process may meet in Python.
    torch.autograd.set_multithreading_enabled(False)
    return NAME


def _kernel(operator: Any) -> Callable[..., Any]:
    return lambda *args, **kwargs: run(operator, args, kwargs)


def _copied(self: torch.Tensor, to: torch.Tensor, non_blocking: bool = False) -> Any:
    return run(torch.ops.aten.copy_.default, (to, self), {})


def _factories() -> Iterator[tuple[str, Any]]:
    """Operators that make a tensor on a device out of none."""
    for full in torch._C._dispatch_get_all_op_names():
        name, _, overload = full.removeprefix("aten::").partition(".")
        try:
            operator = getattr(getattr(torch.ops.aten, name), overload or "default")
        except (AttributeError, RuntimeError):
            continue
        if full.startswith("aten::") and _makes(operator):
            yield full.removeprefix("aten::"), operator


def _makes(operator: Any) -> bool:
    arguments, returns = operator._schema.arguments, operator._schema.returns
    placed = any(argument.name == "device" for argument in arguments)
    takes = any("Tensor" in str(argument.type) for argument in arguments)
    gives = len(returns) == 1 and "Tensor" in str(returns[0].type)
    composed = torch._C._dispatch_has_kernel_for_dispatch_key(
        operator.name(), "CompositeImplicitAutograd"
    )
    return placed and gives and not takes and not composed


def _cast(operator: Any) -> Callable[..., Any]:
    """The operator as autocast runs it."""

    def lowered(one: Any) -> Any:
        floats = isinstance(one, torch.Tensor) and one.is_floating_point()
        wide = not floats or one.dtype == torch.float64
        return one if wide else one.to(torch.get_autocast_dtype(NAME))

    def kernel(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = pytree.tree_map(lowered, (args, kwargs))
        key = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)
        with torch._C._ExcludeDispatchKeyGuard(key):
            return operator(*args, **kwargs)

    return kernel
