"""A sandbox as its user sees it: start it, hand it programs, read what they wrote, end it for good."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any, final

from opdlab_evaluators.sandbox import command, system_calls
from opdlab_evaluators.sandbox.cgroup import Groups
from opdlab_evaluators.sandbox.command import ENVIRONMENT, SandboxMissingError
from opdlab_evaluators.sandbox.inside import reach
from opdlab_evaluators.sandbox.inside.zygote import BUSY_FACTOR
from opdlab_evaluators.sandbox.refusal import remedy

START_LIMIT_S = 180.0
GRACE_S = 20.0
STDERR_KEPT = 2000
END_LIMIT_S = 2.0
MANAGERS, MANAGED_BYTES = 8, 256 << 20
"""Processes and memory of a sandbox that are no test's."""
NO_LANDLOCK = """this kernel has no Landlock (5.19 or newer): programs of code benchmarks can read in /proc
where this machine keeps its files, though not the files"""
_NUMBERS = count()


@dataclass(frozen=True)
class Limits:
    """Of one test, over all of its processes.

    Attributes:
        cpu_s: seconds of processor time, which a busy machine does not stretch.
        wall_s: seconds of time, against programs that wait for ever; a single process that waits for a
            processor, and a machine that stands still, do not count.
        memory: bytes in use; `address_space` bytes that each process may ask for.
        file_size: bytes of each file, the standard output among them.
    """

    cpu_s: float = 6.0
    wall_s: float = 30.0
    memory: int = 2 << 30
    address_space: int = 6 << 30
    processes: int = 64
    file_size: int = 16 << 20
    open_files: int = 64


@dataclass(frozen=True)
class Ended:
    """How a program ended.

    Attributes:
        exit: its exit code, or minus the signal that ended it.
        why: the limit that ended it: `cpu`, `wall`, `memory`, or `busy` where the machine gave it no
            time to run; empty if it ended by itself.
        memory: most bytes in use that were seen.
        leftovers: processes it left behind, which were killed.
        stalled: seconds in which the machine stood still meanwhile.
    """

    exit: int
    why: str
    cpu_s: float
    wall_s: float
    memory: int
    leftovers: int
    stdout: bytes = b""
    stderr: bytes = b""
    stalled: float = 0.0

    @property
    def doubtful(self) -> bool:
        """Whether the machine may have ended it, or made it late: a kill by the kernel, say."""
        return self.stalled > 0 or (self.exit < 0 and not self.why)


class SandboxDiedError(RuntimeError):
    """The sandbox ended in the middle of a job."""


