"""Answers of a server that are held back until it is seen to have the same weights still."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Generic, TypeVar, final

from opdlab.console import Stopped
from opdlab.errors import OtherWeightsError, UnservedError
from opdlab.serving import Received

Kind = TypeVar("Kind")
EVERY_S = 10.0
COSTS = 20
"""Answers are handed on at most so often; and seldom enough for looking to take a twentieth of the time."""


@final
class Held(Generic[Kind]):
    """Answers on their way to whoever asked.

    Attributes:
        waits: whether they are handed on by `hand_on` alone.
    """

    def __init__(
        self,
        prove: Callable[[], None],
        on_answer: Callable[[int, Kind], None],
        received: Received,
        interruptions: Callable[[], int] = lambda: 0,
    ) -> None:
        """Nothing is held yet.

        Args:
            prove: raises OtherWeightsError where the server has other weights now, UnservedError where it
                does not have the model, and ServerError where it says nothing: then what is held is kept
                for whoever goes on.
            received: keeps what is held where this process ends.
            interruptions: how often the server was away, after which it may be another.
        """
        self.prove, self.on_answer = prove, on_answer
        self.received, self.interruptions = received, interruptions
        self.unbroken = interruptions()
        self.waits = False
        self.rows: list[tuple[int, Kind]] = []
        self.since, self.pause = perf_counter(), EVERY_S

    def add(self, row: int, answer: Kind) -> None:
        """Hold an answer."""
        self.rows.append((row, answer))
        # What came after the server was away is not known to be of the same one before it is proved.
        if self.interruptions() == self.unbroken:
            self.received.add(row, vars(answer))
        self.look()

    def look(self) -> None:
        """Hand on what is held if it is time."""
        if not self.waits and perf_counter() - self.since > self.pause:
            self.hand_on()

    def hand_on(self) -> None:
        """Hand on what is held; raises what `prove` does: what another model may have said is left out.

        Whoever takes an answer and is told to stop gets the others first.
        """
        rows, self.rows = self.rows, []
        if rows:
            started, interruptions = perf_counter(), self.interruptions()
            try:
                self.prove()
            except (OtherWeightsError, UnservedError):
                self.received.forget([row for row, _ in rows])
                raise
            self.unbroken = interruptions
            self.pause = max(EVERY_S, COSTS * (perf_counter() - started))
        stopped: Stopped | None = None
        for row, answer in rows:
            try:
                self.on_answer(row, answer)
            except Stopped as error:
                stopped = error
        self.since = perf_counter()
        if stopped is not None:
            raise stopped
