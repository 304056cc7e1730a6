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
from opdlab_evaluators.programs.judging import Worker
from opdlab_evaluators.sandbox.command import SandboxMissingError
from opdlab_evaluators.sandbox.process import SandboxDiedError

MOST_WORKERS = 32
TRIES = 2
"""Once may be the machine's fault."""

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

        Args:
            on_judged: called with the index of each task that is done; it may raise to stop.

        Raises:
            SandboxMissingError: this machine offers no sandbox.
        """
        if not tasks:
            return []
        self.workers[0].start()
        idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        for worker in self.workers:
            idle.put(worker)
        stop = threading.Event()
        with ThreadPoolExecutor(self.size) as threads:
            futures = {threads.submit(_try, task, idle, stop): i for i, task in enumerate(tasks)}
            try:
                found = {}
                for future in as_completed(futures):
                    found[futures[future]] = future.result()
                    if on_judged is not None:
                        on_judged(futures[future])
            except BaseException:
                stop.set()
                threads.shutdown(wait=False, cancel_futures=True)
                while wait(futures, timeout=0.05).not_done:
                    self.close()  # again: a thread may just have started its sandbox anew
                raise
        return [found[index] for index in range(len(tasks))]


def _try(task: Task, idle: queue.SimpleQueue[Worker], stop: threading.Event) -> Verdict:
    worker = idle.get()
    reason = ""
    try:
        for _ in range(TRIES):
            if stop.is_set():
                break
            try:
                return task(worker)
            except SandboxDiedError as error:
                reason = str(error)
                worker.close()
            except SandboxMissingError:
                raise
            except Exception as error:  # noqa: BLE001
                # One program must not end the evaluation of all others.
                worker.close()
                return Verdict("grader_error", reason=f"{type(error).__name__}: {error}")
        return Verdict("sandbox_error", reason=reason)
    finally:
        idle.put(worker)


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
