"""Equality of answers decided in processes that are killed when they use too much.

Limits are on processor time, which a busy machine does not stretch, and on memory; a limit on wall time
catches what waits. No threads and no signals: the caller may be anything.

An answer that reaches a limit, or whose worker dies, is asked again, alone, when no other worker computes.
If it reaches the limit of processor time or memory again, or crashes its worker, that is the answer's
doing: it is wrong. Only what the machine did, such as a worker that was killed or one that got no
processor time, is a fault, and only if it happens alone as well.
"""

from __future__ import annotations

import atexit
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psutil

from opdlab.errors import OpdlabError
from opdlab_evaluators.answers.equality import Outcome

MOST_WORKERS = 16
CPU_LIMIT_S = 10.0
WALL_LIMIT_S = 120.0
MEMORY_LIMIT = 2 << 30
START_LIMIT_S = 300.0
POLL_S = 0.05


@dataclass(frozen=True)
class Failure:
    """An equality that could not be decided: `grader_timeout` or `grader_error`, and why."""

    status: str
    reason: str


class GraderError(OpdlabError, RuntimeError):
    """The processes that grade answers cannot be started."""


class _Worker:
    """A process with at most one question; `busy` is its index, -1 while it starts, None when idle."""

    def __init__(self, memory: int) -> None:
        # What it prints while it starts is kept for the case that it does not.
        self.process = subprocess.Popen(
            [sys.executable, "-m", "opdlab_evaluators.answers.worker", str(memory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        self.busy: int | None = -1
        self.began = time.monotonic()
        self.cpu_before = 0.0
        self.buffer = b""
        self.started = False
        self.first: Outcome | None = None

    @property
    def output(self) -> int:
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    def ask(self, index: int, gold: str, answer: str) -> None:
        self.busy, self.began, self.cpu_before = index, time.monotonic(), self.cpu_seconds()
        self.first = None
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([gold, answer]).encode() + b"\n")
        self.process.stdin.flush()

    def cpu_seconds(self) -> float:
        try:
            times = psutil.Process(self.process.pid).cpu_times()
        except psutil.Error:
            return 0.0
        return times.user + times.system

    def lines(self) -> list[bytes] | None:
        """Whole lines that have come; None when the process has ended."""
        data = os.read(self.output, 1 << 16)
        if not data:
            return None
        *lines, self.buffer = (self.buffer + data).split(b"\n")
        return lines

    def kill(self) -> str:
        """End it; what it wrote to its error stream before it was ready."""
        self.process.kill()
        self.process.wait()
        said = b""
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                if stream is self.process.stderr and not self.started:
                    said = stream.read()
                try:
                    stream.close()
                except BrokenPipeError:
                    continue  # a question that it had not read yet
        return said.decode(errors="replace").strip()


class AnswerPool:
    """Workers that live from one call to the next. Use as a context manager, or `close` it."""

    def __init__(
        self,
        workers: int | None = None,
        cpu_limit_s: float = CPU_LIMIT_S,
        wall_limit_s: float = WALL_LIMIT_S,
        memory: int = MEMORY_LIMIT,
    ) -> None:
        self.size = workers or min(MOST_WORKERS, len(os.sched_getaffinity(0)))
        self.cpu_limit_s, self.wall_limit_s, self.memory = cpu_limit_s, wall_limit_s, memory
        self.workers: list[_Worker] = []
        self.selector = selectors.DefaultSelector()
        self.pid = os.getpid()
        self.costly: deque[int] = deque()
        """Questions that met a limit, or whose worker died, and wait to be asked alone."""
        self.alone: set[int] = set()

    def __enter__(self) -> AnswerPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill every worker; the pool may be used again."""
        if os.getpid() == self.pid:
            for worker in list(self.workers):
                self._drop(worker)

    def decide(
        self,
        questions: Sequence[tuple[str, str]],
        on_decided: Callable[[int], None] | None = None,
    ) -> list[Outcome | Failure]:
        """The outcome of every (gold, answer), in order.

        Args:
            on_decided: called with 1 at each outcome; it may raise to stop, which ends the workers.

        Raises:
            GraderError: no worker comes up.
        """
        results: dict[int, Outcome | Failure] = {}
        queue = deque(range(len(questions)))
        self.costly, self.alone = deque(), set()
        try:
            while len(results) < len(questions):
                if not queue and self.costly and not self._working():
                    index = self.costly.popleft()
                    self.alone.add(index)
                    queue.append(index)
                self._feed(queue, questions)
                before = len(results)
                for key, _ in self.selector.select(POLL_S):
                    self._read(key.data, results)
                self._enforce(results)
                if on_decided is not None and len(results) > before:
                    on_decided(len(results) - before)
        except BaseException:
            # Answers to questions that nobody waits for any more must not meet the next call's.
            self.close()
            raise
        return [results[index] for index in range(len(questions))]

    def _working(self) -> int:
        return sum(worker.busy is not None and worker.busy >= 0 for worker in self.workers)

    def _feed(self, queue: deque[int], questions: Sequence[tuple[str, str]]) -> None:
        while len(self.workers) < min(self.size, self._working() + len(queue)):
            worker = _Worker(self.memory)
            self.workers.append(worker)
            self.selector.register(worker.output, selectors.EVENT_READ, worker)
        for worker in self.workers:
            if queue and worker.busy is None:
                index = queue.popleft()
                try:
                    worker.ask(index, *questions[index])
                except BrokenPipeError:
                    continue  # it died while idle: `_read` meets the end of its output and asks again

    def _read(self, worker: _Worker, results: dict[int, Outcome | Failure]) -> None:
        lines = worker.lines()
        if lines is None:
            self._died(worker, results)
            return
        for line in lines:
            if worker.busy == -1:
                worker.started = True
            elif worker.busy is not None:
                found = json.loads(line)
                if "first" in found:
                    worker.first = Outcome(**found["first"])
                    continue
                if "exhausted" in found:
                    self._spent(
                        worker, results, f"needs more than a grader may use ({found['exhausted']})"
                    )
                else:
                    results[worker.busy] = _outcome(found)
            worker.busy = None

    def _died(self, worker: _Worker, results: dict[int, Outcome | Failure]) -> None:
        said = self._drop(worker)
        if not worker.started:
            raise GraderError(f"a process that grades answers does not start: {said[-500:]}")
        index = worker.busy
        if index is None or index < 0:
            return
        code = worker.process.returncode
        if index not in self.alone:
            self.costly.append(index)
        elif code == -signal.SIGKILL:
            results[index] = Failure("grader_error", "the grading process was killed twice")
        else:
            reason = f"crashes a grading process, also when graded alone (exit {code})"
            results[index] = Outcome(False, reason)

    def _enforce(self, results: dict[int, Outcome | Failure]) -> None:
        for worker in list(self.workers):
            if worker.busy is None:
                continue
            wall = time.monotonic() - worker.began
            if worker.busy < 0:
                if wall > START_LIMIT_S:
                    said = self._drop(worker)
                    raise GraderError(
                        f"a process that grades answers does not start: {said[-500:]}"
                    )
                continue
            if wall < min(self.cpu_limit_s, self.wall_limit_s):
                continue
            cpu = worker.cpu_seconds() - worker.cpu_before
            if cpu > self.cpu_limit_s:
                limit = f"{self.cpu_limit_s:g} s of processor time"
                self._spent(worker, results, f"not decided within {limit}")
                self._drop(worker)
            elif wall > self.wall_limit_s:
                reason = (
                    f"not decided within {self.wall_limit_s:g} s, of which {cpu:.1f} s computing"
                )
                if worker.busy in self.alone:
                    results[worker.busy] = Failure("grader_timeout", reason)
                else:
                    self.costly.append(worker.busy)
                self._drop(worker)

    def _spent(self, worker: _Worker, results: dict[int, Outcome | Failure], reason: str) -> None:
        """An answer reached a limit: the first opinion stands where there is one; else once more, alone."""
        index = worker.busy
        assert index is not None
        if worker.first is not None:
            results[index] = worker.first
        elif index in self.alone:
            results[index] = Outcome(False, f"costs too much, also when graded alone: {reason}")
        else:
            self.costly.append(index)

    def _drop(self, worker: _Worker) -> str:
        self.workers.remove(worker)
        self.selector.unregister(worker.output)
        return worker.kill()


def _outcome(found: dict) -> Outcome | Failure:
    if "error" in found:
        return Failure("grader_error", found["error"])
    return Outcome(**found)


_SHARED: list[AnswerPool] = []


def shared_pool() -> AnswerPool:
    """The pool of this process; a forked child gets one of its own."""
    if not _SHARED or _SHARED[0].pid != os.getpid():
        _SHARED[:] = [AnswerPool()]
        atexit.register(_SHARED[0].close)
    return _SHARED[0]
