"""The decode loop: any decoder-only model's `forward` with a cache, rows dropped and refilled."""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer

from opdlab.errors import ModelError, NonFiniteError
from opdlab.growing_cache import GrowingCache
from opdlab.sampling import Recorded, choose, concatenate, record, uniforms
from opdlab.shapes import Float, Int, Tensor

# Logits held back, in numbers, so that small vocabularies are recorded many steps at a time.
_HELD_LOGITS = 1 << 20
# Tokens of a prefill's forward.
_PREFILL_TOKENS = 1 << 14


@dataclass(frozen=True)
class Draw:
    """How tokens are drawn, and what is recorded of each."""

    temperature: float
    top_p: float
    top_k: int
    vocabulary: int | None
    max_new_tokens: int
    eos_ids: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Decoded:
    """The responses in the order of the prompts, and what was recorded of their tokens, end to end."""

    responses: list[Int[Tensor, "length"]]
    recorded: Recorded


class _Records:
    """What was sampled, in the order in which it was; `finish` puts it in the order of the rows."""

    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self.tokens: list[Tensor] = []
        self.logits: list[Tensor] = []
        self.reduced: list[Recorded] = []
        self.parts: list[tuple[Tensor, Tensor, Tensor, Recorded]] = []

    def add(self, logits: Float[Tensor, "B V"], tokens: Int[Tensor, "B"]) -> None:
        self.logits.append(logits)
        self.tokens.append(tokens)
        if len(self.logits) * logits.numel() >= _HELD_LOGITS:
            self._reduce()

    def _reduce(self) -> None:
        if self.logits:
            tokens = torch.stack(self.tokens[-len(self.logits) :])
            self.reduced.append(record(torch.stack(self.logits), tokens, self.draw.top_k))
            self.logits = []

    def close(self, rows: list[int], ages: list[int], valid: list[int]) -> None:
        """End a stretch of steps: place b sampled `valid[b]` tokens of row `rows[b]` from `ages[b]` on."""
        self._reduce()
        tokens = torch.stack(self.tokens)
        device = tokens.device
        steps = torch.arange(len(tokens), device=device)[:, None]
        real = steps < torch.tensor(valid, device=device)
        row = torch.tensor(rows, device=device).expand_as(tokens)[real]
        position = (steps + torch.tensor(ages, device=device))[real]
        whole = concatenate(self.reduced)
        kept = Recorded(whole.log_prob[real], whole.entropy[real], whole.candidates[real])
        _refuse_non_finite(kept.log_prob, row, position)
        self.parts.append((row, position, tokens[real], kept))
        self.tokens, self.reduced = [], []

    def finish(self, rows: int) -> Decoded:
        """All of it, rows in order."""
        row, position, token = (torch.cat([part[i] for part in self.parts]) for i in range(3))
        order = torch.argsort(row * self.draw.max_new_tokens + position)
        whole = concatenate([part[3] for part in self.parts])
        return Decoded(
            list(token[order].split(torch.bincount(row, minlength=rows).tolist())),
            Recorded(whole.log_prob[order], whole.entropy[order], whole.candidates[order]),
        )


def _refuse_non_finite(log_prob: Tensor, row: Tensor, position: Tensor) -> None:
    bad = (~log_prob.isfinite()).nonzero()
    if len(bad):
        first = bad[0, 0]
        raise NonFiniteError(
            f"sampling: the model's log-probability of prompt {int(row[first])} at response position "
            f"{int(position[first])} is {float(log_prob[first])}. Its weights or activations are not "
            "finite: lower the learning rate, clip gradients, or use a wider precision."
        )


