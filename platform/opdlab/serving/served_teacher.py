"""A teacher behind a server: a `Scorer` that holds no model.

The log-probabilities of an answer's tokens, the teacher's likeliest tokens and its confidence after them
come by one request an answer; its confidence after a candidate by a request each, of which the server has
all but the last token in its prefix cache. A server normalises over all entries of its model: what it gives
to those that the student lacks counts to the tail.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from time import perf_counter
from typing import Any, final

import torch
from transformers import PreTrainedModel

from opdlab.errors import ModelError, RefusedError, ServerError
from opdlab.methods import Offers
from opdlab.modelling import Listed, TeacherLogits
from opdlab.records import Distributions, Questions, Rollout, TeacherScores
from opdlab.scoring import Elsewhere, Leaves, check_finite, check_tokens, leaves, require_one_step
from opdlab.serving.access import Access
from opdlab.serving.client import ReplyError
from opdlab.serving.likeness import IN_HALF, likeness
from opdlab.serving.served_offers import SERVED_OFFERS
from opdlab.serving.session import Session
from opdlab.serving.teacher_requests import (
    Bodies,
    Said,
    Top,
    after_body,
    read_after,
    read_said,
    scoring_body,
)
from opdlab.serving.told_tokens import listed, spread_out
from opdlab.shapes import Float, Int, Tensor
from opdlab.transfers import to_host

SPARE = 4
"""Tokens asked for beyond those wanted, where the teacher has entries that the student lacks."""
PRINT = "server_print"
"""Key of what a server says of that text in the record of a training."""
NOT_TOLD = frozenset({"entropy"})
"""Of the scores, what no server tells."""
NAMING = "Name one by served_model, beside the server's url"


@final
class ServedTeacher(Elsewhere):
    """A vLLM that scores rollouts: a `Scorer`.

    Attributes:
        entries: of the teacher's vocabulary.
        text: token ids by which the server is known again.
        session: who answers; None before `probe`.
        first: what the server said of a fixed text at first; it must go on saying so.
    """

    way = "server"

    def __init__(
        self,
        access: Access,
        served_model: str | None,
        vocabulary: int | None,
        entries: int,
        text: Sequence[int],
    ) -> None:
        """Nothing is asked yet; see `probe`.

        Args:
            served_model: name of the model; None takes the only one that is served.
            vocabulary: entries that student and teacher share.
            text: two tokens at least that the model thinks likely: rounding changes unlikely ones most.
        """
        self.text = list(text)
        self.access, self.served_model = access, served_model
        self.vocabulary, self.entries = vocabulary, entries
        self.session: Session | None = None
        self.first: Float[Tensor, "n"] | None = None

    @property
    def offers(self) -> Offers:
        return SERVED_OFFERS

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in is not told; most servers compute in bfloat16."""
        return torch.bfloat16

    @property
    def shared(self) -> int:
        """Entries that count."""
        return self.vocabulary or self.entries

    @property
    def spare(self) -> int:
        return SPARE if self.shared < self.entries else 0

    def place(self, device: torch.device, offload: bool = False) -> None:
        """It stays where it is."""

    def answering(self) -> AbstractContextManager[PreTrainedModel]:
        """Raises ModelError: it writes no answers."""
        raise ModelError(f"the teacher is behind a server; {SERVED_OFFERS.why_not['answers']}")

    def probe(self) -> ServedTeacher:
        """See who answers, and that it scores token ids; only once.

        Raises:
            ServerError: nobody is there, it is no vLLM, or what it says of a text is no score.
        """
        if self.session is None:
            session = Session.open(self.access, self.served_model, naming=NAMING)
            if session.server.software != "vllm":
                raise ServerError(
                    f"{self.access.url} is of kind {session.server.software!r}: a teacher must be a vLLM, "
                    "which returns prompt_logprobs of token ids"
                )
            found = self._print(session)
            self.first = found if self.first is None else self.first
            self._require_same(found)
            self.session = session
        return self

    def context(self) -> int | None:
        """Tokens of a row that it can score, at most; None where it does not say."""
        most = self._opened().client.context
        # A prompt is scored with one more token, which is sampled after it.
        return None if most is None else most - 1

    def record(self) -> dict[str, Any]:
        """What the server says it is, and what it says of a fixed text: by this it is known again."""
        session = self._opened()
        assert self.first is not None
        return {**session.server.record(), PRINT: [round(v, 4) for v in self.first.tolist()]}

    def expect(self, record: Mapping[str, Any]) -> None:
        """Take what a record says of it for what it must go on saying; before `probe`."""
        if PRINT in record:
            self.first = torch.tensor(record[PRINT])

    def score(self, rollout: Rollout, questions: Questions, finite: bool = True) -> TeacherScores:
        """Answer the questions; see `Scorer.score`.

        Raises:
            ServerError: the server is away, gives answers that cannot be used, or has other weights now.
            NonFiniteError: it rules out a token that the student sampled.
            ModelError: it cannot tell what is asked, or the rollout holds tokens that it cannot read.
        """
        session, rollout = self._opened(), rollout.host
        (candidates,) = to_host([questions.candidates])
        self._require(questions, candidates)
        check_tokens(rollout, self.vocabulary)
        started = perf_counter()
        said = self._rows(session, rollout, max(1, questions.top_k))
        middle = perf_counter()
        tree = leaves(rollout, candidates)
        after = self._candidates(session, rollout, tree)
        self._require_same(self._print(session))
        seconds = {"trunk": middle - started, "leaves": perf_counter() - middle}
        scores = self._scores(rollout, candidates, said, tree, after, questions.top_k)
        scores = replace(scores, seconds=seconds)
        if finite:
            check_finite(scores, rollout, questions, NOT_TOLD)
        return scores

    def logits(self, said: Distributions) -> TeacherLogits:
        """Log-probabilities over the shared entries: the tokens that were told, and the rest of the
        probability in equal parts for all others, none of them likelier than a token that was told."""
        assert said.top_ids is not None
        assert said.top_log_prob is not None
        ids, log_prob = said.top_ids, said.top_log_prob
        return lambda part: spread_out(ids[part], log_prob[part], self.shared)

    def listed(self, said: Distributions) -> Listed | None:
        """The tokens that were told, and the rest as one, each as likely as `logits` make it; None where
        none was told of some distribution."""
        assert said.top_ids is not None
        assert said.top_log_prob is not None
        return listed(said.top_ids, said.top_log_prob, self.shared)

    def _opened(self) -> Session:
        session = self.probe().session
        assert session is not None
        return session

    def _require(self, questions: Questions, candidates: Int[Tensor, "T K"]) -> None:
        """Raises ModelError where it cannot tell what is asked."""
        require_one_step(questions, self.offers)
        if questions.full:
            raise ModelError(f"the teacher is behind a server; {SERVED_OFFERS.why_not['full']}")
        asked = bool((candidates >= 0).any())
        if asked and questions.measure not in SERVED_OFFERS.confidences:
            why = SERVED_OFFERS.why_not[questions.measure]
            raise ModelError(f"the teacher is behind a server; {why}")

    def _rows(self, session: Session, rollout: Rollout, top: int) -> list[Said]:
        """What the server says of each row."""
        tokens = [
            row[:n] for row, n in zip(rollout.tokens.tolist(), _lengths(rollout), strict=True)
        ]
        prompts, found = rollout.prompt_lengths.tolist(), dict[int, Said]()
        many = min(top + self.spare, self.entries)

        def came(row: int, answer: Any) -> None:
            found[row] = read_said(answer, tokens[row], prompts[row], many)

        bodies = Bodies(len(tokens), lambda row: scoring_body(session.server, tokens[row], many))
        self._ask(session, bodies, came)
        return [found[row] for row in range(len(tokens))]

    def _candidates(self, session: Session, rollout: Rollout, tree: Leaves) -> Float[Tensor, "N"]:
        """Confidence after each candidate that is none of the sampled tokens."""
        rows = rollout.tokens.tolist()
        where = list(zip(tree.row.tolist(), tree.column.tolist(), tree.token.tolist(), strict=True))
        found, many = torch.full((len(tree),), torch.nan), min(1 + self.spare, self.entries)

        def ids(leaf: int) -> list[int]:
            row, column, token = where[leaf]
            return [*rows[row][:column], token]

        def came(leaf: int, answer: Any) -> None:
            found[leaf] = self._confidence(read_after(answer, ids(leaf), many))

        bodies = Bodies(len(tree), lambda leaf: after_body(session.server, ids(leaf), many))
        try:
            self._ask(session, bodies, came)
        except RefusedError as error:
            of_rows: dict[int, str] = {}
            for leaf, why in error.rows.items():
                of_rows.setdefault(int(tree.row[leaf]), why)
            raise error.told_as(rows=of_rows, part="a candidate of ") from error
        return found

    def _ask(self, session: Session, bodies: Bodies, came: Any) -> None:
        if bodies:
            session.client.post_all(self.access.api("/completions"), bodies, came)

    def _confidence(self, top: Top) -> float:
        """The largest probability of a shared entry."""
        told = self._shared(top)
        if not told:
            raise ReplyError(
                f"the server's {len(top)} likeliest tokens are none that the student has "
                f"(ids below {self.shared}); take a teacher with the student's vocabulary"
            )
        return math.exp(told[0][1])

    def _shared(self, top: Top) -> Top:
        return [(token, value) for token, value in top if token < self.shared]

    def _scores(
        self,
        rollout: Rollout,
        candidates: Int[Tensor, "T K"],
        said: Iterable[Said],
        tree: Leaves,
        after: Float[Tensor, "N"],
        top_k: int,
    ) -> TeacherScores:
        log_prob, fidelity, tops = [], [], list[Top]()
        for one in said:
            log_prob += one.log_prob
            fidelity += [self._confidence(top) for top in one.tops[1:]]
            tops += [self._shared(top)[:top_k] for top in one.tops[:-1]]
        after_sampled = torch.tensor(fidelity)
        sure = after_sampled.masked_fill(rollout.is_eos, torch.nan)
        none = torch.full((), torch.nan)
        placed = after[tree.index] if len(tree) else none
        confidence = torch.where(tree.index >= 0, placed, none)
        is_sampled = candidates == rollout.token[:, None]
        filled = [[*top, *[(-1, -math.inf)] * (top_k - len(top))] for top in tops]
        return TeacherScores(
            log_prob=torch.tensor(log_prob),
            entropy=torch.full_like(sure, torch.nan),
            fidelity=sure,
            sampled_confidence=sure,
            confidence=torch.where(is_sampled, after_sampled[:, None], confidence),
            top_ids=torch.tensor([[i for i, _ in top] for top in filled]) if top_k else None,
            top_log_prob=torch.tensor([[v for _, v in top] for top in filled]) if top_k else None,
            leaves=len(tree),
        )

    def _print(self, session: Session) -> Float[Tensor, "n"]:
        """What the server says of a fixed text, which differs from model to model."""
        found: list[float] = []

        def came(_: int, answer: Any) -> None:
            found[:] = read_said(answer, self.text, 1, 1).log_prob

        try:
            session.client.post_all(
                self.access.api("/completions"), [scoring_body(session.server, self.text, 1)], came
            )
        except RefusedError as error:
            why = next(iter(error.rows.values()))
            raise ServerError(
                f"{self.access.url} scores no fixed text, by which it is known again: {why}"
            ) from error
        return torch.tensor(found)

    def _require_same(self, said: Float[Tensor, "n"]) -> None:
        """Raises ServerError where the server has other weights than at first; asked after all else."""
        assert self.first is not None
        if len(said) != len(self.first):
            raise ServerError(
                f"{self.access.url} cannot be recognised: the training recorded a text of "
                f"{len(self.first) + 1} tokens, not of {len(self.text)}. Start again without --resume"
            )
        # What both rule out is the same.
        apart = ~(said.isinf() & self.first.isinf())
        count = int(apart.sum())
        found = likeness(said[apart], self.first[apart], [count], [0]) if count else None
        if found is not None and not found.within(IN_HALF):
            raise ServerError(
                f"{self.access.url} serves another model than when the training began: its "
                f"log-probabilities of a fixed text are {found.worst:.2g} nats off (root mean "
                "square). Its scores since then are left out. Serve the first model again and "
                "continue with --resume"
            )


def _lengths(rollout: Rollout) -> list[int]:
    return (rollout.prompt_lengths + rollout.response_lengths).tolist()
