"""Several servers that sample for one student: rows shared by load, and whoever is away left out.

Each takes a row when it has answered another, so a slow one gets fewer. Each gets the weights, and what it
answered is checked as if it were alone. The answers of a server that dies are asked for at the others; it
is asked for its health before each rollout, and gets weights and rows again when it is back.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from threading import Event
from time import monotonic
from typing import final

import torch
from transformers import PreTrainedModel

from opdlab.console import check_stop
from opdlab.errors import AwayError, RefusedError, ServerError
from opdlab.sampling import Recorded, concatenate
from opdlab.serving.access import Access
from opdlab.serving.health import TIMEOUT_S
from opdlab.serving.likeness import Likeness
from opdlab.serving.replies import Reply
from opdlab.serving.served_rollout import Asked, Drawn, Sampling, ServedRollout, beside
from opdlab.serving.transport import Answered, Refused, Transport
from opdlab.shapes import Int, Tensor

LOG = logging.getLogger("opdlab")
MISSED_S = 10.0
"""Patience with one of several servers."""
PAUSE_S = 1.0
"""Between looks at servers none of which is there."""


@final
class Share:
    """What one server answers of what all were asked.

    Attributes:
        replies, refused: by row of the question, replies in the order in which they came.
    """

    def __init__(self, server: ServedRollout) -> None:
        self.server = server
        self.replies: dict[int, Reply] = {}
        self.refused: dict[int, str] = {}
        self.threads: list[Future[None]] = []
        self.away: AwayError | None = None
        """Why it is left out."""

    def begin(self, asked: Asked, left: deque[int], most: int) -> None:
        """Have rows answered, at most so many at a time."""
        access = self.server.how.access
        self.server.session.client.pulse.silent_s = access.patience_s
        count = min(access.concurrency, self.server.max_rows or most, most)
        self.threads = [beside(lambda: self.take(asked, left)) for _ in range(count)]

    def take(self, asked: Asked, left: deque[int]) -> None:
        """Have rows answered until none is left, or the server is away."""
        while self.away is None:
            try:
                row = left.popleft()
            except IndexError:
                return
            try:
                replies, _ = self.server.replies(asked.only([row]), self.server.how)
            except RefusedError as error:
                self.refused[row] = error.rows[0]
            except AwayError as error:
                self.away = error
                left.append(row)
            else:
                self.replies[row] = replies[0]

    def drawn(self, asked: Asked) -> tuple[list[int], Drawn | None]:
        """Rows that it answered, and what is made of them; raises what `ServedRollout.drawn` does."""
        for thread in self.threads:
            thread.result()
        if self.away is not None:
            raise self.away
        rows = sorted(self.replies)
        if not rows:
            return [], None
        place = {row: number for number, row in enumerate(rows)}
        self.server.begun = Future()
        self.server.begun.set_result(({place[row]: r for row, r in self.replies.items()}, {}))
        try:
            return rows, self.server.drawn(asked.only(rows))
        except RefusedError as error:
            # It lost the weights since, and was asked again.
            self.refused |= {rows[place]: why for place, why in error.of_all.items()}
            return rows, None


@final
class Fleet:
    """Samples as `ServedRollout` does, on several servers; for one process alone."""

    alone = True

    def __init__(
        self, hows: Sequence[Sampling], model: PreTrainedModel, max_rows: int | None
    ) -> None:
        self.patience_s = hows[0].access.patience_s
        patience = min(self.patience_s, MISSED_S)
        self.hows = [replace(how, access=replace(how.access, patience_s=patience)) for how in hows]
        self.model, self.max_rows = model, max_rows
        self.servers = self.there()
        self.begun: list[Share] = []

    def there(self) -> list[ServedRollout]:
        """The servers that are there now; waits for the first of them.

        Raises:
            AwayError: none was there for the whole of the patience.
        """
        until = monotonic() + self.patience_s
        while True:
            found = list[ServedRollout]()
            for how in self.hows:
                if not is_there(how.access):
                    LOG.warning("%s is away: it is left out of this rollout", how.access.root)
                    continue
                try:
                    found.append(ServedRollout(how, self.model, self.max_rows, alone=True))
                except AwayError as error:
                    LOG.warning("%s. It is left out of this rollout", error)
            if found:
                return found
            if monotonic() >= until:
                raise AwayError(
                    f"none of the rollout servers is there ({', '.join(h.access.root for h in self.hows)}) "
                    f"after waiting for {self.patience_s:.0f} s. Start one and run the same command again; "
                    "or raise rollout.patience_s"
                )
            check_stop()
            Event().wait(min(PAUSE_S, self.patience_s))

    def too_long(self, prompts: Sequence[Sequence[int]]) -> dict[int, str]:
        """See `ServedRollout.too_long`; what one of them cannot answer none is asked for."""
        return {row: why for one in self.servers for row, why in one.too_long(prompts).items()}

    def begin(self, asked: Asked) -> None:
        """See `ServedRollout.begin`."""
        self.begun = self.shared(asked)

    def shared(self, asked: Asked) -> list[Share]:
        """All servers that are there at work on these rows, with the weights."""
        shares = list[Share]()
        for server in self.servers:
            try:
                server.sync(asked)
            except AwayError as error:
                LOG.warning("%s. It is left out of this rollout", error)
            else:
                shares.append(Share(server))
        left = deque(range(len(asked.prompts)))
        most = -(-len(left) // max(1, len(shares)))
        for share in shares:
            # No server takes all rows before the next one begins.
            share.begin(asked, left, most)
        return shares

    def drawn(self, asked: Asked) -> Drawn:
        """See `ServedRollout.drawn`; rows are in the order of the question, whoever answered them.

        Raises:
            AwayError: no server answered anything for the whole of the patience.
        """
        answers: dict[int, tuple[Int[Tensor, "_"], Recorded]] = {}
        refused: dict[int, str] = {}
        away = set[str]()
        shares, self.begun = self.begun or self.shared(asked), []
        missing, until = list(range(len(asked.prompts))), monotonic() + self.patience_s
        while True:
            for share in shares:
                try:
                    rows, found = share.drawn(asked.only(missing))
                except AwayError as error:
                    away.add(share.server.how.access.root)
                    LOG.warning("%s. Its answers are requested from the other servers", error)
                    continue
                refused |= {missing[row]: why for row, why in share.refused.items()}
                if found is not None:
                    answers |= {missing[rows[n]]: one for n, one in answers_of(found)}
                    refused |= {missing[rows[n]]: why for n, why in found.refused.items()}
            before = len(missing)
            missing = [row for row in missing if row not in answers and row not in refused]
            if not missing:
                break
            if len(missing) < before:
                until = monotonic() + self.patience_s
            elif monotonic() >= until:
                raise AwayError(
                    f"no rollout server answered for {self.patience_s:.0f} s; look at their logs"
                )
            there = self.there()
            self.servers = [one for one in there if one.how.access.root not in away] or there
            shares = self.shared(asked.only(missing))
        rows = sorted(answers)
        none = Likeness(0.0, 0.0, 0.0, 0.0, 0)
        return Drawn(
            rows,
            refused,
            [answers[row][0] for row in rows],
            concatenate(answers[row][1] for row in rows) if rows else None,
            none,
            0.0,
        )


def answers_of(found: Drawn) -> Iterator[tuple[int, tuple[Int[Tensor, "_"], Recorded]]]:
    """Each answer with what is recorded of it, by row."""
    end = 0
    for row, response in zip(found.rows, found.responses, strict=True):
        start, end = end, end + len(response)
        assert found.recorded is not None
        yield row, (response, found.recorded[torch.arange(start, end, device=response.device)])


def is_there(access: Access) -> bool:
    """Whether a server says that it is well, or at least answers; asked once."""
    try:
        Transport(access).once("GET", access.beside_api("/health"), None, TIMEOUT_S)
    except Refused:
        return False
    except (Answered, ServerError):
        pass
    return True
