"""What of /proc a program may read: nothing that tells where on the host its files lie.

Each process has its own list of mounts there, so no mount hides them all; Landlock does. The links of
/proc/self/fd stay, because /dev/stdin is one. A kernel without Landlock (before 5.19) is left as it is.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

CREATE, ADD, RESTRICT = 444, 445, 446
VERSION_FLAG, BENEATH = 1, 1
READ_FILE, REFER = 1 << 2, 1 << 13
OLDEST = 2
"""The first version that lets files be moved between folders."""
MACHINE = "cpuinfo meminfo stat uptime loadavg sys"
OWN = "stat statm status maps schedstat"


class _Rule(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def offered(libc: Any) -> bool:
    """Whether this kernel has a Landlock that is new enough."""
    return libc.syscall(CREATE, None, ctypes.c_size_t(0), VERSION_FLAG) >= OLDEST


def hide_mounts(libc: Any) -> None:
    """Let this process and all that it starts read no file of /proc but the harmless ones.

    Raises:
        OSError: the kernel has Landlock and refuses it.
    """
    if not offered(libc):
        return
    handled = ctypes.c_uint64(READ_FILE | REFER)
    ruleset = _checked(libc.syscall(CREATE, ctypes.byref(handled), ctypes.c_size_t(8), 0))
    _allow(libc, ruleset, "/", REFER)
    for name in set(os.listdir("/")) - {"proc"}:
        _allow(libc, ruleset, f"/{name}", READ_FILE)
    for path in (*MACHINE.split(), *(f"self/{name}" for name in OWN.split())):
        if os.path.exists(f"/proc/{path}"):
            _allow(libc, ruleset, f"/proc/{path}", READ_FILE)
    _checked(libc.syscall(RESTRICT, ruleset, 0))
    os.close(ruleset)


def _allow(libc: Any, ruleset: int, path: str, rights: int) -> None:
    folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
    rule = _Rule(rights, folder)
    _checked(libc.syscall(ADD, ruleset, BENEATH, ctypes.byref(rule), 0))
    os.close(folder)


def _checked(result: int) -> int:
    if result < 0:
        raise OSError("Landlock refuses a rule")
    return result
