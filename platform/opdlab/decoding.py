"""The decode loop: any decoder-only model's `forward` with a cache, rows dropped and refilled."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer

from opdlab.decode_step import ModelStep, cache_argument, last_logits_only
from opdlab.errors import ModelError
from opdlab.growing_cache import GrowingCache
from opdlab.llama_step import LlamaStep, fits
from opdlab.recording import Decoded, Draw, OnResponse, Records
from opdlab.sampling import choose, uniforms, weigh
from opdlab.shapes import Float, Int, Tensor

# Tokens of a prefill's forward.
_PREFILL_TOKENS = 1 << 14
# Steps between looks at the places: bounds the table of uniforms, and how late NaN is seen.
_STRETCH = 256
# On an accelerator, looking at the tokens waits for it: only every so many steps.
_ACCELERATOR_INTERVAL = 8
# One place in so many must be free before rows move: a move costs about as much as a step.
_SHARE = 8


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
        self.cache = GrowingCache(places, min(draw.max_new_tokens, _STRETCH))
        self.records = Records(draw)
        # Longest prompts first: a later one then fits left of the current column.
        self.queue = deque(sorted(range(len(prompts)), key=lambda row: -len(prompts[row])))
        self.rows = [-1] * places
        self.ages = [0] * places
        self.said: list[list[int]] = [[] for _ in range(places)]
        self.last = torch.zeros(places, 1, dtype=torch.long, device=self.device)
        self.interval = 1 if self.device.type == "cpu" else _ACCELERATOR_INTERVAL
        self.step = LlamaStep(model, self.cache) if fits(model) else ModelStep(model, self.cache)
        self.eos = frozenset(draw.eos_ids)

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
            kept = self.cache.keep(live)
            self.rows = [self.rows[b] for b in kept]
            self.ages = [self.ages[b] for b in kept]
            self.said = [self.said[b] for b in kept]
            self.last = self.last[torch.tensor(kept, device=self.device)]

    def _prefill(self, places: list[int], rows: list[int]) -> None:
        """Cache all tokens of the prompts but the last, which is the first step's input.

        Padding stands on the right, where no token attends to it, so no mask is needed and positions
        count from 0. Equal prompts are computed once.
        """
        prompts = [tuple(self.prompts[row]) for row in rows]
        unique = {prompt: i for i, prompt in enumerate(dict.fromkeys(prompts))}
        width = max(1, max(len(prompt) for prompt in unique) - 1)
        bodies = [(*prompt[:-1], *prompt[:1] * (width + 1 - len(prompt))) for prompt in unique]
        prefilled = Cache(layer_class_to_replicate=DynamicLayer)
        self.model(
            input_ids=torch.tensor(bodies, device=self.device),
            use_cache=True,
            **{cache_argument(self.model): prefilled},  # pyright: ignore[reportArgumentType]
            **last_logits_only(self.model),
        )
        lengths = [len(prompt) - 1 for prompt in prompts]
        self.cache.fill(places, prefilled, [unique[prompt] for prompt in prompts], lengths)
        for place, row in zip(places, rows, strict=True):
            self.rows[place], self.ages[place], self.said[place] = row, 0, []
        last = torch.tensor([[prompt[-1]] for prompt in prompts], device=self.device)
        # Not in place: the tokens of the last step are still to be recorded.
        self.last = self.last.index_copy(0, torch.tensor(places, device=self.device), last)

    def stretch(self, enough: int) -> list[tuple[int, list[int]]]:
        """Decode with the same rows in the same places until `enough` have ended.

        Returns:
            row and tokens of each response that has ended.
        """
        draw, cache = self.draw, self.cache
        cache.restrict()
        cache.reserve()
        limit = min(draw.max_new_tokens - max(self.ages), cache.capacity - cache.end, _STRETCH)
        step = torch.arange(limit, device=self.device)
        seeds = self.seeds[torch.tensor(self.rows, device=self.device)][:, None]
        ages = torch.tensor(self.ages, device=self.device)[:, None]
        uniform = uniforms(seeds, ages + step).split(1, -1)
        self.step.start(cache.positions() + step)
        valid = [limit] * len(self.rows)
        live = set(range(len(self.rows)))
        steps = 0
        drawn: list[Tensor] = []
        while steps < limit and len(self.rows) - len(live) < enough:
            coming = range(steps, min(steps + self.interval, limit))
            fresh = [self._step(uniform[i], i) for i in coming]
            self._look(fresh, steps, live, valid)
            steps += len(fresh)
            drawn += fresh
        self.records.close(self.rows, self.ages, [min(n, steps) for n in valid], steps)
        self.ages = [age + steps for age in self.ages]
        ended = [
            b for b, age in enumerate(self.ages) if b not in live or age == draw.max_new_tokens
        ]
        for b, tokens in enumerate(torch.cat(drawn, 1).tolist()):
            self.said[b] += tokens[: valid[b]]
        finished = [(self.rows[b], self.said[b]) for b in ended]
        for b in ended:
            self.rows[b] = -1
            cache.start[b] = cache.end
        return finished

    def _step(self, uniform: Float[Tensor, "B one"], step: int) -> Int[Tensor, "B one"]:
        """One token for every row."""
        draw = self.draw
        weighed = weigh(self.step.logits(self.last, step)[:, : draw.vocabulary])
        self.cache.end += 1
        self.last = choose(weighed, uniform, draw.temperature, draw.top_p)
        self.records.add(weighed, self.last)
        return self.last

    def _look(self, fresh: list[Tensor], first: int, live: set[int], valid: list[int]) -> None:
        """Find rows whose response ended in the steps from `first` on."""
        for step, tokens in enumerate(torch.cat(fresh, 1).t().tolist(), first):
            if not self.eos.isdisjoint(tokens):
                for b in [b for b in live if tokens[b] in self.eos]:
                    live.remove(b)
                    valid[b] = step + 1


def _refuse_unfit(model: PreTrainedModel, longest: int) -> None:
    remedy = "set rollout.type to `generate`"
    if getattr(model, "_is_stateful", False):
        raise ModelError(
            f"{type(model).__name__} keeps state other than keys and values, which the rollout engine "
            f"`cached` cannot hold; {remedy}"
        )
    config = model.config.get_text_config(decoder=True)
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") in ("dynamic", "longrope"):
        original = rope.get("original_max_position_embeddings", config.max_position_embeddings)
        if longest > original:
            raise ModelError(
                f"the rotary frequencies of {type(model).__name__} change beyond {original} positions "
                f"(rope_type {rope['rope_type']!r}) and prompts and responses may take {longest}: keys "
                "cached before would be wrong in the rollout engine `cached`; lower "
                f"rollout.max_new_tokens, or {remedy}"
            )


def decode(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    draw: Draw,
    max_rows: int | None = None,
    on_response: OnResponse | None = None,
) -> Decoded:
    """Sample a response to each prompt.

    Raises:
        ModelError: keys and values of past tokens are not all that the model needs of them.
        NonFiniteError: a log-probability is NaN or infinite.
    """
    _refuse_unfit(model, max(map(len, prompts)) + draw.max_new_tokens)
    places = min(max_rows or len(prompts), len(prompts))
    decoder = _Decoder(model, prompts, seeds, draw, places)
    left = len(prompts)
    while left:
        decoder.refill()
        ended = decoder.stretch(max(1, len(decoder.rows) // _SHARE))
        left -= len(ended)
        if on_response is not None:
            for row, tokens in ended:
                on_response(row, tokens)
    return decoder.records.finish(len(prompts))
