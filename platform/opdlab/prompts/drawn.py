"""Prompts as an experiment names them: read, looked through, and in the order of its seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from opdlab.errors import DataError
from opdlab.prompts.dataset import DatasetSource, Part, turns_of
from opdlab.prompts.encoding import encode, rendered, require_wording
from opdlab.prompts.overlap import Overlap, Shared
from opdlab.prompts.preparing import Fault, Prepared, prepared
from opdlab.prompts.scored import ScoredSource
from opdlab.prompts.source import ProblemSource, PromptSource, room_around
from opdlab.prompts.unknown_text import LOOKED_AT, Unknown, unknown
from opdlab.scores import Scores

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from opdlab.configuration import DatasetPrompts, ProblemPrompts, ScoredPrompts
    from opdlab.plugins import Evaluator

__all__ = [
    "LOOKED_AT",
    "DatasetSource",
    "Loss",
    "ProblemSource",
    "PromptSource",
    "Unknown",
    "encode",
    "open_dataset",
    "open_prompts",
    "rendered",
    "unknown",
]


@dataclass
class Loss:
    """Rows that are not drawn, and why.

    Attributes:
        first: place of the first of them, and what it is; empty for none.
        dropped: whether they are left out; else they are told alone.
    """

    what: str
    count: int
    first: str = ""
    dropped: bool = True
    refused: bool = False


@dataclass
class Opened:
    """A data set as it is drawn, with what is left out of it."""

    source: DatasetSource
    read: int
    losses: list[Loss]


def open_prompts(
    config: ProblemPrompts | DatasetPrompts | ScoredPrompts,
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
    benchmarks: Sequence[Evaluator] = (),
) -> PromptSource:
    """The prompts that an experiment names.

    Args:
        benchmarks: those of the experiment, for `decontaminate`.

    Raises:
        DataError: the dataset or its column is missing, or a row cannot be used.
        ModelError: the chat template does not read an option that it is given.
    """
    require_wording(tokenizer, config.wording)
    if config.type == "problems":
        return ProblemSource(list(config.sources), tokenizer, config.wording, seed, config.limit)
    if config.type == "scored":
        return ScoredSource(Scores(config.path), tokenizer, config.wording, seed, config.shuffle)
    return open_dataset(config, tokenizer, seed, benchmarks).source


def open_dataset(
    config: DatasetPrompts,
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
    benchmarks: Sequence[Evaluator] = (),
    lenient: bool = False,
) -> Opened:
    """The rows of an experiment's data sets, and what of them is left out.

    Args:
        lenient: rows that training refuses are told and left out.

    Raises:
        DataError: see `open_prompts`.
    """
    sources = config.resolved()
    read = [prepared(source) for source in sources]
    losses = [loss for one in read for loss in _unusable(one, config, lenient)]
    kept = _without_duplicates(read, config, losses)
    kept = _with_answers(read, kept, config, losses, lenient)
    if config.decontaminate:
        kept = _without_overlap(read, kept, Overlap(benchmarks), losses)
    kept = _without_long(read, kept, config, tokenizer, losses, lenient)
    parts = [
        Part(
            data,
            rows if source.limit is None else rows[: source.limit],
            source.weight,
            source.grader,
        )
        for source, data, rows in zip(sources, read, kept, strict=True)
    ]
    for part in parts:
        if not len(part.rows):
            told = "; ".join(f"{loss.count} {loss.what}" for loss in losses)
            raise DataError(f"prompts.path: {part.data.path} has no rows that are kept ({told})")
    losses += _beyond_limit(kept, parts)
    source = DatasetSource(parts, tokenizer, config.wording, seed, config.shuffle)
    return Opened(source, sum(one.read for one in read), losses)


def _unusable(data: Prepared, config: DatasetPrompts, lenient: bool) -> list[Loss]:
    refused = [fault for fault in data.faults if fault.kind not in config.drop]
    if refused and not lenient:
        raise DataError(f"{data.path}: {_refusal(data, refused)}")
    losses = [Loss("left out by `where`", data.left_out)] if data.left_out else []
    for fault in data.faults:
        what = f"{fault.kind}: {fault.reason}"
        losses.append(Loss(what, fault.count, fault.first, refused=fault in refused))
    return losses


def _refusal(data: Prepared, refused: Sequence[Fault]) -> str:
    reason, first = refused[0].reason, refused[0].first
    count = sum(fault.count for fault in refused if fault.reason == reason)
    kinds = ", ".join(dict.fromkeys(fault.kind for fault in refused))
    said = f"{count} of {data.read} rows have {reason}, {first} first"
    if count == 1 and not reason.startswith("no text"):
        said = f"{first} has {reason}"
    others = sum(fault.count for fault in refused) - count
    more = f", and {others} rows have other faults" if others else ""
    return f"{said}{more}; remove or fill them, or leave them out by prompts.drop: [{kinds}]"


def _without_duplicates(
    read: Sequence[Prepared], config: DatasetPrompts, losses: list[Loss]
) -> list[np.ndarray]:
    """Rows of each source; those whose text an earlier row of any source has are left out where asked."""
    keys = np.concatenate([one.keys for one in read])
    _, firsts = np.unique(keys, return_index=True)
    ends = np.cumsum([len(one.keys) for one in read])
    again = np.ones(len(keys), dtype=bool)
    again[firsts] = False
    dropped = "duplicate" in config.drop
    if again.any():
        first = int(again.argmax())
        number = int(np.searchsorted(ends, first, side="right"))
        row = first - int(ends[number] - len(read[number].keys))
        place, text = read[number].place(row), read[number].value("prompt", row)
        what = "duplicate: the prompt of an earlier row"
        losses.append(Loss(what, int(again.sum()), f"{place}, {text[:60]!r}", dropped))
    kept = np.ones(len(keys), dtype=bool) if not dropped else ~again
    return [np.flatnonzero(part) for part in np.split(kept, ends[:-1])]


def _with_answers(
    read: Sequence[Prepared],
    kept: list[np.ndarray],
    config: DatasetPrompts,
    losses: list[Loss],
    lenient: bool,
) -> list[np.ndarray]:
    """Rows that give an answer, where given answers are trained on."""
    if not config.given:
        return kept
    left = []
    for data, rows in zip(read, kept, strict=True):
        there = data.table.column("given").is_valid().to_numpy()[rows]
        if not there.all():
            first, count = data.place(int(rows[~there][0])), int((~there).sum())
            refused = "empty" not in config.drop
            if refused and not lenient:
                raise DataError(
                    f"{data.path}: {count} rows give no answer, {first} first, and prompts.given is "
                    f"{config.given:g}; name prompts.completion_column, or leave them out by prompts.drop: "
                    "[empty]"
                )
            losses.append(Loss("empty: no given answer", count, first, refused=refused))
        left.append(rows[there])
    return left


def overlapping(data: Prepared, rows: np.ndarray, overlap: Overlap) -> list[tuple[int, Shared]]:
    """Rows that share long runs of words with benchmarks, and what."""
    texts = (text for text, _ in data.texts(rows))
    return [(int(rows[number]), shared) for number, shared in overlap.among(texts)]


def _without_overlap(
    read: Sequence[Prepared], kept: list[np.ndarray], overlap: Overlap, losses: list[Loss]
) -> list[np.ndarray]:
    left = []
    for data, rows in zip(read, kept, strict=True):
        found = overlapping(data, rows, overlap)
        if found:
            first, shared = found[0]
            said = f"{data.place(first)}, problem {shared.problem} of {shared.benchmark}"
            losses.append(Loss("holding a benchmark's problem", len(found), said))
        left.append(rows[~np.isin(rows, [row for row, _ in found])])
    return left


def _without_long(
    read: Sequence[Prepared],
    kept: list[np.ndarray],
    config: DatasetPrompts,
    tokenizer: PreTrainedTokenizerBase,
    losses: list[Loss],
    lenient: bool,
) -> list[np.ndarray]:
    most = config.max_prompt_tokens
    if most is None:
        return kept
    around = room_around(tokenizer, config.wording)
    left = []
    for data, rows in zip(read, kept, strict=True):
        long = []
        for row, (text, messages) in zip(rows, data.texts(rows), strict=True):
            if messages is None and text.isascii() and len(text) + around <= most:
                continue
            count = len(encode(tokenizer, turns_of(text, messages), config.wording))
            if count > most:
                long.append((int(row), count))
        if long:
            first = f"{data.place(long[0][0])}, {long[0][1]} tokens"
            if config.too_long == "error" and not lenient:
                raise DataError(
                    f"{data.path}: {len(long)} prompts are longer than prompts.max_prompt_tokens ({most}), "
                    f"{first} first; raise it, or set prompts.too_long: drop"
                )
            what = f"longer than {most} tokens"
            losses.append(Loss(what, len(long), first, True, config.too_long == "error"))
        left.append(rows[~np.isin(rows, [row for row, _ in long])])
    return left


def _beyond_limit(kept: Sequence[np.ndarray], parts: Sequence[Part]) -> list[Loss]:
    beyond = sum(len(rows) - len(part.rows) for rows, part in zip(kept, parts, strict=True))
    return [Loss("beyond `limit`", beyond)] if beyond else []
