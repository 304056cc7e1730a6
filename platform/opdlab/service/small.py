"""Requests and answers in JSON, for a few answers and for people."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from opdlab.errors import DataError
from opdlab.records import TeacherScores
from opdlab.serving import Limits, Request, read_request
from opdlab.shapes import Tensor

Id = Annotated[int, Field(ge=-1, lt=2**31)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
NEVER = -9999.0
"""JSON has no infinity; vLLM writes the same of a token that its model rules out."""


class SmallRequest(BaseModel):
    """Answers to score."""

    model_config = ConfigDict(extra="forbid", strict=True)

    prompts: list[list[Id]]
    """Token ids, one or more each."""
    answers: list[list[Id]]
    """Token ids that follow them, one or more each."""
    candidates: list[list[list[Id]]] | None = None
    """For each token of each answer the same number of tokens in its place; -1 for none."""
    seeds: list[Seed] | None = None
    """One for each answer, for the measure `sampled_prob`."""
    ends: list[Id] = []
    """Tokens that end an answer: nothing is said of what would follow them."""
    measure: Literal["max_prob", "sampled_prob", "entropy", "perplexity"] = "max_prob"
    """Of the teacher's confidence after each candidate."""
    top_k: int = Field(default=0, ge=0)
    """How many of the likeliest tokens to return at each token of an answer."""
    vocabulary: int | None = None
    """How many entries of the vocabulary count; null for all."""


def read_small(body: bytes, limits: Limits, entries: int) -> Request:
    """A request in JSON of an untrusted sender; see `read_request`.

    Raises:
        DataError: what is wrong, by name.
    """
    try:
        asked = SmallRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the body"
        raise DataError(f"{where:.120}: {first['msg']:.200}") from None
    if len(asked.prompts) != len(asked.answers):
        raise DataError(
            f"{len(asked.prompts)} prompts and {len(asked.answers)} answers; give one for each"
        )
    pairs = zip(asked.prompts, asked.answers, strict=True)
    tensors: dict[str, Tensor] = {
        "tokens": torch.tensor([token for pair in pairs for one in pair for token in one]).long(),
        "prompt_lengths": torch.tensor([len(one) for one in asked.prompts]).long(),
        "response_lengths": torch.tensor([len(one) for one in asked.answers]).long(),
        "ends": torch.tensor(asked.ends).long(),
    }
    if asked.seeds is not None:
        tensors["seeds"] = torch.tensor(asked.seeds).long()
    if asked.candidates is not None:
        tensors["candidates"] = _candidates(asked.candidates, asked.answers)
    told = asked.model_dump(include={"measure", "top_k", "vocabulary"})
    return read_request(tensors, told, limits, entries)


def _candidates(given: list[list[list[int]]], answers: list[list[int]]) -> Tensor:
    if [len(one) for one in given] != [len(one) for one in answers]:
        raise DataError("candidates: give a list for each token of each answer")
    rows = [row for one in given for row in one]
    if len({len(row) for row in rows}) > 1:
        raise DataError("candidates: give equally many for each token; -1 is none")
    return torch.tensor(rows).long()


def written(scores: TeacherScores, request: Request) -> list[dict[str, Any]]:
    """Scores as JSON, an object for each answer; null is what is not told."""
    lengths = request.rollout.response_lengths.tolist()
    names = ["log_prob", "entropy", "fidelity", "sampled_confidence", "confidence"]
    columns = {name: getattr(scores, name) for name in names}
    if scores.top_ids is not None and scores.top_log_prob is not None:
        columns |= {
            "top_ids": scores.top_ids[:, :-1],
            "top_log_prob": scores.top_log_prob[:, :-1],
            "others_log_prob": scores.top_log_prob[:, -1],
        }
    parts = {name: one.split(lengths) for name, one in columns.items()}
    return [
        {name: _plain(part[row].tolist()) for name, part in parts.items()}
        for row in range(len(lengths))
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else math.copysign(NEVER, value)
    return value
