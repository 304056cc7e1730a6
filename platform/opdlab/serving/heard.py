"""Whether a server in bfloat16 took the weights that it was sent, or answers with the first ones.

Rounding hides a small step from any comparison with the student's own log-probabilities. But weights are
rounded alike on both sides: the student with rounded weights says what a server with these says, but for
what rounds the server's states, which is no more in the direction of the first weights than in any other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import final

import torch
from transformers import PreTrainedModel

from opdlab.modelling import adapters
from opdlab.sampling import scored
from opdlab.shapes import Float, Int, Tensor

TOKENS, LEAST_TOKENS = 1024, 8
"""Response tokens that are looked at after weights were sent, and of one answer at least: of each prompt
the beginning of one answer, for answers to one prompt begin alike."""
BETWEEN = 0.6
"""Share of the way from the sent weights to the first ones, on either side of which a server has the ones
or the others. Where rounding of another kind is all that it differs by, it is in the middle at most."""
SENDS = 128
"""Times that weights are sent after which no more is looked at."""
NEVER = 1e-7
"""Chance by which a server that took the weights is refused, in all of these."""
FAULTY, SETTLED = math.sqrt(2 * math.log(SENDS / NEVER)), 5.0
"""How far beyond the share a server is refused, or looked at no more (see `Heard.beyond`)."""
SMALLEST = 0.1
"""Of what the server differs by, the way is so much at least, or nothing is seen: a small part of rounding
is the same for every text, and would be taken for a part of a shorter way."""
ROOM = 2
"""Times the weights that must fit into what is free of a card's memory."""


@final
@dataclass
class Heard:
    """What was seen of one server.

    Attributes:
        first: the weights that it was sent first, in bfloat16 on the host; None once it is settled.
        due: whether it was sent others since it was looked at.
        sends: how often it was looked at.
        settled: whether it is known to take weights, or cannot be known.
        seen: by prompt, the products of the server's difference with the way, and of the way with itself.
    """

    first: dict[str, Tensor] | None = None
    due: bool = False
    sends: int = 0
    settled: bool = False
    seen: dict[int, tuple[float, float]] = field(default_factory=dict[int, tuple[float, float]])

    def sent(self, model: PreTrainedModel) -> None:
        """Remember what a server was sent."""
        self.settled = self.settled or self.sends >= SENDS or not _can_be_rounded(model)
        self.due = not self.settled and self.first is not None
        if self.settled:
            self.first = None
        elif self.first is None:
            self.first = _rounded(model)

    def look(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        responses: Sequence[Int[Tensor, "_"]],
        theirs: Float[Tensor, "T"],
        vocabulary: int | None,
    ) -> bool:
        """Whether the server's log-probabilities are those of the first weights.

        Args:
            model: has the weights that the server was sent last.
            theirs: of the responses, at temperature 1 and with nothing cut off.
        """
        due, self.due = self.due, False
        if self.first is None or not due or not _has_room(model):
            return False
        self.sends += 1
        rows = list({tuple(prompt): row for row, prompt in enumerate(prompts)}.values())
        most = max(LEAST_TOKENS, TOKENS // max(1, len(rows)))
        rows = rows[: TOKENS // most]
        asked, answers = [prompts[row] for row in rows], [responses[row][:most] for row in rows]
        said = []
        for weights in (_rounded(model), self.first):
            with having(model, weights):
                found = scored(model, asked, answers, vocabulary, 0)
            said.append(found.log_prob.double().cpu())
        ends = theirs.double().cpu().split([len(response) for response in responses])
        off, way = torch.cat([ends[row][:most] for row in rows]) - said[0], said[1] - said[0]
        if way.norm() < SMALLEST * off.norm():
            return False
        lengths = [len(answer) for answer in answers]
        parts = zip(asked, off.split(lengths), way.split(lengths), strict=True)
        return self.add({hash(tuple(of)): (a @ b, b @ b) for of, a, b in parts})

    def add(self, found: Mapping[int, tuple[float | Tensor, float | Tensor]]) -> bool:
        """Whether what was seen of some prompts, added to all before, is that of the first weights."""
        for prompt, (product, square) in found.items():
            before = self.seen.get(prompt, (0.0, 0.0))
            self.seen[prompt] = before[0] + float(product), before[1] + float(square)
        self.settled = self.beyond < -SETTLED
        if self.settled:
            self.first = None
        return self.beyond > FAULTY

    @property
    def share(self) -> float:
        """How far on the way to the first weights the server is."""
        total = sum(way for _, way in self.seen.values())
        return sum(product for product, _ in self.seen.values()) / total if total else math.nan

    @property
    def beyond(self) -> float:
        """How far the server is beyond `BETWEEN`, over the root of the sum of squares of its prompts.

        Each prompt counts by the length of its way, not by its square, so that a few do not decide. If
        rounding moves each of them one way as easily as the other, the chance of more than t is
        exp(-t^2 / 2) at most, however unequal they are; and fewer than t^2 prompts never reach t.
        """
        parts = [
            (product - BETWEEN * way) / math.sqrt(way) for product, way in self.seen.values() if way
        ]
        size = math.hypot(*parts)
        return sum(parts) / size if size else 0.0


@contextmanager
def having(model: PreTrainedModel, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Within, a model computes with other weights, as exactly as it does with its own."""
    own = {name: weight.data for name, weight in model.named_parameters()}
    kind = model.device.type
    try:
        for name, weight in model.named_parameters():
            weight.data = weights[name].to(weight.device, weight.dtype)
        with torch.autocast(kind, enabled=False):
            yield
    finally:
        for name, weight in model.named_parameters():
            weight.data = own[name]


def _rounded(model: PreTrainedModel) -> dict[str, Tensor]:
    """A copy of a model's weights in bfloat16, on the host."""
    return {
        name: weight.detach().to("cpu", torch.bfloat16, copy=True)
        for name, weight in model.named_parameters()
    }


def _can_be_rounded(model: PreTrainedModel) -> bool:
    """Whether a server's weights are the model's own, rounded: it gets adapters merged."""
    return not adapters.has(model) and all(
        weight.is_floating_point() for weight in model.parameters()
    )


def _has_room(model: PreTrainedModel) -> bool:
    if model.device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(model.device)
    return free > ROOM * sum(weight.nbytes for weight in model.parameters())
