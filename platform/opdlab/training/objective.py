"""The loss of a step's answers, a micro-batch at a time, as the exact mean over the whole step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from opdlab.configuration import Experiment
from opdlab.errors import NonFiniteError
from opdlab.evaluation import Subject
from opdlab.modelling import (
    Listed,
    TokenLosses,
    Weights,
    WholeWeights,
    check_prefixes,
    checkpointed,
    chunked_loss,
)
from opdlab.plugins import returned
from opdlab.records import Distributions, Rollout, Supervision
from opdlab.scoring import Scorer, part, parts_of, states_before_tokens
from opdlab.shapes import Float, Int, Tensor
from opdlab.training.collect import Collected
from opdlab.transfers import to_device, to_host


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """Some rows of a step's answers, on the student's device.

    Attributes:
        place: where its tokens stand among the step's, on the host. `Int[t]`
        said: the teacher's distributions before them, for losses over these.
        weights: share of each token in the step's mean. `Float[t]`
    """

    rollout: Rollout
    place: Int[Tensor, "t"]
    said: Distributions | None
    supervision: Supervision
    weights: Float[Tensor, "t"]


def row_groups(lengths: Int[Tensor, "B"], tokens: int) -> list[Int[Tensor, "b"]]:
    """Rows that are trained on together: of at most so many tokens, or one row that has more.

    Rows of like length go together, longest first, so that little filler is computed.
    """
    if int(lengths.sum()) <= tokens:
        return [torch.arange(len(lengths))]
    longest_first = lengths.argsort(descending=True, stable=True).tolist()
    groups = parts_of(longest_first, lengths.tolist(), tokens)
    return [torch.tensor(sorted(group)) for group in groups]


def rows_in_parts(rollout: Rollout, tokens: int) -> list[Int[Tensor, "b"]]:
    """Rows of a step's answers in parts of at most so many tokens, prompts included."""
    return row_groups(rollout.prompt_lengths + rollout.response_lengths, tokens)


def micro_batches(
    collected: Collected, groups: list[Int[Tensor, "b"]], device: torch.device, count: int
) -> Iterator[tuple[bool, MicroBatch]]:
    """A step's answers in parts; True with the last one.

    Args:
        groups: rows of each part.
        count: parts that are wanted; those beyond have one row, which no token weighs anything in.
    """
    rollout = collected.rollout
    for number in range(count):
        rows = groups[number] if number < len(groups) else groups[0][:1]
        piece, place = part(rollout, rows)
        supervision, said = collected.supervision, collected.scores.distributions
        if count > 1:
            supervision = supervision[place]
            said = None if said is None else said.at(place)
        weights = to_device(collected.weights[place], device) * (number < len(groups))
        parts = (place, said, supervision.to(device), weights)
        yield number == count - 1, MicroBatch(piece.to(device), *parts)


class Objective:
    """The method's loss on a micro-batch, with the student's gradient."""

    def __init__(self, config: Experiment, student: Subject, teacher: Scorer) -> None:
        self.training, self.student, self.teacher = config.training, student, teacher
        self.weights: Weights = WholeWeights()
        self.method = config.method
        self.token_loss = returned.TokenLoss(config.method)
        self.listed_loss = returned.TokenLoss(config.method, "listed_loss")

    def require_prefixes(self, rollout: Rollout) -> None:
        """Refuse rows of a step that their loss refuses itself where it is no forward of all devices.

        Raises:
            ModelError: as `check_prefixes`.
        """
        if self.weights.spread:
            host = rollout.host
            with self.weights.together():
                longest = int((host.prompt_lengths + host.response_lengths).max())
                check_prefixes(self.student.model, longest)

    def loss(self, batch: MicroBatch) -> tuple[Float[Tensor, ""], TokenLosses]:
        """The batch's share of the step's mean, with the gradient, and what every token has of it."""

        def work() -> tuple[Tensor, TokenLosses]:
            losses = self.losses(batch)
            return (batch.weights * losses.loss).sum(), losses

        return self.weights.run(work)

    def losses(self, batch: MicroBatch) -> TokenLosses:
        """Of every response token."""
        model, said = self.student.model, batch.said
        with checkpointed(model, self.training.activation_checkpointing):
            states = states_before_tokens(model, batch.rollout, grouped=not self.weights.spread)
        listed = None if said is None else self.listed(said)
        found = chunked_loss(
            model,
            states,
            listed or (None if said is None else self.teacher.logits(said)),
            batch.supervision,
            self.token_loss if listed is None else self.listed_loss,
            self.student.vocabulary,
            self.training.head_chunk,
            batch.weights,
        )
        # Of distributions in part the divergence is not known; `step_metrics` estimates it.
        return found if said is None or said.whole else replace(found, reverse_kl=None)

    def listed(self, said: Distributions) -> Listed | None:
        """The tokens that the teacher knows, where the method takes these alone."""
        found = self.teacher.listed(said) if self.method.listed else None
        top_k = self.method.needs.top_k
        return found.likeliest(top_k) if found is not None and top_k else found


class Seen:
    """What is looked at of the losses of a step, put together from its micro-batches.

    Until then it stays on the device: reading each micro-batch would wait for it before its backward pass.
    """

    def __init__(self, tokens: int, with_teacher: bool) -> None:
        self.tokens, self.count = tokens, 3 if with_teacher else 2
        self.places: list[Int[Tensor, "t"]] = []
        self.columns: list[Float[Tensor, "t"]] = []

    def add(self, batch: MicroBatch, losses: TokenLosses) -> None:
        """Take in a micro-batch."""
        columns = [losses.loss, losses.entropy, losses.reverse_kl][: self.count]
        found = [column.detach() for column in columns if column is not None]
        assert len(found) == self.count
        self.places.append(batch.place)
        self.columns += found

    @cached_property
    def losses(self) -> TokenLosses:
        """Of all tokens, without gradient, read from the device in one copy once all are taken in."""
        values = torch.full((self.count, self.tokens), torch.nan, dtype=torch.float32)
        read = iter(to_host(self.columns))
        for place in self.places:
            for line in values:
                line[place] = next(read).float()
        loss, entropy, *rest = values
        return TokenLosses(loss, entropy, rest[0] if rest else None)


def check_finite(losses: TokenLosses, rollout: Rollout) -> None:
    """Stop before a loss that is not a number reaches the weights.

    Raises:
        NonFiniteError: naming the row and position of the first such token.
    """
    bad = (~losses.loss.isfinite()).nonzero()
    if len(bad):
        first = int(bad[0])
        row, position = int(rollout.row[first]), int(rollout.position[first])
        raise NonFiniteError(
            f"the loss is {losses.loss[first].item()} at row {row}, position {position} (token "
            f"{int(rollout.token[first])}) and at {len(bad)} of {len(losses.loss)} tokens. The weights "
            f"are as they were before this step. {_remedy(float(losses.loss[first]))}"
        )


def _remedy(loss: float) -> str:
    if loss == math.inf:
        return (
            "A divergence is infinite where one model gives a token no probability at all (a logit "
            "of minus infinity) and the other does: rule out the same tokens in both, or use a "
            "method that stays finite: jsd, or forward_kl if only the teacher rules tokens out"
        )
    return (
        "A lower training.learning_rate or a gradient_clip often helps; precision 32-true rules out "
        "overflow"
    )
