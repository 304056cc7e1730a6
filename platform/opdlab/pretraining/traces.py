"""Batches of correct traces: batch i is a function of the configuration and i alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from opdlab.configuration import Pretraining
from opdlab.errors import DataError
from opdlab.modelling import closing, models
from opdlab.plugins import posed
from opdlab.pretraining.characters import EOS_ID, PAD_ID, UNKNOWN_ID
from opdlab.prompts import continued, encode, rendered
from opdlab.shapes import Int, Tensor

IGNORED = -100
"""Label of a token that carries no loss."""

PROBLEMS_PER_SEED = 2**40  # so that no two seeds share a trace's seed


@dataclass(frozen=True)
class Reading:
    """How a model reads prompts and ends answers.

    Attributes:
        template: as `opdlab.prompts.encode` takes it.
        end: token that ends an answer.
        pad: filler on the right of a batch.
        longest: tokens that the model can take; None for any number.
    """

    template: str
    end: int
    pad: int
    longest: int | None

    @classmethod
    def of_characters(cls, config: Pretraining) -> Reading:
        """Of a new model with a tokenizer of characters."""
        assert config.architecture is not None
        return cls("none", EOS_ID, PAD_ID, config.architecture.max_positions)

    @classmethod
    def of_model(cls, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Reading:
        """Of a model to go on from: in its chat template, where it has one."""
        ends = models.eos_ids(model, tokenizer)
        end, pad = closing(tokenizer, ends), models.pad_id(model, tokenizer)
        return cls("auto", end, pad, models.positions(model))


@final
class TraceBatches:
    """All batches of a pretraining, in order; Lightning saves its place with a checkpoint.

    Attributes:
        position: number of the next batch.
        digest: SHA-256 chain over the tokens of the batches so far; identifies the data.
    """

    def __init__(
        self,
        config: Pretraining,
        tokenizer: PreTrainedTokenizerBase,
        reading: Reading | None = None,
    ) -> None:
        self.config = config
        self.tokenizer = tokenizer
        self.reading = reading or Reading.of_characters(config)
        self.turns = turns(config.weights or [1] * len(config.sources))
        self.position = 0
        self.digest = ""

    def __len__(self) -> int:
        return self.config.steps

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        while self.position < self.config.steps:
            batch = self.batch(self.position)
            self.position += 1
            content = self.digest.encode() + batch["input_ids"].numpy().tobytes()
            self.digest = hashlib.sha256(content).hexdigest()
            yield batch

    def batch(self, number: int) -> dict[str, Int[Tensor, "B S"]]:
        """Tokens and labels of one batch, all of one source, padded on the right."""
        source = self.config.sources[self.turns[number % len(self.turns)]]
        first = number * self.config.batch_size
        rows = []
        for index in range(first, first + self.config.batch_size):
            problem = posed.training_problem(source, self.config.seed, index)
            trace = posed.training_trace(
                source, problem, self.config.seed * PROBLEMS_PER_SEED + index
            )
            rows.append(self.encode(problem.prompt, trace))
        return collate(rows, self.reading.pad)

    def encode(self, prompt: str, trace: str) -> tuple[list[int], list[int]]:
        """Token ids of a prompt and of its trace with EOS.

        Raises:
            DataError: a character that the tokenizer lacks, or too long for the model.
        """
        shown = rendered(self.tokenizer, prompt, self.reading.template)
        ids = list(encode(self.tokenizer, prompt, self.reading.template))
        answer = continued(self.tokenizer, shown, trace)
        if self.config.characters is not None and UNKNOWN_ID in ids + answer:
            missing = sorted(set(prompt + trace) - set(self.config.characters))
            raise DataError(
                f"the tokenizer lacks {''.join(missing)!r}, which occurs in {prompt + trace!r}; add it "
                "to `characters`"
            )
        longest, count = self.reading.longest, len(ids) + len(answer) + 1
        if longest is not None and count > longest:
            raise DataError(
                f"{prompt + trace!r} has {count} tokens, and the model takes {longest}: raise "
                "architecture.max_positions, or start from a model with more positions"
            )
        return ids, [*answer, self.reading.end]

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position, "digest": self.digest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position, self.digest = state["position"], state["digest"]


def turns(weights: Sequence[int]) -> list[int]:
    """One round of sources, each as often as its weight and evenly spread."""
    places = [
        ((turn + 0.5) / weight, source)
        for source, weight in enumerate(weights)
        for turn in range(weight)
    ]
    return [source for _, source in sorted(places)]


def collate(
    rows: Sequence[tuple[list[int], list[int]]], pad: int = PAD_ID
) -> dict[str, Int[Tensor, "B S"]]:
    """Pad on the right; only trace tokens and EOS carry a label."""
    width = max(len(prompt) + len(trace) for prompt, trace in rows)
    tokens = torch.full((len(rows), width), pad)
    labels = torch.full((len(rows), width), IGNORED)
    for row, (prompt, trace) in enumerate(rows):
        end = len(prompt) + len(trace)
        tokens[row, :end] = torch.tensor(prompt + trace)
        labels[row, len(prompt) : end] = torch.tensor(trace)
    return {"input_ids": tokens, "labels": labels}
