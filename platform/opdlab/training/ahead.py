"""The next step's prompts, made while this one is trained on."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor

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
        self.beside: ThreadPoolExecutor | None = None

    def begin(self, places: Iterable[int]) -> None:
        """Start with these; earlier ones that nobody asked for are dropped."""
        for forgotten in self.pending.values():
            forgotten.cancel()
        self.pending = {}
        if self.beside is None:
            self.beside = ThreadPoolExecutor(1, thread_name_prefix="prompts")
        for place in places:
            self.pending[place] = self.beside.submit(self.source.prompt, place)

    def prompt(self, place: int) -> Prompt:
        """The prompt at a place, waited for where it is being made.

        Raises:
            DataError: see `PromptSource.prompt`.
        """
        made = self.pending.pop(place, None)
        return self.source.prompt(place) if made is None else made.result()
