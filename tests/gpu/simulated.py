"""A simulated accelerator for machines without one: the values of a CPU, the rules of a GPU.

Tensors on the device `sim` lie in host memory. As on a GPU,
- an operator that mixes them with tensors of the host raises, numbers and indices apart; so does a
  generator of the host, and `numpy()`;
- every operator that is launched is counted, and every time that the host waits for the device: reading a
  number or a list, boolean indices, whatever has a size that depends on values, copies in either direction
  but for those to the device that are asked not to wait.

What it cannot show: kernels of CUDA alone, their rounding, memory, time, streams. `gpu.registered` makes it
known to torch. Needs torch 2.13.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch

NAME = "sim"
# Operators whose results, or their sizes, the host must read.
_READS = {
    *("_local_scalar_dense", "equal", "nonzero", "masked_select", "bincount"),
    *("_unique2", "unique_dim", "unique_consecutive"),
}
# Operators that may take tensors of both sides.
_MIXES = {"copy_", "_to_copy", "index", "index_put", "index_put_", "_index_put_impl_"}
_INDEXES = _MIXES - {"copy_", "_to_copy"}


@dataclass(eq=False)
class Counts:
    """What was counted, by operator and by the line that caused it; and the sizes of what the host sent."""

    launches: Counter[str] = field(default_factory=Counter)
    waits: Counter[str] = field(default_factory=Counter)
    sent: list[tuple[int, ...]] = field(default_factory=list)

    @property
    def waited(self) -> int:
        """How many times the host waited."""
        return self.waits.total()

    def lines(self, most: int = 30) -> str:
        """The lines that waited most."""
        return "\n".join(f"{count:7d} {line}" for line, count in self.waits.most_common(most))


_counting: list[Counts] = []


@contextmanager
def counted() -> Iterator[Counts]:
    """Count what is launched and waited for within."""
    counts = Counts()
    _counting.append(counts)
    try:
        yield counts
    finally:
        _counting.remove(counts)


def wait(why: str) -> None:
    """Count that the host waits for the device."""
    if _counting:
        line = f"{why} {_cause()}"
        for counts in _counting:
            counts.waits[line] += 1


def _cause() -> str:
    """The line of opdlab, else of another library, that is being run."""
    stack = [one for one in traceback.extract_stack() if one.filename != __file__]
    for part in ("/opdlab", "/site-packages/"):
        for frame in reversed(stack):
            if part in frame.filename and "/torch/" not in frame.filename:
                file = frame.filename.rpartition(part)[2]
                return f"{part.strip('/')} {file}:{frame.lineno} {(frame.line or '')[:80]}"
    return "?"


class Simulated(torch.Tensor):
    """A tensor on the simulated device, whose values lie in `raw` on the host."""

    raw: torch.Tensor

    @staticmethod
    def __new__(cls, raw: torch.Tensor) -> Simulated:
        self = torch.Tensor._make_wrapper_subclass(  # pyright: ignore[reportAttributeAccessIssue]
            cls,
            raw.size(),
            strides=raw.stride(),
            storage_offset=raw.storage_offset(),
            dtype=raw.dtype,
            device=torch.device(NAME, 0),
        )
        self.raw = raw
        return self

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})

    def __repr__(self, **_options: Any) -> str:
        return f"{NAME}({self.raw!r})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        # In a file it is the host's, as checkpoints are read.
        return self.raw.detach().__reduce_ex__(protocol)

    def untyped_storage(self) -> torch.UntypedStorage:
        """Where the values lie, by which tensors that share them are known."""
        return self.raw.untyped_storage()

    def tolist(self) -> Any:
        wait("tolist")
        return self.raw.detach().tolist()

    def numpy(self, *_args: Any, **_options: Any) -> Any:
        raise TypeError(
            f"can't convert {NAME}:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to "
            "host memory first."
        )

    __array__ = numpy


def run(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Compute an operator on the host's values, where the device would.

    Raises:
        RuntimeError: it mixes tensors, or takes a generator, of both sides.
    """
    if not kwargs and not _counting and _plain(args) and func is not _CONVERTED:
        return _of_ours(func, args)
    name, found = _name(func), _Arguments()
    raw = [found.raw(one) for one in args]
    options = {key: found.raw(one) for key, one in kwargs.items()}
    _refuse_mixtures(func, name, args, kwargs, found)
    if _counting:
        _count(name, args, kwargs, bool(found.ours))
    stays = type(args[0]) is Simulated if name == "copy_" else bool(found.ours)
    if kwargs.get("device") is not None:
        stays = _is_ours(kwargs["device"])
        options["device"] = torch.device("cpu")
    if "pin_memory" in options:
        options["pin_memory"] = False
    result = _as_on_a_card(func, name, raw, options)
    return _wrapped(result, {id(one.raw): one for one in found.ours}) if stays else result


def _plain(args: Sequence[Any]) -> bool:
    """Whether these are tensors of the device, numbers and lists of numbers: they cannot be mixed."""
    return all(
        type(one) in _ALONE or (type(one) is list and type(one[0] if one else 0) is int)
        for one in args
    )


