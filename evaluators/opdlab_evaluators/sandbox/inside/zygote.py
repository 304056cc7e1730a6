"""The first process of a sandbox: warm, trusted, and never running a program itself.

For each job it forks a child, watches the processor time and memory of all that the child starts, and
kills every process when the child ends. As process 1 of its namespace it is safe from their signals,
adopts what they leave behind, and takes all of them along when it dies.

python zygote CONTROL_FD SCRATCH_FOLDER...
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import math
import mmap
import os
import resource
import select
import signal
import socket
import sys
import threading
import time
from typing import Any, NoReturn

from . import guest, reach
from .patches import keep_builtins
from .patience import Patience, Usage

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 1, 4, 36
TICK_MS = 5
BUSY_FACTOR = 10
"""A program that gets no processor is given so many times its wall time."""
READY = "RD"
"""States of threads that do not wait by their own doing: for a processor, and for a page of memory."""
THREAD_STACK = 16 << 20
"""Bytes; the first thread's stack is larger, and so many of that size would not fit the address space."""
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGESIZE")
MESSAGE = 1 << 20
FDS = 8
WARM = (
    "string re datetime collections heapq bisect copy math random statistics itertools functools operator "
    "io json typing decimal fractions dataclasses enum array queue textwrap"
)


def main(control_fd: int, scratch: list[str]) -> NoReturn:
    """Serve jobs until the other end of the control socket closes."""
    libc = ctypes.CDLL(None)
    # Processes of the same user could otherwise read and write this one through /proc.
    libc.prctl(PR_SET_DUMPABLE, 0)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    for name in WARM.split():
        __import__(name)
    import site

    site.setquit()
    keep_builtins(__package__ or "")
    control = socket.socket(fileno=control_fd)
    base = _memory(os.getpid())
    began = mmap.mmap(-1, 1)
    control.send(b'{"ready": true}')
    while True:
        message, fds, _, _ = socket.recv_fds(control, MESSAGE, FDS)
        if not message:
            os._exit(0)
        report = _job(json.loads(message), fds, libc, base, control, began)
        # What a job wrote must not meet the next one: a fresh sandbox has none of it.
        report["used_up"] = any(os.listdir(folder) for folder in scratch)
        control.send(json.dumps(report).encode())
        if report["used_up"]:
            os._exit(0)


def _job(
    job: dict[str, Any],
    fds: list[int],
    libc: Any,
    base: int,
    control: socket.socket,
    began: mmap.mmap,
) -> dict[str, Any]:
    clock = fds.pop() if job["clock"] else None
    began[0] = 0
    pid = os.fork()
    if pid == 0:
        _child(job, fds, libc, began)
    for fd in fds:
        os.close(fd)
    patience = Patience(clock, job["own_clock"])
    report = _watch(pid, job["limits"], base, control, patience)
    if clock is not None:
        os.close(clock)
    return {**report, "began": began[0] == 1}


def _child(job: dict[str, Any], fds: list[int], libc: Any, began: mmap.mmap) -> NoReturn:
    limits = job["limits"]
    for number, fd in enumerate([fcntl.fcntl(fd, fcntl.F_DUPFD, 100) for fd in fds]):
        # The program itself comes first, and is no stream.
        os.dup2(fd, number - 1 if number else 99)
    with open(99, "rb") as file:
        program = file.read().decode("utf-8", "surrogatepass")
    _close_from(len(fds) - 1)
    os.setsid()
    cpu = math.ceil(limits["cpu_s"]) + 1
    for kind, value in (
        (resource.RLIMIT_CPU, cpu),
        (resource.RLIMIT_AS, limits["address_space"]),
        (resource.RLIMIT_NPROC, limits["processes"]),
        (resource.RLIMIT_FSIZE, limits["file_size"]),
        (resource.RLIMIT_NOFILE, limits["open_files"]),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
    ):
        resource.setrlimit(kind, (value, value))
    threading.stack_size(THREAD_STACK)
    libc.prctl(PR_SET_DUMPABLE, 1)
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")
    if os.getppid() == 1:  # in a sandbox, and not with the rights of this machine's user
        reach.hide_mounts(libc)
    began[0] = 1  # what fails from here on is the program's
    began.close()
    guest.main(job["mode"], program, job["options"])


