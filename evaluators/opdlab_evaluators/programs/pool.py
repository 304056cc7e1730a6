"""Many programs judged at once: a worker for each processor, kept from one call to the next."""

from __future__ import annotations

import atexit
import os
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass
from typing import final

from opdlab.records import Verdict
from opdlab_evaluators.programs.judging import UnsettledError, Worker
from opdlab_evaluators.sandbox import SandboxDiedError, SandboxMissingError

MOST_WORKERS = 32
TRIES = 3
"""One among other programs, the others alone: once may be the machine's fault, and twice."""
TROUBLE = (UnsettledError, SandboxDiedError, SandboxMissingError, OSError, MemoryError)
"""What a busy machine does to a program that is right and quick."""

Task = Callable[[Worker], Verdict]


@final
class ProgramPool:
    """Workers that live until `close`; threads only wait for them."""

    def __init__(self, protected: bool = True, workers: int | None = None) -> None:
        self.size = workers or min(MOST_WORKERS, len(os.sched_getaffinity(0)))
        self.workers = [Worker(protected) for _ in range(self.size)]
        self.pid = os.getpid()

    def __enter__(self) -> ProgramPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill every program; the pool may be used again."""
        for worker in self.workers:
            worker.close()

    def judge(
        self, tasks: Sequence[Task], on_judged: Callable[[int], None] | None = None
    ) -> list[Verdict]:
        """The verdict of every task, in order.

        What may be the machine's fault is judged again after all others, with no program beside it.

        Args:
            on_judged: called with the index of each task that is done; it may raise to stop.

        Raises:
            SandboxMissingError: this machine offers no sandbox.
        """
        if not tasks:
            return []
        self.workers[0].start()
        done = on_judged or (lambda index: None)
        found = self._together(tasks, done)
        for index in sorted(found.keys() ^ range(len(tasks))):
            found[index] = self._alone(tasks[index])
            done(index)
        return [found[index] for index in range(len(tasks))]

    def _together(self, tasks: Sequence[Task], done: Callable[[int], None]) -> dict[int, Verdict]:
        """Verdicts by index, but for those that have to be judged again."""
        idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        for worker in self.workers:
            idle.put(worker)
        stop = threading.Event()
        with ThreadPoolExecutor(self.size) as threads:
            futures = {threads.submit(_first, task, idle, stop): i for i, task in enumerate(tasks)}
            try:
                found = {}
                for future in as_completed(futures):
                    if (verdict := future.result()) is not None:
                        found[futures[future]] = verdict
                        done(futures[future])
            except BaseException:
                stop.set()
                threads.shutdown(wait=False, cancel_futures=True)
                while wait(futures, timeout=0.05).not_done:
                    self.close()  # again: a thread may just have started its sandbox anew
                raise
        return found

    def _alone(self, task: Task) -> Verdict:
        """The verdict on a program beside which no other runs."""
        worker, trouble = self.workers[0], None
        for more in reversed(range(TRIES - 1)):
            worker.close()  # what was left of the last time does not meet this one
            try:
                return _judged(task, worker, more)
            except TROUBLE as error:
                trouble = error
            except BaseException:
                self.close()
                raise
        if isinstance(trouble, SandboxMissingError):
            raise trouble
        return Verdict("sandbox_error", reason=str(trouble) or type(trouble).__name__)


def _first(task: Task, idle: queue.SimpleQueue[Worker], stop: threading.Event) -> Verdict | None:
    """The verdict on a program among others; None if it has to be judged again."""
    worker = idle.get()
    try:
        return None if stop.is_set() else _judged(task, worker, TRIES - 1)
    except TROUBLE:
        worker.close()
        return None
    finally:
        idle.put(worker)


def _judged(task: Task, worker: Worker, more: int) -> Verdict:
    worker.more = more
    try:
        return task(worker)
    except TROUBLE:
        raise
    except Exception as error:  # noqa: BLE001
        # One program must not end the evaluation of all others.
        worker.close()
        return Verdict("grader_error", reason=f"{type(error).__name__}: {error}")


@dataclass
class _Shared:
    """Pools of this process; a forked child gets its own."""

    pools: dict[bool, ProgramPool]


_SHARED = _Shared({})


def shared_pool(protected: bool) -> ProgramPool:
    """The pool of this process, with or without a sandbox."""
    found = _SHARED.pools.get(protected)
    if found is None or found.pid != os.getpid():
        found = _SHARED.pools[protected] = ProgramPool(protected)
        atexit.register(found.close)
    return found
