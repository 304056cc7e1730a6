"""What goes between a trainer and a teacher's service: rollouts and questions, and scores.

A body is a safetensors file: it holds no code, and its numbers arrive as they were. Both ends refuse what
they did not expect before they use any of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch.nn.utils.rnn import pad_sequence

from opdlab.errors import DataError
from opdlab.methods import MEASURES
from opdlab.records import Questions, Rollout, TeacherScores
from opdlab.serving.transport import MEDIA as MEDIA
from opdlab.shapes import Int, Tensor

SOFTWARE = "opdlab"
LONGEST_HEADER = 1 << 16
"""Bytes of names and shapes, which are few; what reads them is not given more."""
_ASKED = ("tokens", "prompt_lengths", "response_lengths", "seeds", "ends", "candidates")
_WHOLE = (torch.int32, torch.int64)
_SCORES = ("log_prob", "entropy", "fidelity", "sampled_confidence", "confidence")
_DISTRIBUTIONS = ("hidden", "top_ids", "top_log_prob")
_OPTIONS = ("measure", "full", "top_k", "vocabulary")


@dataclass(frozen=True)
class Limits:
    """What one request may hold.

    Attributes:
        rows: answers.
        tokens: of prompts and answers together.
        longest: tokens of one row: the teacher reads noise beyond its positions.
        filler: so many times `tokens` may rows be when all are as long as the longest.
        candidates: tokens that the teacher is asked about beside those of the answers.
        body: bytes of a request.
        small: bytes of a request in JSON.
    """

    rows: int = 4096
    tokens: int = 1 << 16
    longest: int = 1 << 16
    filler: int = 8
    candidates: int = 1 << 20
    body: int = 1 << 26
    small: int = 1 << 20

    @classmethod
    def told(cls, record: Any) -> Limits:
        """Those that a service says it has; raises DataError where it says none."""
        known = record if isinstance(record, dict) else {}
        values = {n: v for n, v in known.items() if n in asdict(cls()) and isinstance(v, int)}
        if len(values) < len(asdict(cls())) or min(values.values()) < 1:
            raise DataError("the service names no limits of a request")
        return cls(**values)

    def fit(self, rows: int, tokens: int, longest: int, candidates: int) -> bool:
        """Whether rows may go in one request."""
        return (
            rows <= self.rows
            and tokens <= self.tokens
            and longest <= self.longest
            and rows * longest <= self.filler * self.tokens
            and candidates <= self.candidates
        )


def pack(tensors: Mapping[str, Tensor], told: Mapping[str, Any]) -> bytes:
    """Tensors and words about them."""
    whole = {name: one.detach().cpu().contiguous() for name, one in tensors.items()}
    return save(whole, {name: json.dumps(value) for name, value in told.items()})


def unpack(body: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `pack` put together.

    Raises:
        DataError: it is no such file, or one with more to read before the numbers than any has.
    """
    size = int.from_bytes(body[:8], "little")
    if len(body) < 8 or size > min(LONGEST_HEADER, len(body) - 8):
        raise DataError("the body is not a whole safetensors file, or names more than one may")
    try:
        words = json.loads(body[8 : 8 + size]).get("__metadata__", {})
        told = {name: json.loads(value) for name, value in words.items()}
        return load(body), told
    except (SafetensorError, ValueError, AttributeError) as error:
        raise DataError(f"the body is not a safetensors file: {error!s:.120}") from error
    except (TypeError, KeyError, RuntimeError, RecursionError) as error:
        raise DataError("the body is not a safetensors file that can be read here") from error


def request_body(rollout: Rollout, questions: Questions, vocabulary: int | None) -> bytes:
    """A rollout and what is asked about it, on the host."""
    columns = torch.arange(rollout.tokens.shape[1])
    lengths = rollout.prompt_lengths + rollout.response_lengths
    tensors = {
        "tokens": rollout.tokens[columns < lengths[:, None]].int(),
        "prompt_lengths": rollout.prompt_lengths.int(),
        "response_lengths": rollout.response_lengths.int(),
        "seeds": rollout.seeds.long(),
        "ends": torch.tensor(rollout.eos_ids, dtype=torch.int32),
        "candidates": questions.candidates.int(),
    }
    asked = {"measure": questions.measure, "full": questions.full, "top_k": questions.top_k}
    return pack(tensors, {**asked, "vocabulary": vocabulary})


@dataclass(frozen=True, eq=False)
class Request:
    """A rollout, what is asked about it, and how many entries of the vocabulary count (None for all)."""

    rollout: Rollout
    questions: Questions
    vocabulary: int | None

    @property
    def tokens(self) -> int:
        """Of prompts and answers."""
        return int((self.rollout.prompt_lengths + self.rollout.response_lengths).sum())


