"""Rows being decoded: which have a place, how they are filled and drawn, and how they go when they end."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import accumulate
from typing import final

import torch
from transformers import PreTrainedModel

from opdlab.modelling import forget, unpacked_rows
from opdlab.sampling.decode_step import ModelStep, last_logits_only, past
from opdlab.sampling.draws import choose, uniforms, weigh
from opdlab.sampling.growing_cache import GrowingCache, PrefilledCache
from opdlab.sampling.lean_step import LeanStep
from opdlab.sampling.llama_step import LlamaStep
from opdlab.sampling.manner import Manner
from opdlab.sampling.recording import Draw, Watch
from opdlab.sampling.row_states import RowStates
from opdlab.sampling.static_step import COLUMNS, StaticStep
from opdlab.shapes import Float, Int, Tensor
from opdlab.transfers import sent

_STEPS = {"written": LlamaStep, "lean": LeanStep, "static": StaticStep, "plain": ModelStep}
# Tokens of a prefill's forward.
_PREFILL_TOKENS = 1 << 14
# Steps between looks at the places: bounds the table of uniforms, and how late NaN is seen.
_STRETCH = 256
# On an accelerator, looking at tokens waits for it: every so many steps, where an answer may have ended.
_ACCELERATOR_INTERVAL = 16


def spare_columns(new_tokens: int, recorded: bool) -> int:
    """Columns to spare, at least, of buffers that are made anew, for answers of so many tokens."""
    return min(new_tokens, COLUMNS if recorded else _STRETCH)


def most_columns(length: int, new_tokens: int, on_cpu: bool) -> int:
    """Columns held at most while free places are filled again.

    Args:
        length: tokens of the longest row, its answer included.
        new_tokens: of an answer, at most.
    """
    return GrowingCache(spare_columns(new_tokens, not on_cpu)).capacity_for(length)


@dataclass(frozen=True)
class Room:
    """What may be held of the rows being decoded.

    Attributes:
        rows: decoded at a time, at most.
        tokens: places for keys and values, filler included, at most or those of one row; None for any
            number. Rows that a longer one leaves no room for wait, and go on where they were.
    """

    rows: int
    tokens: int | None = None

    @property
    def prefill(self) -> int:
        """Tokens of a prefill's forward, at most or those of one row."""
        return min(_PREFILL_TOKENS, self.tokens or _PREFILL_TOKENS)


