"""The decode loop: any decoder-only model's `forward` with a cache, rows dropped and refilled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from transformers import PreTrainedModel

from opdlab.decoder import Decoder, Room
from opdlab.errors import ModelError
from opdlab.recording import Decoded, Draw, OnResponse, Records, Unrecorded, Watch

# One place in so many must be free before rows move: a move costs about as much as a step.
_SHARE = 8


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
    records = Records(draw)
    room = Room(max_rows or len(prompts))
    for row, tokens in _responses(model, prompts, seeds, draw, room, records):
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
) -> Iterator[tuple[int, list[int]]]:
    """Row and tokens of each response, when it has ended."""
    _refuse_unfit(model, max(map(len, prompts)) + draw.max_new_tokens)
    decoder = Decoder(model, prompts, seeds, draw, room, watch)
    left = len(prompts)
    while left:
        decoder.refill()
        ended = decoder.stretch(max(1, len(decoder.rows) // _SHARE))
        left -= len(ended)
        yield from ended
