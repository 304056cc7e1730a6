"""A teacher as everything else sees it: a rollout and questions in, scores out.

`Teacher` is one in this process. Whatever trains, diagnoses or examines speaks to this protocol alone, so
that a teacher may as well be a server. Making one, placing it and probing it are three steps: nothing is
computed before the last.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, Self, runtime_checkable

import torch
from torch.distributed.device_mesh import DeviceMesh
from transformers import PreTrainedModel

from opdlab.methods import Offers
from opdlab.modelling import Listed, TeacherLogits
from opdlab.records import Distributions, Questions, Rollout, TeacherScores


@runtime_checkable
class Scorer(Protocol):
    """What is asked of a teacher.

    Attributes:
        vocabulary: entries that it shares with the student; None for all.
        way: how it scores: `tree`, `naive`, or `server`.
    """

    vocabulary: int | None
    way: str

    @property
    def offers(self) -> Offers:
        """What it can tell; methods that need more are refused when the experiment is read."""
        ...

    @property
    def device(self) -> torch.device:
        """Where its scores lie."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        ...

    def place(self, device: torch.device, offload: bool = False) -> None:
        """Put it where it will be used.

        Args:
            offload: it lies on the host, and on the device only while it is used.
        """
        ...

    def shard(self, mesh: DeviceMesh) -> None:
        """Part its weights over processes, each of which then scores rows of its own equally often."""
        ...

    def probe(self) -> Self:
        """Try, where it lies now, how it scores; only once, by the first scores at last.

        Raises:
            ModelError, NonFiniteError, ServerError: it cannot be a teacher.
        """
        ...

    def score(self, rollout: Rollout, questions: Questions, finite: bool = True) -> TeacherScores:
        """Answer the questions; nothing returned carries a gradient.

        Any split of rows, any order and any company gives equal scores.

        Args:
            finite: refuse scores that are not; a token that nobody drew may be one the model rules out.
        """
        ...

    def stand_by(self) -> None:
        """Take part in the forwards by which other processes score, where this one has no rows."""
        ...

    def head(self) -> AbstractContextManager[None]:
        """Within, `logits` may be computed."""
        ...

    def logits(self, said: Distributions) -> TeacherLogits:
        """The logits of distributions that its scores hold, over the shared vocabulary."""
        ...

    def listed(self, said: Distributions) -> Listed | None:
        """The same by the tokens that it knows alone; None where `logits` tell more, or are as cheap."""
        ...

    def answering(self) -> AbstractContextManager[PreTrainedModel]:
        """Within, its model, to sample answers of its own, where it `offers` them."""
        ...


class Elsewhere:
    """What teachers have in common whose model is not in this process."""

    @property
    def device(self) -> torch.device:
        """Their scores lie on the host."""
        return torch.device("cpu")

    def shard(self, mesh: DeviceMesh) -> None:
        """Each process asks about rows of its own."""

    def stand_by(self) -> None:
        """No other process waits for this one."""

    def head(self) -> AbstractContextManager[None]:
        """There is nothing to gather."""
        return nullcontext()
