"""A decode step of fixed shapes, which an accelerator records once and then replays.

A model's step launches some hundred kernels a layer, and a large card has done each before the host has
launched the next. Replaying the recorded step is one launch. What changes from step to step (the tokens,
their column) lies in tensors that stay where they are.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import nullcontext

import torch
from transformers import PreTrainedModel

from opdlab.modelling import UnsupportedError, hooked, running, unpacked_rows
from opdlab.sampling.decode_attention import DecodePass
from opdlab.sampling.decode_step import DecodeStep, last_logits_only, past
from opdlab.sampling.growing_cache import GrowingCache
from opdlab.shapes import Float, Int, Tensor
from opdlab.transfers import sent

COLUMNS = 2048
"""Spare columns of a cache that is decoded so: one that moves must be recorded again."""


def fits(model: PreTrainedModel) -> bool:
    """Whether a step may be recorded; that it can be, and is right, is found by trying."""
    return (
        model.device.type == "cuda"
        and len({p.device for p in model.parameters()}) == 1
        and all(type(p.data) is torch.Tensor for p in model.parameters())
    )


class StaticStep(DecodeStep):
    """The step of any decoder-only model whose attention can be hooked; on a CPU, without a recording.

    States of recurrent layers are written where they are, as keys and values are.

    Attributes:
        token: input of the step. `Int[B one]`
        column: where it is written. `Int[one]`
        first: column of each row's first token. `Int[B one]`
    """

    def __init__(self, model: PreTrainedModel, cache: GrowingCache) -> None:
        self.model, self.cache = model, cache
        cache.column = self.column = torch.zeros(1, dtype=torch.long, device=model.device)
        self.takes_positions = "position_ids" in inspect.signature(model.forward).parameters
        self.last_only = last_logits_only(model)
        self.replay: Callable[[], Tensor] = self.advance
        self.known: tuple[int, ...] = ()

    def start(self, positions: Int[Tensor, "B steps"]) -> None:
        cache = self.cache
        first = sent(cache.start, self.column.device)[:, None]
        self.column.fill_(cache.end)
        if self._places(len(first)) == self.known:
            self.first.copy_(first)
            return
        self.first, self.token = first, torch.zeros_like(first)
        # A first time as it is: libraries choose their kernels then, and make their buffers.
        with nullcontext() if cache.states is None else cache.states.tried():
            self.advance()
        self.check()
        self.replay = self.recorded()
        self.column.fill_(cache.end)
        self.known = self._places(len(first))

    def recorded(self) -> Callable[[], Float[Tensor, "B V"]]:
        """`advance` as one launch; as it is where nothing can be recorded."""
        return _recorded(self.advance, self.first) if self.first.is_cuda else self.advance

    def _places(self, rows: int) -> tuple[int, ...]:
        """Where a recording of so many rows reads and writes.

        Of every layer: a buffer that moved twice may lie where another one was.
        """
        cache = self.cache
        buffers = [one for layer in cache.layers for one in layer.buffers]
        if cache.states is not None:
            buffers += cache.states.tensors
        return rows, cache.capacity, *(one.data_ptr() for one in buffers)

    def logits(self, tokens: Int[Tensor, "B one"], step: int) -> Float[Tensor, "B V"]:
        self.token.copy_(tokens)
        logits = self.replay()
        # The next replay writes there; those of other formats are cast by whoever reads them.
        return logits.clone() if logits.dtype == torch.float32 else logits

    def advance(self) -> Float[Tensor, "B V"]:
        """Logits after `token`; the next step writes a column further."""
        logits = self.forward()
        self.column += 1
        return logits

    def forward(self) -> Float[Tensor, "B V"]:
        """Next-token logits after `token`, by the model's own forward."""
        model, cache = self.model, self.cache
        given = past(model, cache, cache.states is not None)
        if self.takes_positions:
            given["position_ids"] = self.column - self.first
        with hooked(model) as own:
            self.attention = DecodePass(own, self.first, self.column, cache.states)
            with running(self.attention), unpacked_rows():
                output = model(input_ids=self.token, **given, **self.last_only)
        return output.logits[:, -1]

    def check(self) -> None:
        """Refuse what a forward could not have done right.

        Raises:
            UnsupportedError: a layer's attention is none over a range of columns, or the model counts the
                tokens of its cache itself, which a recording would not.
        """
        if not self.takes_positions and any(layer.buffers for layer in self.cache.layers):
            raise UnsupportedError("it takes no positions, and counts those of its keys itself")
        self.attention.require_ranges()


def _recorded(run: Callable[[], Tensor], like: Tensor) -> Callable[[], Tensor]:
    """What `run` launches, as one launch; its result is always in the same place.

    Args:
        like: lies on the card, which need not be the current one.
    """
    with torch.cuda.device_of(like):
        stream, main = torch.cuda.Stream(), torch.cuda.current_stream()
        stream.wait_stream(main)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(stream):
            # Other threads may go on, but for waits for the whole card (`opdlab.transfers.wait`).
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                output = run()
            finally:
                graph.capture_end()
        main.wait_stream(stream)

    def replay() -> Tensor:
        with torch.cuda.device_of(like):
            graph.replay()
        return output

    return replay