@final
class Sandbox:
    """One zygote and its sandbox, for one job at a time; started when it is first used.

    Args:
        protected: False runs programs with the rights of this process.
    """

    def __init__(self, protected: bool = True) -> None:
        self.protected = protected
        self.process: subprocess.Popen[bytes] | None = None
        self.control: socket.socket | None = None
        self.groups: Groups | None = None
        self.scratch: str | None = None
        self.pid = os.getpid()
        self.lock = threading.RLock()

    def __enter__(self) -> Sandbox:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start it unless it runs.

        Raises:
            SandboxMissingError: this machine does not let us.
        """
        with self.lock, contextlib.ExitStack() as passed:
            if self.process is not None and self.process.poll() is None:
                return
            self.close()
            self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            passed.callback(theirs.close)
            try:
                self._start(theirs, passed)
            except BaseException:
                self.close()
                raise

    def _start(self, theirs: socket.socket, passed: contextlib.ExitStack) -> None:
        said = _kept(os.memfd_create("stderr"), passed)
        filter_code = system_calls.program() if self.protected else None
        filter_fd = None if filter_code is None else _kept(_filled(filter_code), passed)
        if self.protected:
            limits = Limits()
            most = {"pids": limits.processes + MANAGERS, "memory": limits.memory + MANAGED_BYTES}
            self.groups = Groups(most)
        else:
            self.scratch = tempfile.mkdtemp(prefix="opdlab-unsafe-")
        told = command.told_otherwise() if self.protected else {}
        contents = {name: _kept(_filled(content), passed) for name, content in told.items()}
        given = [*contents.values(), *([] if filter_fd is None else [filter_fd])]
        self.process = subprocess.Popen(
            self._command(theirs.fileno(), filter_fd, contents),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
            pass_fds=[theirs.fileno(), *given],
            cwd=self.scratch,
            env={"PATH": os.environ.get("PATH", ""), **_environment(self.protected)},
            start_new_session=True,
        )
        theirs.close()
        self._await_ready(said)
        if self.protected and not reach.offered(ctypes.CDLL(None)):
            warnings.warn(NO_LANDLOCK, RuntimeWarning, stacklevel=2)

    def _command(
        self, control: int, filter_fd: int | None, contents: Mapping[str, int]
    ) -> list[str]:
        if self.scratch is not None:
            return command.unprotected(control, self.scratch)
        groups = self.groups.joined if self.groups else []
        return command.sandboxed(control, filter_fd, groups, next(_NUMBERS), contents)

    def _await_ready(self, said: int) -> None:
        control = self.connected
        control.settimeout(START_LIMIT_S)
        try:
            ready = control.recv(1 << 16)
        except OSError:
            ready = b""
        if not ready:
            text = os.pread(said, STDERR_KEPT, 0).decode(errors="replace").strip()
            raise SandboxMissingError(f"the sandbox does not start: {text}. {remedy(text)}")

    @property
    def connected(self) -> socket.socket:
        """The socket to the zygote; raises SandboxDiedError when there is none."""
        if self.control is None:
            raise SandboxDiedError("the sandbox is closed")
        return self.control

    def open(
        self,
        mode: str,
        program: str,
        stdin: bytes = b"",
        limits: Limits | None = None,
        options: Mapping[str, Any] | None = None,
        passed: Sequence[int] = (),
        channel: bool = True,
        clock: int | None = None,
        own_clock: bool = False,
    ) -> Job:
        """Begin a job; `mode` as in `inside.guest`.

        Args:
            passed: file descriptors that it gets as its own, after the standard ones and the channel.
            channel: it talks to this process, unless it is a script.
            clock: file descriptor of the `inside.clock` of whom it waits for; the program gets it not.
            own_clock: the clock is its own: what it waits is no time of its own.

        Raises:
            SandboxDiedError: the sandbox is gone.
            SandboxMissingError: it cannot be started.
        """
        self.start()
        limits = limits or Limits()
        files = [_filled(program.encode(errors="surrogatepass")), _filled(stdin)]
        files += [os.memfd_create("stdout"), os.memfd_create("stderr")]
        ours, theirs = socket.socketpair() if channel and mode != "script" else (None, None)
        fds = [*files, *([] if theirs is None else [theirs.fileno()]), *passed]
        fds += [] if clock is None else [clock]
        header = {"mode": mode, "limits": asdict(limits), "options": dict(options or {})}
        header |= {"clock": clock is not None, "own_clock": own_clock}
        job = Job(self, files, ours, limits)
        try:
            socket.send_fds(self.connected, [json.dumps(header).encode()], fds)
        except OSError as error:
            job.close()
            self.close()
            raise SandboxDiedError(str(error)) from error
        finally:
            if theirs is not None:
                theirs.close()
        return job

    def run(
        self, program: str, stdin: bytes = b"", limits: Limits | None = None, **options
    ) -> Ended:
        """Run a program as `__main__` to its end; raises as `open`."""
        with self.open("script", program, stdin, limits, options) as job:
            return job.finish()

    def close(self) -> None:
        """Kill everything inside, from whatever thread; it may be started again."""
        if os.getpid() == self.pid:  # a forked child has no sandbox of its own
            with self.lock:
                self._close()

    def _close(self) -> None:
        if self.control is not None:
            # The zygote ends when its socket does, and takes the namespace along.
            # A thread that waits for its answer would keep it open.
            with contextlib.suppress(OSError):
                self.control.shutdown(socket.SHUT_RDWR)
            self.control.close()
            self.control = None
        if self.process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(END_LIMIT_S)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None
        if self.groups is not None:
            self.groups.close()
            self.groups = None
        if self.scratch is not None:
            shutil.rmtree(self.scratch, ignore_errors=True)
            self.scratch = None


@final
class Job:
    """A program that runs. `channel` is the socket to it, where its mode has one.

    As a context manager it ends the sandbox if it is left before the program was seen to end.
    """

    def __init__(
        self, sandbox: Sandbox, files: list[int], channel: socket.socket | None, limits: Limits
    ) -> None:
        self.sandbox, self.files, self.channel, self.limits = sandbox, files, channel, limits
        self.finished = False

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        if not self.finished:
            self.sandbox.close()

    def finish(self) -> Ended:
        """Wait for its end and read what it wrote.

        Raises:
            SandboxDiedError: the sandbox ended first, or did not keep its own limits.
        """
        if self.channel is not None:
            self.channel.close()
        cause = "its first process is gone"
        try:
            control = self.sandbox.connected
            control.settimeout(self.limits.wall_s * BUSY_FACTOR + GRACE_S)
            report = json.loads(control.recv(1 << 16) or b"null")
        except OSError as error:
            report, cause = None, str(error)
        self.finished = True
        try:
            if report is None:
                self.sandbox.close()
                raise SandboxDiedError(f"the sandbox ended in the middle of a program: {cause}")
            if report.pop("used_up"):
                self.sandbox.close()
            if not report.pop("began"):
                self.sandbox.close()
                raise SandboxDiedError("the sandbox could not make a process ready for a program")
            out, err = (os.pread(fd, self.limits.file_size, 0) for fd in self.files[2:])
            return Ended(**report, stdout=out, stderr=err)
        finally:
            self.close()

    def close(self) -> None:
        """Let go of its files."""
        if self.channel is not None:
            self.channel.close()
        for fd in self.files:
            os.close(fd)
        self.files = []


def _filled(content: bytes) -> int:
    """An anonymous file with this content, at its beginning."""
    fd = os.memfd_create("opdlab")
    with open(fd, "wb", closefd=False) as file:
        file.write(content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _kept(fd: int, until: contextlib.ExitStack) -> int:
    until.callback(os.close, fd)
    return fd


def _environment(protected: bool) -> dict[str, str]:
    return {} if protected else {**ENVIRONMENT, "PYTHONPATH": "", "HOME": str(Path("/nonexistent"))}
