"""Threads that work off requests, and how many connections this process may have."""

from __future__ import annotations

import contextlib
import logging
import queue
import resource
import threading
from collections.abc import Callable, Sequence
from typing import Any, final

LOG = logging.getLogger("opdlab")
TICK_S = 0.25
"""How often a thread without a request looks whether it is needed."""
SPARE_FILES = 64
"""Of the files that a process may have open, those that are not for connections."""
MOST_TRIES = 4
"""Of a request whose answer came, and says to try again."""


@final
class Crew:
    """Threads that work off requests.

    Attributes:
        left: requests that are not done with, but for those held back.
        held: requests that are not asked for now.
        done: places and answers, or what was raised instead.
        stop: set when nothing is wanted any more.
    """

    def __init__(
        self, ask: Callable[[int, Callable[[], bool]], Any], count: int, threads: int
    ) -> None:
        self.ask, self.left = ask, count
        self.todo: queue.SimpleQueue[int] = queue.SimpleQueue()
        # An answer may be large: no more of them wait than are under way.
        self.done: queue.Queue[tuple[int, Any]] = queue.Queue(max(1, threads))
        self.tries: dict[int, int] = {}
        self.held: list[int] = []
        self.stop = threading.Event()
        for place in range(count):
            self.todo.put(place)
        # Daemons: a thread that waits for a server that hangs must not keep the process.
        for _ in range(threads):
            threading.Thread(target=self.work, daemon=True).start()

    def again(self, place: int) -> bool:
        """Ask once more; False where that was done often enough."""
        self.tries[place] = self.tries.get(place, 1) + 1
        if self.tries[place] <= MOST_TRIES:
            self.todo.put(place)
        return self.tries[place] <= MOST_TRIES

    def hold(self) -> None:
        """Ask for nothing but what is under way."""
        with contextlib.suppress(queue.Empty):
            while True:
                self.held.append(self.todo.get_nowait())
                self.left -= 1

    def go_on(self, places: Sequence[int]) -> None:
        """Ask for some of what was held back."""
        for place in places:
            self.todo.put(place)
        self.left += len(places)
        asked = {*places}
        self.held = [place for place in self.held if place not in asked]

    def work(self) -> None:
        """Until there is nothing to do any more."""
        while not self.stop.is_set():
            try:
                place = self.todo.get(timeout=TICK_S)
            except queue.Empty:
                continue
            try:
                answer = self.ask(place, self.stop.is_set)
            except Exception as error:  # noqa: BLE001 - it is raised in the caller's thread
                answer = error
            self.hand_over(place, answer)

    def hand_over(self, place: int, answer: Any) -> None:
        """Wait until there is room for an answer, or nothing is wanted any more."""
        while not self.stop.is_set():
            try:
                self.done.put((place, answer), timeout=TICK_S)
                return
            except queue.Full:
                continue


def within_files(threads: int) -> int:
    """Connections that this process may have open, at most so many; the soft limit is raised for them."""
    wanted = threads + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        if most > soft:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        if most < wanted:
            threads = max(1, most - SPARE_FILES)
            LOG.warning(
                "%d requests at once, not %d: this process may open %d files (ulimit -Hn)",
                threads,
                wanted - SPARE_FILES,
                most,
            )
    return threads