class _Decoder:
    """Rows in their places, from prefill to the last token."""

    def __init__(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        draw: Draw,
        places: int,
    ) -> None:
        self.model, self.prompts, self.draw = model, prompts, draw
        self.device = model.device
        self.seeds = torch.tensor(list(seeds), device=self.device)
        self.cache = GrowingCache(places)
        self.records = _Records(draw)
        # Longest prompts first: a later one then fits left of the current column.
        self.queue = deque(sorted(range(len(prompts)), key=lambda row: -len(prompts[row])))
        self.rows = [-1] * places
        self.ages = [0] * places
        self.last = torch.zeros(places, 1, dtype=torch.long, device=self.device)
        accepted = inspect.signature(model.forward).parameters
        self.takes_positions = "position_ids" in accepted
        self.keep_last = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}

    def refill(self) -> None:
        """Give free places to prompts of the queue; drop places that stay free."""
        free = [b for b, row in enumerate(self.rows) if row < 0]
        taken = free[: len(self.queue)]
        while taken:
            width = max(1, len(self.prompts[self.queue[0]]))
            part = taken[: max(1, _PREFILL_TOKENS // width)]
            taken = taken[len(part) :]
            self._prefill(part, [self.queue.popleft() for _ in part])
        live = [b for b, row in enumerate(self.rows) if row >= 0]
        if live and len(live) < len(self.rows):
            self.cache.keep(live)
            self.rows = [self.rows[b] for b in live]
            self.ages = [self.ages[b] for b in live]
            self.last = self.last[live]

    def _prefill(self, places: list[int], rows: list[int]) -> None:
        """Cache all tokens of the prompts but the last, which is the first step's input.

        Padding stands on the right, where no token attends to it, so no mask is needed and positions
        count from 0.
        """
        prompts = [tuple(self.prompts[row]) for row in rows]
        unique = {prompt: i for i, prompt in enumerate(dict.fromkeys(prompts))}
        width = max(1, max(len(prompt) for prompt in unique) - 1)
        padded = torch.zeros(len(unique), width, dtype=torch.long)
        for prompt, i in unique.items():
            body = prompt[:width] if len(prompt) == 1 else prompt[:-1]
            padded[i, : len(body)] = torch.tensor(body)
        prefilled = Cache(layer_class_to_replicate=DynamicLayer)
        self._forward(padded.to(self.device), prefilled)
        lengths = [len(prompt) - 1 for prompt in prompts]
        self.cache.fill(places, prefilled, [unique[prompt] for prompt in prompts], lengths)
        for place, row, prompt in zip(places, rows, prompts, strict=True):
            self.rows[place], self.ages[place] = row, 0
            self.last[place, 0] = prompt[-1]

    def _forward(self, tokens: Tensor, cache: Cache, **kwargs: Any) -> Tensor:
        return self.model(
            input_ids=tokens, past_key_values=cache, use_cache=True, **self.keep_last, **kwargs
        ).logits

    def stretch(self, threshold: int) -> int:
        """Decode until `threshold` rows have ended; returns how many have."""
        draw, places = self.draw, len(self.rows)
        valid = [0] * places
        ended: set[int] = {b for b, row in enumerate(self.rows) if row < 0}
        already = len(ended)
        eos = set(draw.eos_ids)
        seeds = self.seeds[torch.tensor(self.rows, device=self.device)][:, None]
        ages = torch.tensor(self.ages, device=self.device)[:, None]
        positions = self.cache.positions
        steps = 0
        while len(ended) - already < threshold:
            kwargs = {"attention_mask": self.cache.mask}
            if self.takes_positions:
                kwargs["position_ids"] = positions + steps
            logits = self._forward(self.last, self.cache, **kwargs)[:, -1, : draw.vocabulary]
            logits = logits.float()
            self.cache.advance()
            uniform = uniforms(seeds, ages + steps)[:, 0]
            tokens = choose(logits, uniform, draw.temperature, draw.top_p)
            self.records.add(logits, tokens)
            self.last = tokens[:, None]
            steps += 1
            for b, token in enumerate(tokens.tolist()):
                if b not in ended:
                    valid[b] = steps
                    if token in eos or self.ages[b] + steps == draw.max_new_tokens:
                        ended.add(b)
        self.records.close(self.rows, self.ages, valid)
        for b in range(places):
            self.ages[b] += steps
            if b in ended:
                self.rows[b] = -1
                self.cache.release(b)
        return len(ended) - already


def decode(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    draw: Draw,
    max_rows: int | None = None,
    on_finished: Callable[[int], None] | None = None,
) -> Decoded:
    """Sample a response to each prompt.

    Raises:
        ModelError: the model keeps state other than keys and values.
        NonFiniteError: a log-probability is NaN or infinite.
    """
    if getattr(model, "_is_stateful", False):
        raise ModelError(
            f"{type(model).__name__} keeps state other than keys and values, which the rollout engine "
            "`cached` cannot hold; set rollout.type to `generate`"
        )
    places = min(max_rows or len(prompts), len(prompts))
    decoder = _Decoder(model, prompts, seeds, draw, places)
    decoder.refill()
    left = len(prompts)
    while left:
        live = sum(row >= 0 for row in decoder.rows)
        done = decoder.stretch(max(1, live // 4))
        left -= done
        if on_finished is not None:
            on_finished(done)
        if left:
            decoder.refill()
    return decoder.records.finish(len(prompts))
