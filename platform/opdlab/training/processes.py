"""Processes that train: they die with the one that began them; most are forked with everything imported.

Importing takes several seconds of processor time, which is most of a short training. A zygote has done it
and forks what is asked of it. A fork must not follow CUDA's initialisation, so trainings on a GPU start
afresh.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, Self, final

from opdlab import credentials, secret_options
from opdlab.console import Stopped, dies_with_parent, quieten, shown
from opdlab.errors import OpdlabError, of_the_disk
from opdlab.training.cards import VISIBLE

if TYPE_CHECKING:
    from opdlab.configuration import Training

HOPELESS = os.EX_DATAERR
"""Exit code of a process that a new one could not help."""
LOG = "log.txt"
"""Where a process that trains writes, in the folder of its training."""
STOP_S = 60
"""For a training to write a checkpoint once it was asked to stop."""
PR_SET_NAME = 15
_library = ctypes.CDLL(None, use_errno=True)


class Process(Protocol):
    """What is needed of a process, forked or started afresh."""

    pid: int
    returncode: Any

    def poll(self) -> int | None:
        """Exit code, negative for a signal; None while it lives."""
        ...

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; `subprocess.TimeoutExpired` where that does not come."""
        ...

    def terminate(self) -> None:
        """Ask it to stop."""
        ...

    def kill(self) -> None:
        """Stop it."""
        ...


def may_fork(training: Training) -> bool:
    """Whether trainings of these settings can be forked from a process that imported everything.

    Those on several devices cannot: Lightning starts their other processes by the command of the first.
    """
    import torch

    if training.devices > 1:
        return False
    return training.accelerator == "cpu" or not torch.accelerator.is_available()


def start_afresh(
    module: str, arguments: Sequence[str], log: Path, orphaned: signal.Signals
) -> subprocess.Popen[bytes]:
    """Begin `python -m module` in its own session; `orphaned` is its signal when this process is gone."""
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdout=file,
            stderr=file,
            start_new_session=True,
            preexec_fn=dies_with_parent(orphaned),
        )


@final
class Zygote:
    """A process that forks others from itself.

    Enter it before this process has threads, databases or CUDA, which do not survive a fork, and after it
    has imported what its children need. It ends with this process, and so do they.
    """

    def __enter__(self) -> Self:
        self._near, far = multiprocessing.Pipe()
        self._children: dict[int, Forked] = {}
        self.alive = True
        sys.stdout.flush()
        fork = multiprocessing.get_context("fork")
        self._process = fork.Process(target=_serve, args=(self._near, far))
        self._process.start()
        far.close()
        return self

    def __exit__(self, *_: object) -> None:
        self._near.close()
        self._process.join()

    def start(
        self, module: str, arguments: Sequence[str], log: Path, orphaned: signal.Signals
    ) -> Process:
        """Begin `module.main()` as `start_afresh` would, and that where the zygote has been killed."""
        with log.open("ab"):
            pass  # what cannot be written is told here, where somebody reads it
        with contextlib.suppress(OSError):
            self._near.send((module, list(arguments), str(log), orphaned))
        while self.alive:
            for child in self._listen(None):
                return child
        return start_afresh(module, arguments, log, orphaned)

    def _listen(self, timeout: float | None) -> list[Forked]:
        """Take in what it reports; returns children that began."""
        begun = []
        try:
            while self.alive and self._near.poll(timeout):
                pid, code = self._near.recv()
                if code is None:
                    self._children[pid] = Forked(self, pid)
                    begun.append(self._children[pid])
                else:
                    self._children.pop(pid).returncode = code
                timeout = 0
        except (EOFError, ConnectionResetError):
            # Its children die with it.
            self.alive = False
            for child in self._children.values():
                child.returncode = -signal.SIGKILL
        return begun


@final
class Forked:
    """A process that a zygote began."""

    def __init__(self, zygote: Zygote, pid: int) -> None:
        self.zygote, self.pid = zygote, pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Exit code, negative for a signal; None while it lives."""
        self.zygote._listen(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; `subprocess.TimeoutExpired` where that does not come."""
        deadline = time.monotonic() + (float("inf") if timeout is None else timeout)
        while self.returncode is None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
            self.zygote._listen(min(left, 1.0))
        return self.returncode

    def terminate(self) -> None:
        """Ask it to stop."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """Stop it."""
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


def _serve(near: Connection, far: Connection) -> None:
    """Fork what is asked for and report what ends, until the owner is gone."""
    near.close()
    # A signal to the whole group at the terminal is for the owner to obey.
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    _name("zygote")
    fork = multiprocessing.get_context("fork")
    living: dict[int, Any] = {}
    while True:
        for ready in wait([far, *living]):
            if isinstance(ready, int):
                process = living.pop(ready)
                os.close(ready)
                process.join()
                message = (process.pid, process.exitcode)
            else:
                try:
                    request = far.recv()
                except (EOFError, ConnectionResetError):
                    # Not an orderly end, which would wait for children: they are told by the kernel.
                    os._exit(0)
                process = fork.Process(
                    target=_become, args=(far, dies_with_parent(request[3]), *request)
                )
                process.start()
                assert process.pid is not None
                living[os.pidfd_open(process.pid)] = process
                message = (process.pid, None)
            with contextlib.suppress(OSError):
                far.send(message)


def _become(
    far: Connection,
    arrange: Callable[[], None],
    module: str,
    arguments: list[str],
    log: str,
    _: Any,
) -> None:
    """What a forked process does: all that a fresh one would."""
    far.close()
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    arrange()
    with Path(log).open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    _name(module.rpartition(".")[2])
    sys.argv = [module, *arguments]
    importlib.import_module(module).main()


def _name(role: str) -> None:
    """The name of this process in `ps` and `top`."""
    _library.prctl(PR_SET_NAME, f"opdlab-{role}".encode())


def starter(zygote: Zygote | None, training: Training) -> Callable[..., Process]:
    """How a process of a training begins: as `Zygote.start` where it can be forked, else `start_afresh`."""
    return zygote.start if zygote is not None and may_fork(training) else start_afresh


def dismiss(processes: Iterable[Process], patience_s: float) -> None:
    """Ask those that live to stop, all at once; kill whoever does not within its patience."""
    living = [process for process in processes if process.poll() is None]
    for process in living:
        process.terminate()
    for process in living:
        try:
            process.wait(patience_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def obey(visible: str, work: Callable[[], None]) -> None:
    """Work on cards of its own, and end as whoever began this process expects."""
    if visible:
        # Before anybody looks.
        os.environ[VISIBLE] = visible
    quieten()
    try:
        work()
    except Stopped as stopped:
        raise SystemExit(stopped.exit_code) from stopped
    except OpdlabError as error:
        give_up(str(error), error)
    except OSError as error:
        if not error.filename:
            raise
        give_up(of_the_disk(error), error)


def give_up(reason: str, error: Exception) -> NoReturn:
    """End this process as `HOPELESS`, with the reason as the last line of its log; see `last_words`."""
    said = " ".join(reason.split())
    print(shown(credentials.hide(secret_options.hide(said))), file=sys.stderr)
    raise SystemExit(HOPELESS) from error


def last_words(log: Path) -> str:
    """The reason of a process that gave up."""
    return log.read_text().strip().splitlines()[-1]


def end(process: Process, patience_s: float) -> None:
    """Ask a process to stop, then insist, on its whole group."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(patience_s)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
