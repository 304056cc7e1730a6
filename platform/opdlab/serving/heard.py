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

TOKENS = 1024
"""Response tokens that are looked at after weights were sent."""
BETWEEN = 0.6
"""Share of the way from the sent weights to the first ones, on either side of which a server has the ones
or the others. Where rounding of another kind is all that it differs by, it is in the middle at most."""
SURE = 5.0
"""Standard errors that it must be beyond."""
FEWEST = 16
"""Rows without which no standard error is known."""
SENDS = 128
"""Times that weights are sent after which no more is looked at."""
ROOM = 2
"""Times the weights that must fit into what is free of a card's memory."""


@final
@dataclass
class Heard:
    """What was seen of one server.

    Attributes:
        first, last: the weights that it was sent first and last, in bfloat16 on the host.
        sends: how often it was looked at.
        settled: whether it is known to take weights, or cannot be known.
        rows: of each row, the products of its difference with the way, and of the way with itself.
    """

    first: dict[str, Tensor] | None = None
    last: dict[str, Tensor] | None = None
    sends: int = 0
    settled: bool = False
    rows: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])

    def sent(self, model: PreTrainedModel) -> None:
        """Remember what a server was sent."""
        self.settled = self.settled or self.sends >= SENDS or not _can_be_rounded(model)
        self.last = None
        if self.settled:
            self.first = None
            return
        now = {
            name: weight.detach().to("cpu", torch.bfloat16, copy=True)
            for name, weight in model.named_parameters()
        }
        if self.first is None:
            self.first = now
        else:
            self.last = now

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
            theirs: of the responses, at temperature 1 and with nothing cut off.
        """
        first, now = self.first, self.last
        self.last = None
        if first is None or now is None or not _has_room(model):
            return False
        self.sends += 1
        lengths = [len(response) for response in responses]
        rows = next((n for n in range(len(lengths)) if sum(lengths[:n]) >= TOKENS), len(lengths))
        lengths = lengths[:rows]
        said = []
        for weights in (now, first):
            with having(model, weights):
                found = scored(model, prompts[:rows], responses[:rows], vocabulary, 0)
            said.append(found.log_prob.double().cpu())
        off, way = theirs[: sum(lengths)].double().cpu() - said[0], said[1] - said[0]
        for one, other in zip(off.split(lengths), way.split(lengths), strict=True):
            self.rows.append((float((one * other).sum()), float((other * other).sum())))
        share, error = self.share
        self.settled = share + SURE * error < BETWEEN
        return share - SURE * error > BETWEEN

    @property
    def share(self) -> tuple[float, float]:
        """How far on the way to the first weights the server is, with its standard error over rows."""
        total = sum(way for _, way in self.rows)
        if len(self.rows) < FEWEST or not total:
            return math.nan, math.nan
        share = sum(product for product, _ in self.rows) / total
        return share, math.sqrt(sum((p - share * way) ** 2 for p, way in self.rows)) / total


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
