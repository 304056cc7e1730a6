"""Processes that train one student together, each on rows of its own: what one must tell the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from opdlab.errors import AwayError, OpdlabError, PeerError

_TOLD = "told_to_peers"


def several_processes() -> bool:
    """Whether this process is one of several that train together."""
    here = torch.distributed.is_available() and torch.distributed.is_initialized()
    return here and torch.distributed.get_world_size() > 1


def gathered(value: Any, alone: bool) -> list[Any]:
    """The value of every process that trains, on each of them.

    Raises:
        PeerError: another process has failed before it came here (see `failing_together`).
    """
    return [value] if alone else _exchanged("", value)


def meet() -> None:
    """Tell the others, where they are in `failing_together` as well, that a forward follows.

    Raises:
        PeerError: another process has failed before it came here.
    """
    if several_processes():
        _exchanged("", True)


@contextmanager
def failing_together(still: Callable[[], None] | None = None) -> Iterator[None]:
    """What fails within in one process fails in all of them: else the others would wait for ever.

    Every process must come here equally often. They may gather values within: a process that fails goes on
    to its last exchange, and the others receive its fault in whichever exchange they are.

    Args:
        still: done at the end as often as others still `meet` within; then they may do so unequally often.

    Raises:
        PeerError: in place of what was raised, but for the first process, which raises its own.
        AwayError: a server is away, in every process: that is no process's fault.
    """
    if not several_processes():
        yield
        return
    try:
        yield
    except Exception as error:
        if getattr(error, _TOLD, False):
            raise
        rank, fault = torch.distributed.get_rank(), f"{type(error).__name__}: {error}"
        _exchanged(fault, None)
        if rank == 0:
            setattr(error, _TOLD, True)
            raise
        raise _peer_error(rank, fault) from error
    while any(_exchanged("", None)) and still is not None:
        still()


def _exchanged(fault: str, value: Any) -> list[Any]:
    found: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, (fault, value))
    for rank, (said, _) in enumerate(found):
        if said and not fault:
            raise _peer_error(rank, said)
    return [value for _, value in found]


def _peer_error(rank: int, fault: str) -> OpdlabError:
    kind, _, said = fault.partition(": ")
    error: OpdlabError = PeerError(f"training process {rank} failed, and all end with it: {fault}")
    if kind == AwayError.__name__:
        error = AwayError(said)
    setattr(error, _TOLD, True)
    return error
