"""How long a judge worked itself, told to the sandbox whose program waits for it meanwhile.

A program is given so much time of the wall's; what the tests take between its answers is not its own.
The judge writes, the zygote of the other sandbox reads, and no program holds the file.
"""

from __future__ import annotations

import os
import struct
import time
from typing import final

_FORM = struct.Struct("dd")


@final
class Clock:
    """Seconds of work in a small file, by the system's steady clock; it begins working.

    Args:
        fd: file descriptor; below zero there is no one to tell.
    """

    def __init__(self, fd: int = -1) -> None:
        self.fd, self.worked, self.since = fd, 0.0, time.monotonic()
        self._write()

    def pause(self) -> None:
        """From now on the judge waits, or has ended."""
        self.worked += time.monotonic() - self.since
        self.since = 0.0
        self._write()

    def resume(self) -> None:
        """The judge works again."""
        self.since = time.monotonic()
        self._write()

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
    return seconds + (time.monotonic() - since if since else 0.0)
