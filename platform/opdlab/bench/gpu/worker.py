"""The process that measures: one that fails, hangs or is killed costs no figure of another case.

After an error of a kernel a process can do nothing more on a card, and nothing but its end frees what a
hung one holds. So the suite measures in a process of its own, and begins another after a case that failed.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from math import isfinite
from multiprocessing.connection import Connection
from time import monotonic
from typing import Any

import torch

from opdlab.bench.gpu import ceilings
from opdlab.bench.gpu.figures import Card, Case
from opdlab.bench.gpu.kept import CEILINGS, unsound
from opdlab.console import Stopped, die_with
from opdlab.errors import OpdlabError

Cases = Callable[[Card], Iterable[Case]]
_FAILURES = (
    *(RuntimeError, ValueError, TypeError, LookupError, OSError, MemoryError, OpdlabError),
    # Of a rival of another version.
    *(AttributeError, AssertionError, ArithmeticError, ImportError),
)
_PATIENCE = 10
"""Seconds for which the end of a process is waited for that was killed."""


class Worker:
    """A process that measures one case after another; it ends with the block.

    Attributes:
        process: until it has ended.
    """

    def __init__(
        self,
        cases: Cases,
        device: str,
        dtype: torch.dtype,
        ceilings: Mapping[str, float] | None = None,
    ) -> None:
        """Not begun yet.

        Args:
            ceilings: of the figures that there are already, of which these are to be shares as well; None
                to measure them.
        """
        # A fork would inherit a device that is in use.
        context = multiprocessing.get_context("spawn")
        self._near, self._far = context.Pipe()
        arguments = (self._far, os.getpid(), cases, device, dtype, ceilings)
        self.process = context.Process(target=_work, args=arguments, daemon=True)

    def __enter__(self) -> Worker:
        self.process.start()
        self._far.close()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.join(_PATIENCE)
        self._near.close()

    def begin(self, seconds: float) -> dict[str, Any]:
        """The card's ceilings, for which libraries are loaded first; or why there are none."""
        return self._answer(seconds)

    def measure(self, key: str, seconds: float) -> dict[str, Any]:
        """What the case with this key found, or why not; after that nothing more can be asked."""
        try:
            self._near.send(key)
        except ConnectionError:
            # It ended after its last answer.
            seconds = 0.0
        return self._answer(seconds)

    def _answer(self, seconds: float) -> dict[str, Any]:
        try:
            if self._near.poll(max(0.0, seconds)):
                return self._near.recv()
        except (EOFError, ConnectionError):
            self.process.join(_PATIENCE)
            return failed(f"its process ended with exit code {self.process.exitcode}")
        return failed(f"it was ended after {seconds:,.0f} s")


def _work(
    far: Connection,
    parent: int,
    cases: Cases,
    device: str,
    dtype: torch.dtype,
    known: Mapping[str, float] | None,
) -> None:
    die_with(parent, signal.SIGKILL)
    # Ctrl-C is for the one who began this process, and ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    card = Card(torch.device(alone(device)), dtype)
    top = measured_ceilings(card) if known is None else dict(known)
    far.send(top)
    if "error" in top:
        return
    card.product, card.bandwidth, card.host = (top[name] for name in CEILINGS)
    by_key = {one.key: one for one in cases(card)}
    while True:
        far.send(measured(by_key[far.recv()], card))


def alone(device: str) -> str:
    """The name of a device in a process that sees no other card; before CUDA begins.

    A trainer takes the first card or all of them, and clocks are those of the current one.
    """
    named = torch.device(device)
    if named.type != "cuda":
        return device
    seen = [one for one in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if one]
    number = named.index or 0
    os.environ["CUDA_VISIBLE_DEVICES"] = seen[number] if seen else str(number)
    return named.type


def measured_ceilings(
    card: Card, measure: Callable[[Card], None] = ceilings.measure
) -> dict[str, Any]:
    """What the card can do, for the file; or why that is unknown.

    A rate of nothing or without end, which a clock that stood still would give, is measured once more.
    """
    wrong = ""
    for _ in range(2):
        try:
            measure(card)
        except Stopped:
            raise
        except _FAILURES as error:
            wrong = _named(error)
            continue
        top = {name: getattr(card, name) for name in CEILINGS}
        if not (wrong := unsound(top)):
            return top
    return failed(f"{wrong}, measured twice")


def measured(one: Case, card: Card) -> dict[str, Any]:
    """The figures of a case, or why there are none."""
    began = monotonic()
    try:
        figures = [asdict(figure) for figure in one.run(card)]
        if broken := [told["name"] for told in figures if not isfinite(told["value"])]:
            # JSON has no such numbers.
            raise ArithmeticError(f"{broken[0]} is not finite")
    except Stopped:
        raise
    except torch.OutOfMemoryError as error:
        return failed(f"{one.held(card)}: {_named(error)}" if one.holds else _named(error))
    except _FAILURES as error:
        return failed(_named(error))
    return {"figures": figures, "taken": monotonic() - began}


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def failed(why: str) -> dict[str, Any]:
    """What stands in the place of a case's figures."""
    return {"error": why[:400], "figures": []}
