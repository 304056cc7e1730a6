"""What was sampled, from the order in which it was to the order of the prompts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import torch

from opdlab.errors import NonFiniteError
from opdlab.sampling.draws import Recorded, Weighed, concatenate, record
from opdlab.shapes import Float, Int, Tensor
from opdlab.transfers import to_device

OnResponse = Callable[[int, list[int]], None]
"""Takes the row and the tokens of a response that has ended."""

# Entries of distributions held back, so that those of small vocabularies are recorded many steps at a
# time.
_HELD = 1 << 18


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

    responses: list[Int[Tensor, "_"]]
    recorded: Recorded


class Watch(ABC):
    """Sees every step of sampling, and ends it where a log-probability is NaN or infinite."""

    @abstractmethod
    def add(self, weighed: Weighed, tokens: Int[Tensor, "B one"]) -> None:
        """The tokens of one step and the distributions they were drawn from."""

    @abstractmethod
    def close(self, rows: list[int], ages: list[int], valid: list[int], steps: int) -> None:
        """End a stretch: of its steps, the first `valid[b]` were row `rows[b]`'s, from `ages[b]` on.

        Raises:
            NonFiniteError: a log-probability is NaN or infinite.
        """


@final
class Unrecorded(Watch):
    """Keeps nothing: answers that are only read need no log-probabilities."""

    def __init__(self) -> None:
        self.totals: list[Tensor] = []

    def add(self, weighed: Weighed, tokens: Int[Tensor, "B one"]) -> None:
        # Not finite where a logit is NaN or infinity: all that makes a log-probability so.
        self.totals.append(weighed.weights.sum(-1))

    def close(self, rows: list[int], ages: list[int], valid: list[int], steps: int) -> None:
        totals, self.totals = torch.stack(self.totals, 1), []
        if totals.isfinite().all():
            return
        own = torch.arange(steps) < torch.tensor(valid)[:, None]
        place, step = own.nonzero(as_tuple=True)
        row, position = torch.tensor(rows)[place], torch.tensor(ages)[place] + step
        refuse_non_finite(totals.cpu()[own].log(), row, position)


@final
class Records(Watch):
    """What was sampled, in the order in which it was; `finish` puts it in the order of the rows."""

    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self.pending: list[tuple[Tensor, Tensor, Tensor]] = []
        self.held = 0
        self.tokens: list[Tensor] = []
        self.recorded: list[Recorded] = []
        self.keys: list[Tensor] = []

    def add(self, weighed: Weighed, tokens: Int[Tensor, "B one"]) -> None:
        self.pending.append((weighed.shifted, weighed.weights, tokens))
        self.held += weighed.shifted.numel()
        if self.held >= _HELD:
            self._record()

    def _record(self) -> None:
        if self.pending:
            shifted, weights, tokens = map(_joined, zip(*self.pending, strict=True))
            self.tokens.append(tokens[:, 0])
            self.recorded.append(record(Weighed(shifted, weights), tokens, self.draw.top_k))
            self.pending, self.held = [], 0

    def close(self, rows: list[int], ages: list[int], valid: list[int], steps: int) -> None:
        step = torch.arange(steps)[:, None]
        first = torch.tensor(rows) * self.draw.max_new_tokens + torch.tensor(ages)
        self.keys.append((first + step).masked_fill(step >= torch.tensor(valid), -1).flatten())
        if self.recorded and not self.recorded[-1].log_prob.isfinite().all():
            self.finish(0)

    def finish(self, rows: int) -> Decoded:
        """All of it, rows in order.

        Raises:
            NonFiniteError: a log-probability is NaN or infinite.
        """
        self._record()
        keys = torch.cat(self.keys)
        order = keys.argsort()[int((keys < 0).sum()) :]
        row = keys[order] // self.draw.max_new_tokens
        position = keys[order] % self.draw.max_new_tokens
        whole, tokens = concatenate(self.recorded), torch.cat(self.tokens)
        order = to_device(order, tokens.device)
        recorded = whole[order]
        refuse_non_finite(recorded.log_prob.cpu(), row, position)
        lengths = torch.bincount(row, minlength=rows).tolist()
        return Decoded(list(tokens[order].split(lengths)), recorded)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def refuse_non_finite(
    log_prob: Float[Tensor, "T"], row: Int[Tensor, "T"], position: Int[Tensor, "T"]
) -> None:
    """Name the first token whose log-probability is NaN or infinite.

    Raises:
        NonFiniteError: there is one.
    """
    bad = (~log_prob.isfinite()).nonzero()
    if len(bad):
        first = bad[0, 0]
        raise NonFiniteError(
            f"sampling: the model's log-probability of prompt {int(row[first])} at response position "
            f"{int(position[first])} is {float(log_prob[first])}. Its weights or activations are not "
            "finite: lower the learning rate, clip gradients, or use a wider precision."
        )