def _of_ours(func: Any, args: Sequence[Any]) -> Any:
    """As `run`, for what most operators take, in half the time."""
    ours = [one for one in args if type(one) is Simulated]
    result = func(*[one.raw if type(one) is Simulated else one for one in args])
    return _wrapped(result, {id(one.raw): one for one in ours}) if ours else result


@cache
def _name(func: Any) -> str:
    return func._schema.name.rpartition("::")[2]


_ALONE = {Simulated, int, float, bool, type(None)}
_CONVERTED = torch.ops.aten.histc.default


class _Arguments:
    """Tensors and generators among an operator's arguments, those in lists too."""

    def __init__(self) -> None:
        self.ours: list[Simulated] = []
        self.hosts: list[torch.Tensor] = []
        self.generators: list[torch.Generator] = []

    def raw(self, one: Any) -> Any:
        """The argument as the host computes with it."""
        kind = _kind(type(one))
        if kind is Simulated:
            self.ours.append(one)
            return one.raw
        if kind is list:
            return type(one)([self.raw(each) for each in one])
        if kind is torch.Tensor:
            self.hosts.append(one)
        elif kind is torch.Generator:
            self.generators.append(one)
        return one


@cache
def _kind(of: type) -> type | None:
    """Known once a type: asking whether something is a tensor takes as long as some operators."""
    if issubclass(of, (list, tuple)):
        return list
    return next((k for k in (Simulated, torch.Tensor, torch.Generator) if issubclass(of, k)), None)


def _wrapped(one: Any, known: dict[int, Simulated]) -> Any:
    """A result as the device has it; a tensor that was an argument stays that one."""
    kind = _kind(type(one))
    if kind is list:
        return type(one)([_wrapped(each, known) for each in one])
    if kind is not torch.Tensor:
        return one
    before = known.get(id(one))
    if before is not None:
        return before
    # What is conjugated later is no property of the wrapper, which would lose it.
    return Simulated(one.resolve_conj().resolve_neg() if one.is_conj() or one.is_neg() else one)


def _as_on_a_card(func: Any, name: str, args: list[Any], options: dict[str, Any]) -> Any:
    if name == "histc" and not args[0].is_floating_point():
        # CUDA counts whole numbers, a CPU does not.
        return func(args[0].double(), *args[1:], **options).to(args[0].dtype)
    return func(*args, **options)


def _is_ours(device: Any) -> bool:
    return device is not None and torch.device(device).type == NAME


def _is_host(one: Any) -> bool:
    return _kind(type(one)) is torch.Tensor


def _refuse_mixtures(
    func: Any, name: str, args: Sequence[Any], kwargs: dict[str, Any], found: _Arguments
) -> None:
    if name in _INDEXES and _is_host(args[0]) and any(type(i) is Simulated for i in args[1]):
        raise RuntimeError(
            "indices should be either on cpu or on the same device as the indexed tensor (cpu)"
        )
    if found.ours and found.hosts and name not in _MIXES:
        hosts = [tuple(one.shape) for one in found.hosts if one.dim()]
        if hosts:
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found {NAME}:0 and cpu: {func}, on "
                f"the cpu {hosts}"
            )
    if any(one.device.type == "cpu" for one in found.generators) and (
        found.ours or _is_ours(kwargs.get("device"))
    ):
        raise RuntimeError(f"Expected a '{NAME}' device type for generator but found 'cpu': {func}")


def _count(name: str, args: Sequence[Any], kwargs: dict[str, Any], here: bool) -> None:
    for counts in _counting:
        counts.launches[name] += 1
    if name in _READS or (name == "repeat_interleave" and kwargs.get("output_size") is None):
        wait(name)
    if name in _INDEXES:
        indices = [one for one in args[1] if one is not None]
        # A single number under a mask is filled in without finding the places.
        filled = name != "index" and args[2].numel() == 1
        if any(one.dtype in (torch.bool, torch.uint8) for one in indices) and not filled:
            wait("boolean index")
        if any(_is_host(one) for one in indices):
            wait("index from the host")
    elif kwargs.get("device") is not None and here and not _is_ours(kwargs["device"]):
        wait("to the host")
    elif name == "copy_" and isinstance(args[0], Simulated) != isinstance(args[1], Simulated):
        wait("copy across")


def to_device(
    self: torch.Tensor,
    *,
    dtype: torch.dtype | None = None,
    non_blocking: bool = False,
    **_options: Any,
) -> Simulated:
    """A copy on the device."""
    if isinstance(self, Simulated):
        return Simulated(self.raw.to(dtype or self.dtype, copy=True))
    for counts in _counting:
        counts.sent.append(tuple(self.shape))
    # Of no numbers there is no copy.
    if not non_blocking and self.numel():
        wait("from the host")
    return Simulated(self.detach().to(dtype=dtype or self.dtype, copy=True))
