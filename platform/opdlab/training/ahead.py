"""The next step's prompts, made while this one is trained on."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future
from threading import Thread, main_thread

from opdlab.prompts import PromptSource
from opdlab.records import Prompt


class PromptsAhead:
    """Prompts by their places, of which one thread makes the next ones ready.

    A prompt is a function of its place alone, so what was made ahead is what would be made now. A place
    whose prompt can't be made fails when it is asked for.
    """

    def __init__(self, source: PromptSource) -> None:
        self.source = source
        self.pending: dict[int, Future[Prompt]] = {}
        self.beside: Thread | None = None

    def begin(self, places: Iterable[int]) -> None:
        """Start with these; earlier ones that nobody asked for are dropped."""
        for forgotten in self.pending.values():
            forgotten.cancel()
        if self.beside is not None:
            # One prompt at most is under way; never two at a time from one source.
            self.beside.join()
        self.pending = {place: Future() for place in places}
        self.beside = Thread(target=self._make, args=(dict(self.pending),), name="prompts")
        self.beside.start()

    def _make(self, wanted: dict[int, Future[Prompt]]) -> None:
        for place, future in wanted.items():
            if not main_thread().is_alive():
                return  # the process ends, and waits for one prompt at most
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(self.source.prompt(place))
            except BaseException as error:  # noqa: BLE001 - told where the prompt is asked for
                future.set_exception(error)

    def prompt(self, place: int) -> Prompt:
        """The prompt at a place, waited for where it is being made.

        Raises:
            DataError: see `PromptSource.prompt`.
        """
        made = self.pending.pop(place, None)
        return self.source.prompt(place) if made is None else made.result()
