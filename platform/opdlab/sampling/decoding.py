"""The decode loop: any decoder-only model's `forward` with a cache, rows dropped and refilled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from transformers import PreTrainedModel

from opdlab.sampling import lean_step, llama_step, static_step
from opdlab.sampling.decoder import Decoder, Room
from opdlab.sampling.manner import SAID, Manner, manner
from opdlab.sampling.recording import Decoded, Draw, OnResponse, Records, Unrecorded, Watch
from opdlab.shapes import Tensor

# One place in so many must be free before rows move: a move costs about as much as a step.
_SHARE = 8
# Fewer rows must be recorded anew, which costs as much as a hundred steps, and a step hardly less than one
# of twice as many rows.
_SHARE_RECORDED = 2


def decode(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    draw: Draw,
    max_rows: int | None = None,
    on_response: OnResponse | None = None,
    way: Manner | None = None,
) -> Decoded:
    """Sample a response to each prompt.

    Args:
        way: to decode the model, by default the quickest that is right.

    Raises:
        ModelError: keys and values of past tokens are not all that the model needs of them, or its
            rotary frequencies change within the longest row.
        NonFiniteError: a log-probability is NaN or infinite.
    """
    records = Records(draw)
    room = Room(max_rows or len(prompts))
    for row, tokens in _responses(model, prompts, seeds, draw, room, records, way):
        if on_response is not None:
            on_response(row, tokens)
    return records.finish(len(prompts))


def answer(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    draw: Draw,
    room: Room,
    on_response: OnResponse,
) -> None:
    """The responses of `decode`, for `on_response` alone: nothing is kept of those that have ended.

    Raises: as `decode`.
    """
    for row, tokens in _responses(model, prompts, seeds, draw, room, Unrecorded()):
        on_response(row, tokens)


def _responses(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    draw: Draw,
    room: Room,
    watch: Watch,
    way: Manner | None = None,
) -> Iterator[tuple[int, list[int]]]:
    """Row and tokens of each response, when it has ended."""
    way = way or manner(
        model,
        max(map(len, prompts)) + draw.max_new_tokens,
        _quicker(model),
        lambda one, few: _trial(model, one, few),
    )
    yield from _decoded(Decoder(model, prompts, seeds, draw, room, watch, way))


def _quicker(model: PreTrainedModel) -> list[Manner]:
    """Manners that may be quicker than the model's own forward."""
    found = []
    if llama_step.fits(model):
        found.append(Manner("written"))
    if static_step.fits(model):
        if lean_step.fits(model):
            found.append(Manner("lean"))
        found.append(Manner("static"))
    return found


def _decoded(decoder: Decoder) -> Iterator[tuple[int, list[int]]]:
    left = len(decoder.prompts)
    while left:
        decoder.refill()
        share = _SHARE_RECORDED if decoder.way.recorded and not decoder.queue else _SHARE
        ended = decoder.stretch(max(1, len(decoder.rows) // share))
        left -= len(ended)
        yield from ended


def _trial(
    model: PreTrainedModel, way: Manner, prompts: list[list[int]]
) -> tuple[list[list[int]], Tensor]:
    """A few tokens after each prompt, and the log-probabilities recorded."""
    records = Records(Draw(1.0, 1.0, 0, None, SAID, ()))
    seeds = list(range(len(prompts)))
    room = Room(len(prompts))
    for _ in _decoded(Decoder(model, prompts, seeds, records.draw, room, records, way)):
        pass
    found = records.finish(len(prompts))
    rows = [[*p, *said.tolist()] for p, said in zip(prompts, found.responses, strict=True)]
    return rows, found.recorded.log_prob