def _close_from(lowest: int) -> None:
    """Close every descriptor from this one on: numbers are as high as the host's were."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) >= lowest:
            with contextlib.suppress(OSError):  # that of the listing itself
                os.close(int(name))


def _watch(
    pid: int, limits: dict[str, Any], base: int, control: socket.socket, patience: Patience
) -> dict[str, Any]:
    """Wait for the child; end it and all others at a limit; leave no process."""
    peak, why = 0, ""
    pidfd = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.register(control, 0)
    while not (events := poll.poll(TICK_MS)):
        usage = _usage(base)
        peak = max(peak, usage.memory)
        patience.look(usage)
        why = _over(usage, patience, limits)
        if why:
            break
    if any(fd == control.fileno() for fd, _ in events):
        os._exit(0)  # no client waits for the answer any more
    patience.look(Usage())
    os.close(pidfd)
    leftovers = _kill_all()
    status, cpu = leftovers.pop(pid)
    if not why and cpu > limits["cpu_s"]:
        why = "cpu"
    return {
        "exit": os.waitstatus_to_exitcode(status),
        "why": why,
        "cpu_s": cpu,
        "wall_s": patience.last - patience.began,
        "memory": peak,
        "leftovers": len(leftovers),
        "stalled": patience.stalled,
    }


def _over(usage: Usage, patience: Patience, limits: dict[str, Any]) -> str:
    """The limit that is reached, if one is; time in which the machine did not let it run is no time."""
    if usage.memory > limits["memory"]:
        return "memory"
    if usage.cpu_s > limits["cpu_s"]:
        return "cpu"
    if patience.own > limits["wall_s"]:
        return "wall"
    return "busy" if patience.offered > BUSY_FACTOR * limits["wall_s"] else ""


def _others() -> list[int]:
    """Every process of the job: in a namespace of its own all but this one, else all descendants."""
    me = os.getpid()
    found = {int(name): 0 for name in os.listdir("/proc") if name.isdigit()}
    if me == 1:
        return [pid for pid in found if pid != 1]
    parents = {pid: int(fields[1]) for pid in found if (fields := _stat(pid))}
    mine, grew = {me}, True
    while grew:
        more = {pid for pid, parent in parents.items() if parent in mine} - mine
        mine, grew = mine | more, bool(more)
    return sorted(mine - {me})


def _stat(pid: int | str) -> list[str] | None:
    """Fields of /proc/PID/stat from the third on."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return None


def _usage(base: int) -> Usage:
    """What all processes of the job use now; `base` bytes of each are shared with this process."""
    total = Usage()
    for pid in _others():
        fields = _stat(pid)
        if fields is None:
            continue
        total.processes += 1
        total.cpu_s += sum(map(int, fields[11:15])) / TICKS
        total.memory += max(0, int(fields[21]) * PAGE - base)
        total.ready = total.ready or fields[0] in READY or (fields[17] != "1" and _ready(pid))
    return total


def _ready(pid: int) -> bool:
    """Whether a thread of the process is in such a state."""
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            fields = _stat(f"{pid}/task/{thread}")
            if fields and fields[0] in READY:
                return True
    return False


def _memory(pid: int) -> int:
    return int((_stat(pid) or ["0"] * 22)[21]) * PAGE


def _kill_all() -> dict[int, tuple[int, float]]:
    """Kill every process of the job and wait for each; wait status and processor time by process."""
    ended: dict[int, tuple[int, float]] = {}
    while True:
        _kill()
        try:
            pid, status, used = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid:
            ended[pid] = (status, used.ru_utime + used.ru_stime)
        else:
            time.sleep(0.0005)


def _kill() -> None:
    # Only the first process of a namespace may say "all": elsewhere that is all of the user's.
    for pid in [-1] if os.getpid() == 1 else _others():
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
