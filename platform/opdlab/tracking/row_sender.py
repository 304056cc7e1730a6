"""Rows of metrics on their way to a store: many at once, by a thread, so that a step waits for none."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

from opdlab.console import progress_bar

ENTITIES = 1000
"""Metrics sent at once: a store takes a thousand in little more time than sixty."""
GATHER_S = 2.0
"""Longest time for which a row waits for others."""
SHOW_AFTER_S = 1.0
RETRY_AFTER_S = 60.0

Row = Mapping[str, float]


@final
class RowSender:
    """Sends what is put into it, in order.

    Args:
        send: sends rows; raises where the store does not answer.
        on_failure: called with what it raised.
    """

    def __init__(
        self, send: Callable[[Sequence[Row]], object], on_failure: Callable[[Exception], object]
    ) -> None:
        self._send, self._on_failure = send, on_failure
        self._rows: list[Row] = []
        self._changed = threading.Condition()
        self._closing = False
        self._silent_until = 0.0
        self._thread: threading.Thread | None = None

    def put(self, row: Row) -> None:
        """Take a row; it is sent later."""
        with self._changed:
            self._rows.append(row)
            self._changed.notify()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, daemon=True)
            self._thread.start()

    def close(self) -> list[Any]:
        """Wait until everything is sent, and show how far that is; the rows that could not be."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(SHOW_AFTER_S)
            if self._thread.is_alive():
                self._show(self._thread)
        left, self._rows = self._rows, []
        return left

    def _show(self, thread: threading.Thread) -> None:
        with progress_bar() as bar:
            total = len(self._rows)
            task = bar.add_task("steps sent to MLflow", total=total)
            while thread.is_alive():
                thread.join(0.2)
                bar.update(task, completed=total - len(self._rows))

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._rows or self._closing)
                self._changed.wait_for(self._is_due, GATHER_S)
                if not self._rows and self._closing:
                    return
                batch = self._batch()
            if time.monotonic() < self._silent_until:
                if self._closing:
                    return
                with self._changed:
                    left = self._silent_until - time.monotonic()
                    self._changed.wait_for(lambda: self._closing, max(left, 0))
                continue
            try:
                self._send(batch)
            except Exception as error:  # noqa: BLE001 - the rows stay, and close() hands them over
                self._silent_until = time.monotonic() + RETRY_AFTER_S
                self._on_failure(error)
                continue
            with self._changed:
                del self._rows[: len(batch)]

    def _is_due(self) -> bool:
        return self._closing or sum(map(len, self._rows[:ENTITIES])) >= ENTITIES

    def _batch(self) -> list[Row]:
        """The first rows, of as many metrics as are sent at once, and at least one row."""
        found: list[Row] = []
        size = 0
        for row in self._rows:
            size += len(row) - 2
            if found and size > ENTITIES:
                break
            found.append(row)
        return found
