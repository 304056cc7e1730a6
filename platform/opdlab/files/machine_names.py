"""Names that one process of this machine has at a time, whoever's it is and wherever it keeps its files."""

from __future__ import annotations

import socket


def hold_name(name: str) -> socket.socket:
    """Take a name until the socket is closed, or the process ends or is killed.

    It is one of Linux's abstract sockets, so it depends on no folder, user or environment.

    Raises:
        OSError: EADDRINUSE where another process has it.
    """
    found = socket.socket(socket.AF_UNIX)
    try:
        found.bind(f"\0{name}")
    except OSError:
        found.close()
        raise
    return found