@final
class Decoder:
    """Rows in their places, from prefill to the last token.

    Attributes:
        said: what each row has said so far, while it has a place or waits for one again.
        queue: rows that wait for a place, the longest first.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        draw: Draw,
        room: Room,
        watch: Watch,
        way: Manner,
        stretch: int = _STRETCH,
    ) -> None:
        """Without places.

        Args:
            stretch: steps between looks at the places, at most.
        """
        self.model, self.prompts, self.draw, self.watch = model, prompts, draw, watch
        self.device = model.device
        self.seeds = sent(list(seeds), self.device)
        states = RowStates(model)
        self.cache = GrowingCache(
            spare_columns(draw.max_new_tokens, way.recorded), states if states.layers else None
        )
        self.room, self.way, self.longest = room, way, stretch
        self.said: defaultdict[int, list[int]] = defaultdict(list)
        self.queue: deque[int] = deque()
        self._wait(range(len(prompts)))
        self.rows: list[int] = []
        self.last = torch.zeros(0, 1, dtype=torch.long, device=self.device)
        self.step = _STEPS[way.step](model, self.cache)
        self.eos = frozenset(draw.eos_ids)
        on_accelerator = _ACCELERATOR_INTERVAL if self.eos else stretch
        self.interval = 1 if self.device.type == "cpu" else on_accelerator

    @property
    def ages(self) -> list[int]:
        """Tokens that the row in each place has said."""
        return [len(self.said[row]) for row in self.rows]

    def _known(self, row: int) -> tuple[int, ...]:
        return (*self.prompts[row], *self.said[row])

    def _length(self, row: int) -> int:
        return len(self.prompts[row]) + len(self.said[row])

    def _wait(self, rows: Iterable[int]) -> None:
        # The longest first: a later one then fits left of the current column.
        self.queue = deque(sorted([*self.queue, *rows], key=lambda row: -self._length(row)))

    def refill(self) -> None:
        """Give places to rows of the queue as far as there is room; drop places that stay free."""
        self._send_back()
        coming = self._admitted()
        live = [b for b, row in enumerate(self.rows) if row >= 0]
        free = [b for b, row in enumerate(self.rows) if row < 0]
        places = len(live) + len(coming)
        if places < len(self.rows):
            kept = self.cache.keep(sorted(live + free[: len(coming)]))
            self.rows = [self.rows[b] for b in kept]
            self.last = self.last[sent(kept, self.device)]
        elif places > len(self.rows):
            more = places - len(self.rows)
            self.cache.widen(places)
            self.rows += [-1] * more
            self.last = torch.cat([self.last, self.last.new_zeros(more, 1)])
        free = [b for b, row in enumerate(self.rows) if row < 0]
        while coming:
            count = max(1, self.room.prefill // self._length(coming[0]))
            self._prefill(free[:count], coming[:count])
            free, coming = free[count:], coming[count:]

    def _send_back(self) -> None:
        """Let the youngest rows wait again where longer ones need their room: little is computed twice."""
        cache = self.cache
        if cache.end < cache.capacity:
            return
        old = sorted(
            (b for b, row in enumerate(self.rows) if row >= 0),
            key=lambda b: -len(self.said[self.rows[b]]),
        )
        firsts = list(accumulate((cache.start[b] for b in old), min))
        keep = len(old)
        while keep > 1 and not self._fits(keep, cache.end - firsts[keep - 1]):
            keep -= 1
        back = [self.rows[b] for b in old[keep:]]
        for b in old[keep:]:
            self.rows[b], cache.start[b] = -1, cache.end
        if back:
            self._wait(back)

    def _fits(self, rows: int, columns: int) -> bool:
        tokens = self.room.tokens
        return tokens is None or rows * self.cache.capacity_for(columns) <= tokens

    def _admitted(self) -> list[int]:
        """Rows out of the queue that there is room for, longest first.

        The longest of the queue while it fits, then the shortest: long ones then wait for their like.
        """
        if self.way.alike:
            return self._of_one_length()
        live = [b for b, row in enumerate(self.rows) if row >= 0]
        columns = self.cache.end - min((self.cache.start[b] for b in live), default=self.cache.end)
        found: list[int] = []
        while self.queue and len(live) + len(found) < self.room.rows:
            rows = len(live) + len(found) + 1
            for take, row in (
                (self.queue.popleft, self.queue[0]),
                (self.queue.pop, self.queue[-1]),
            ):
                if rows == 1 or self._fits(rows, max(columns, self._length(row))):
                    columns = max(columns, self._length(row))
                    found.append(take())
                    break
            else:
                break
        return sorted(found, key=lambda row: -self._length(row))

    def _of_one_length(self) -> list[int]:
        """Rows out of the queue as long as those that are decoded now, which stay equally long."""
        live = [row for row in self.rows if row >= 0]
        length = self._length((live or self.queue)[0]) if live or self.queue else 0
        found: list[int] = []
        for row in [row for row in self.queue if self._length(row) == length]:
            rows = len(live) + len(found) + 1
            if rows > 1 and (rows > self.room.rows or not self._fits(rows, length)):
                break
            found.append(row)
        self.queue = deque(row for row in self.queue if row not in found)
        return found

    def _prefill(self, places: list[int], rows: list[int]) -> None:
        """Cache all that is known of the rows but the last token, which is the first step's input.

        Padding stands on the right, where no token attends to it, so no mask is needed and positions
        count from 0. Equal rows are computed once.
        """
        known = [self._known(row) for row in rows]
        unique = {tokens: i for i, tokens in enumerate(dict.fromkeys(known))}
        width = max(1, max(len(tokens) for tokens in unique) - 1)
        bodies = [(*tokens[:-1], *tokens[:1] * (width + 1 - len(tokens))) for tokens in unique]
        forget(self.model)
        prefilled = PrefilledCache(width, self.device)
        of_unique = [len(tokens) - 1 for tokens in unique]
        source = [unique[tokens] for tokens in known]
        states, count = self.cache.states, len(self.rows)
        filled = None if states is None else states.filled(of_unique, source, places, count)
        given = past(self.model, prefilled, states is not None)
        with unpacked_rows(), filled or nullcontext():
            inputs = sent(bodies, self.device)
            self.model(input_ids=inputs, **given, **last_logits_only(self.model))
        lengths = [len(tokens) - 1 for tokens in known]
        coming = self.draw.max_new_tokens - min(len(self.said[row]) for row in rows)
        self.cache.fill(places, prefilled, source, lengths, coming)
        for place, row in zip(places, rows, strict=True):
            self.rows[place] = row
        last = sent([[tokens[-1]] for tokens in known], self.device)
        # Not in place: the tokens of the last step are still to be recorded.
        self.last = self.last.index_copy(0, sent(places, self.device), last)

    def stretch(self, enough: int) -> list[tuple[int, list[int]]]:
        """Decode with the same rows in the same places until `enough` have ended.

        Returns:
            row and tokens of each response that has ended.
        """
        draw, cache, ages = self.draw, self.cache, self.ages
        cache.restrict()
        cache.reserve(draw.max_new_tokens - min(ages))
        limit = min(draw.max_new_tokens - max(ages), cache.capacity - cache.end, self.longest)
        step = torch.arange(limit, device=self.device)
        seeds = self.seeds[sent(self.rows, self.device)][:, None]
        uniform = uniforms(seeds, sent(ages, self.device)[:, None] + step)
        self.step.start(cache.positions() + step)
        valid = [limit] * len(self.rows)
        live = set(range(len(self.rows)))
        drawn = self._draw(uniform, enough, live, valid)
        steps = len(drawn)
        self.watch.close(self.rows, ages, [min(n, steps) for n in valid], steps)
        for b, tokens in enumerate(zip(*drawn, strict=True)):
            self.said[self.rows[b]] += tokens[: valid[b]]
        ended = [
            b
            for b, row in enumerate(self.rows)
            if b not in live or len(self.said[row]) == draw.max_new_tokens
        ]
        finished = [(self.rows[b], self.said.pop(self.rows[b])) for b in ended]
        for b in ended:
            self.rows[b] = -1
            cache.start[b] = cache.end
        return finished

    def _draw(
        self, uniform: Float[Tensor, "B steps"], enough: int, live: set[int], valid: list[int]
    ) -> list[list[int]]:
        """The tokens of each step, until `enough` rows have ended or the uniform numbers have."""
        numbers = uniform.split(1, -1)
        drawn: list[list[int]] = []
        with self.step.stretch():
            while len(drawn) < len(numbers) and len(self.rows) - len(live) < enough:
                coming = range(len(drawn), min(len(drawn) + self.interval, len(numbers)))
                fresh = torch.cat([self._step(numbers[i], i) for i in coming], 1).t().tolist()
                self._look(fresh, len(drawn), live, valid)
                drawn += fresh
        return drawn

    def _step(self, uniform: Float[Tensor, "B one"], step: int) -> Int[Tensor, "B one"]:
        """One token for every row."""
        draw = self.draw
        weighed = weigh(self.step.logits(self.last, step)[:, : draw.vocabulary])
        self.cache.end += 1
        self.last = choose(weighed, uniform, draw.temperature, draw.top_p)
        self.watch.add(weighed, self.last)
        return self.last

    def _look(self, fresh: list[list[int]], first: int, live: set[int], valid: list[int]) -> None:
        """Find rows whose response ended in the steps from `first` on."""
        for step, tokens in enumerate(fresh, first):
            if not self.eos.isdisjoint(tokens):
                for b in [b for b in live if tokens[b] in self.eos]:
                    live.remove(b)
                    valid[b] = step + 1