def read_request(
    tensors: Mapping[str, Tensor], told: Mapping[str, Any], limits: Limits, entries: int
) -> Request:
    """A request of an untrusted sender, after checking all of it.

    Args:
        entries: of the teacher's vocabulary.

    Raises:
        DataError: what is wrong, by name.
    """
    for name in [*tensors, *told]:
        if name not in (*_ASKED, *_OPTIONS):
            raise DataError(f"{name!r:.80} is unknown; the names are {', '.join(_ASKED)}")
    vocabulary = told.get("vocabulary")
    if vocabulary is not None:
        vocabulary = _whole_number(told, "vocabulary", 1, entries)
    known = vocabulary or entries
    prompts, answers = (
        _column(tensors, name, 1, limits.tokens) for name in ("prompt_lengths", "response_lengths")
    )
    tokens = _column(tensors, "tokens", 0, known - 1)
    if not 0 < len(prompts) == len(answers):
        raise DataError(
            f"there are {len(prompts)} prompt_lengths and {len(answers)} response_lengths; give one of "
            "each for each answer, and one answer or more"
        )
    lengths = prompts + answers
    if int(lengths.sum()) != len(tokens):
        raise DataError(f"the lengths make {int(lengths.sum())} tokens, and {len(tokens)} came")
    count, longest = int(answers.sum()), int(lengths.max())
    given = tensors.get("candidates", torch.empty(count, 0, dtype=torch.int32))
    if given.ndim != 2 or len(given) != count:
        raise DataError(
            f"candidates have the shape {list(given.shape)}; give a row for each of the {count} tokens "
            "of answers"
        )
    candidates = _ids("candidates", given, -1, known - 1)
    if not limits.fit(len(lengths), len(tokens), longest, candidates.numel()):
        raise DataError(f"too much for one request; the limits are {asdict(limits)}")
    seeds = tensors.get("seeds", torch.arange(len(lengths)))
    if seeds.shape != lengths.shape:
        raise DataError(f"seeds have the shape {list(seeds.shape)}; give one for each answer")
    ends = _ids("ends", tensors.get("ends", torch.empty(0, dtype=torch.int32)), 0, 2**31 - 1)
    if ends.ndim != 1 or len(ends) > 64:
        raise DataError(f"ends have the shape {list(ends.shape)}; give at most 64 in a row")
    questions = _questions(told, candidates, known)
    rollout = _rollout(tokens, prompts, answers, _ids("seeds", seeds, -(2**63), 2**63 - 1), ends)
    return Request(rollout, questions, vocabulary)


def _questions(told: Mapping[str, Any], candidates: Int[Tensor, "T K"], entries: int) -> Questions:
    measure, full = told.get("measure", "max_prob"), told.get("full", False)
    if measure not in MEASURES:
        raise DataError(f"measure is {measure!r:.80}; choose one of {', '.join(MEASURES)}")
    if not isinstance(full, bool):
        raise DataError(f"full is {full!r:.80}; write true or false")
    top_k = _whole_number({"top_k": 0, **told}, "top_k", 0, entries)
    return Questions(candidates, measure, full, top_k)


def _rollout(
    tokens: Int[Tensor, "N"],
    prompts: Int[Tensor, "B"],
    answers: Int[Tensor, "B"],
    seeds: Int[Tensor, "B"],
    ends: Int[Tensor, "E"],
) -> Rollout:
    rows, count = tokens.split((prompts + answers).tolist()), int(answers.sum())
    nothing = torch.zeros(count)
    return Rollout(
        tokens=pad_sequence(list(rows), batch_first=True),
        prompt_lengths=prompts,
        response_lengths=answers,
        ended=torch.zeros(len(rows), dtype=torch.bool),
        log_prob=nothing,
        entropy=nothing,
        candidates=torch.empty(count, 0, dtype=torch.long),
        seeds=seeds,
        eos_ids=tuple(ends.tolist()),
    )


def _column(tensors: Mapping[str, Tensor], name: str, least: int, most: int) -> Int[Tensor, "n"]:
    if name not in tensors:
        raise DataError(f"{name} is missing")
    if tensors[name].ndim != 1:
        raise DataError(f"{name} has the shape {list(tensors[name].shape)}; give numbers in a row")
    return _ids(name, tensors[name], least, most)


def _ids(name: str, given: Tensor, least: int, most: int) -> Int[Tensor, "*n"]:
    if given.dtype not in _WHOLE:
        raise DataError(f"{name} holds {given.dtype}; give int32 or int64")
    found = given.long()
    wrong = found[(found < least) | (found > most)]
    if wrong.numel():
        raise DataError(f"{name} holds {int(wrong[0])}; the numbers are {least} to {most}")
    return found


def _whole_number(told: Mapping[str, Any], name: str, least: int, most: int) -> int:
    value = told[name]
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise DataError(f"{name} is {value!r:.80}; give a whole number from {least} to {most}")
    return value


def answer_body(scores: TeacherScores, identity: str) -> bytes:
    """Scores, and whose they are."""
    names = (*_SCORES, *_DISTRIBUTIONS)
    tensors = {name: one for name in names if (one := getattr(scores, name)) is not None}
    if scores.top_ids is not None:
        tensors["top_ids"] = scores.top_ids.int()
    told = {"leaves": scores.leaves, "seconds": dict(scores.seconds), "identity": identity}
    return pack(tensors, told)


def read_answer(body: bytes, tokens: int, candidates: int) -> tuple[TeacherScores, str]:
    """The scores of an answer, and whose they are.

    Args:
        tokens: of the answers that were asked about.
        candidates: at each of them.

    Raises:
        DataError: it is not an answer to that.
    """
    tensors, told = unpack(body)
    shapes = dict.fromkeys(_SCORES, (tokens,)) | {"confidence": (tokens, candidates)}
    for name, shape in shapes.items():
        one = tensors.get(name)
        if one is None or one.dtype != torch.float32 or tuple(one.shape) != shape:
            raise DataError(f"the answer's {name} is no {list(shape)} numbers of float32")
    found = {name: tensors[name] for name in _DISTRIBUTIONS if name in tensors}
    if any(one.ndim != 2 or len(one) != tokens for one in found.values()):
        raise DataError(f"the answer's distributions are not of {tokens} tokens")
    if "top_ids" in found:
        found["top_ids"] = found["top_ids"].long()
    seconds, leaves, identity = (told.get(name) for name in ("seconds", "leaves", "identity"))
    if (
        not isinstance(seconds, dict)
        or not isinstance(leaves, int)
        or not isinstance(identity, str)
    ):
        raise DataError("the answer does not say whose it is")
    scores = TeacherScores(
        **{name: tensors[name] for name in _SCORES}, **found, seconds=seconds, leaves=leaves
    )
    return scores, identity
