"""How long a judge worked itself, told to the sandbox whose program waits for it meanwhile.

A program is given so much time of the wall's; what the tests take between its answers is not its own.
The judge writes, the zygotes of both sandboxes read, and no program holds the file. An answer that lies
there while the judge waits for a processor is no time of the program's either.
"""

from __future__ import annotations

import contextlib
import os
import struct
from time import monotonic
from typing import final

_FORM = struct.Struct("dd")


@final
class Clock:
    """Seconds of work in a small file, by the system's steady clock; it begins working.

    Args:
        fd: file descriptor; below zero there is no one to tell.
    """

    def __init__(self, fd: int = -1) -> None:
        self.fd, self.worked, self.since = fd, 0.0, monotonic()
        self.schedule, self.delayed = -1, 0.0
        self._write()

    def know_delays(self) -> None:
        """Count as work the time in which this process waits for a processor, where the kernel tells it."""
        with contextlib.suppress(OSError):
            self.schedule = os.open("/proc/self/schedstat", os.O_RDONLY | os.O_CLOEXEC)

    def pause(self) -> None:
        """From now on the judge waits, or has ended."""
        self.worked += monotonic() - self.since
        self.since = 0.0
        self._write()
        self.delayed = self._delays()

    def resume(self) -> None:
        """The judge works again."""
        self.since = monotonic()
        self.worked += self._delays() - self.delayed
        self._write()

    def _delays(self) -> float:
        """Seconds in which this process could have run and did not."""
        if self.schedule < 0:
            return 0.0
        return int(os.pread(self.schedule, 100, 0).split()[1]) / 1e9

    def _write(self) -> None:
        if self.fd >= 0:
            os.pwrite(self.fd, _FORM.pack(self.worked, self.since), 0)


def stop(fd: int) -> None:
    """The judge has ended: it works no more, however it ended."""
    os.pwrite(fd, _FORM.pack(worked(fd), 0.0), 0)


def worked(fd: int) -> float:
    """Seconds that the judge has worked up to now."""
    content = os.pread(fd, _FORM.size, 0)
    if len(content) < _FORM.size:
        return 0.0
    seconds, since = _FORM.unpack(content)
    return seconds + (monotonic() - since if since else 0.0)
