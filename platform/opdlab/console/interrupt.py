"""Stopping on request: finish the step, write a checkpoint, end with the signal's exit code."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable
from threading import current_thread, main_thread
from types import FrameType
from typing import Any, Self, final

from opdlab.errors import OpdlabError

PR_SET_PDEATHSIG = 1  # of Linux's prctl(2)
_library = ctypes.CDLL(None, use_errno=True)


@final
class Stopped(OpdlabError):
    """SIGINT or SIGTERM came and was obeyed at a place where nothing is lost."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.exit_code = 128 + signum


_LISTENING: list[StopRequest] = []


def check_stop() -> None:
    """Raise `Stopped` if a signal has come: for what waits deep within, where no `check` is handed down."""
    for one in _LISTENING:
        one.check()


@final
class StopRequest:
    """Catches the first SIGINT or SIGTERM for `check`; a second one ends the process at once.

    In another thread than the main one, where Python lets nobody take signals, it catches none.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.signum: int | None = None
        self.before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if current_thread() is main_thread():
            self.before = {signum: signal.getsignal(signum) for signum in self.SIGNALS}
        self.listen()
        _LISTENING.append(self)
        return self

    def listen(self) -> None:
        """Take the signals; again where a library has put its own handlers in between."""
        for signum in self.before:
            signal.signal(signum, self._note)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.signum = signum
        for each, handler in self.before.items():
            signal.signal(each, handler)

    def check(self, *_: object) -> None:
        """Raise `Stopped` if a signal has come."""
        if self.signum is not None:
            raise Stopped(self.signum)

    def __exit__(self, *_: object) -> None:
        _LISTENING.remove(self)
        for signum, handler in self.before.items():
            signal.signal(signum, handler)


def dies_with_parent(number: signal.Signals) -> Callable[[], None]:
    """For a child before it begins: a signal to it when this process is gone, however that went."""
    parent = os.getpid()
    return lambda: die_with(parent, number)


def die_with(parent: int, number: signal.Signals) -> None:
    """A signal to this process when the one that began it is gone."""
    _library.prctl(PR_SET_PDEATHSIG, int(number))
    # It may have died before that.
    if os.getppid() != parent:
        os.kill(os.getpid(), number)
