"""A teacher behind `opdlab teach`: a `Scorer` that holds of its model the vocabulary projection at most.

A step's answers go over in as few requests as the service allows, candidates with them. Of whole
distributions come the hidden states, which the projection, fetched once, makes distributions again; of the
likeliest tokens they come as well where they are fewer bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from time import perf_counter
from typing import Any, final

import torch
from transformers import PreTrainedModel

from opdlab.errors import DataError, ModelError, RefusedError, ServerError
from opdlab.methods import Offers
from opdlab.records import Questions, Rollout, TeacherScores
from opdlab.scores import Head, Told
from opdlab.scoring import check_finite, check_tokens, join, part, require_one_step
from opdlab.serving.access import Access
from opdlab.serving.client import Client, ReplyError
from opdlab.serving.served_offers import SERVICE_OFFERS
from opdlab.serving.wire import SOFTWARE, Limits, read_answer, request_body, unpack
from opdlab.shapes import Int, Tensor
from opdlab.transfers import to_host

IDENTITY = ("weights_sha256", "config_sha256", "tokenizer_sha256", "dtype")
"""What a teacher is known again by, in what its service says and in the record of a training."""


@final
class RemoteTeacher(Told):
    """A service of `opdlab teach` that scores rollouts: a `Scorer`.

    Attributes:
        told: what the service says its teacher is; empty before `probe`.
        expected: what it must be, where a record or the files here say so.
    """

    way = "service"

    def __init__(
        self, access: Access, vocabulary: int | None, shell: PreTrainedModel | None = None
    ) -> None:
        """Nothing is asked yet; see `probe`.

        Args:
            vocabulary: entries that student and teacher share.
            shell: the teacher without weights; None where no whole distributions are asked for.
        """
        self.access, self.vocabulary, self.shell = access, vocabulary, shell
        self.client = Client(access)
        self.told: dict[str, Any] = {}
        self.expected: dict[str, Any] = {}
        self.limits = Limits()
        self.whole_head: Head | None = None

    @property
    def offers(self) -> Offers:
        return SERVICE_OFFERS

    @property
    def dtype(self) -> torch.dtype:
        return getattr(torch, str(self.probe().told["dtype"]))

    def answering(self) -> AbstractContextManager[PreTrainedModel]:
        """Raises ModelError: it writes no answers."""
        raise ModelError(f"the teacher is behind a service; {SERVICE_OFFERS.why_not['answers']}")

    def probe(self) -> RemoteTeacher:
        """See who answers, and that it is the expected teacher; only once.

        Raises:
            ServerError: nobody is there, it is not a service of `opdlab teach`, or it has another model.
        """
        if not self.told:
            told = self.client.ask("/v1/teacher", tries=4)
            if not isinstance(told, dict) or told.get("software") != SOFTWARE:
                raise ServerError(
                    f"{self.access.root} is not a service of `opdlab teach` (it does not say so at "
                    "/v1/teacher); start one there, or leave `type` out of `server` for a vLLM"
                )
            if not _is_whole(told):
                raise ServerError(
                    f"{self.access.root} is a service of another version of opdlab "
                    f"({told.get('version')!s:.40}); use the same on both sides"
                )
            self._require_same(told)
            try:
                self.limits = Limits.told(told["limits"])
            except DataError as error:
                raise ServerError(f"{self.access.root}: {error}") from error
            self.told = told
        return self

    def context(self) -> int:
        """Tokens of a row that it scores, at most."""
        return self.probe().limits.longest

    def record(self) -> dict[str, Any]:
        """What the service says its teacher is: by this it is known again."""
        return dict(self.probe().told["teacher"])

    def expect(self, record: Mapping[str, Any]) -> None:
        """Take what a record, or the teacher's files here, say for what it must be; before `probe`."""
        self.expected |= {name: record[name] for name in IDENTITY if name in record}

    def score(self, rollout: Rollout, questions: Questions, finite: bool = True) -> TeacherScores:
        """Answer the questions; see `Scorer.score`.

        Raises:
            ServerError: the service is away, refuses rows, or has another teacher now.
            NonFiniteError: a score is NaN or infinite.
            ModelError: the rollout holds tokens that it cannot read.
        """
        require_one_step(questions, self.offers)
        self.probe()
        rollout, started = rollout.host, perf_counter()
        (candidates,) = to_host([questions.candidates])
        questions = replace(questions, candidates=candidates)
        check_tokens(rollout, self.vocabulary)
        asked = self._over_the_wire(questions)
        groups = list(self._groups(rollout, candidates.shape[1]))
        pieces: list[tuple[TeacherScores, Int[Tensor, "t"]]] = []

        def ask(groups: Sequence[Int[Tensor, "b"]]) -> None:
            parts = [part(rollout, rows) for rows in groups]
            bodies = [
                request_body(piece, replace(asked, candidates=candidates[place]), self.vocabulary)
                for piece, place in parts
            ]

            def came(number: int, answer: Any) -> None:
                place = parts[number][1]
                pieces.append((self._read(answer, len(place), candidates.shape[1]), place))

            self.client.post_all(self.access.beside_api("/v1/score"), bodies, came)

        try:
            ask(groups)
        except RefusedError as error:
            if error.ended:
                raise _of_rows(error, groups, "a request with ") from error
            # Which of a request's rows is at fault shows when each is asked about by itself.
            alone = [row[None] for number in error.rows for row in groups[number]]
            try:
                ask(alone)
            except RefusedError as again:
                raise _of_rows(again, alone) from again
        scores = join(pieces)
        if finite:
            check_finite(scores, rollout, questions)
        waited = perf_counter() - started - sum(scores.seconds.values())
        seconds = {**scores.seconds, "trunk": scores.seconds["trunk"] + max(0.0, waited)}
        return replace(scores, seconds=seconds)

    def _over_the_wire(self, questions: Questions) -> Questions:
        """The same questions, about distributions by what is fewer bytes."""
        if questions.full or not questions.top_k:
            return questions
        few = 8 * (questions.top_k + 1) < self.told["hidden_bytes"]
        return questions if few or self.shell is None else replace(questions, full=True)

    def _groups(self, rollout: Rollout, candidates: int) -> Iterator[Int[Tensor, "b"]]:
        """Rows that go in one request each."""
        answers = rollout.response_lengths.tolist()
        lengths = (rollout.prompt_lengths + rollout.response_lengths).tolist()
        rows: list[int] = []
        tokens = wanted = longest = 0
        for row, (length, answer) in enumerate(zip(lengths, answers, strict=True)):
            more = (tokens + length, max(longest, length), wanted + candidates * answer)
            if rows and not self.limits.fit(len(rows) + 1, *more):
                yield torch.tensor(rows)
                rows, more = [], (length, length, candidates * answer)
            rows.append(row)
            tokens, longest, wanted = more
        yield torch.tensor(rows)

    def _read(self, answer: Any, tokens: int, candidates: int) -> TeacherScores:
        if not isinstance(answer, bytes):
            raise ReplyError("the service answered with no safetensors")
        try:
            scores, identity = read_answer(answer, tokens, candidates)
        except DataError as error:
            raise ReplyError(str(error)) from error
        if identity != self.told["identity"]:
            raise self._other_model("than before")
        return scores

    def _require_same(self, told: Mapping[str, Any]) -> None:
        wrong = [
            name for name, is_so in self.expected.items() if told["teacher"].get(name) != is_so
        ]
        if wrong:
            raise self._other_model(f"than expected ({', '.join(wrong)} differ)")

    def _other_model(self, than: str) -> ServerError:
        return ServerError(
            f"{self.access.root} serves another teacher {than}. What it says now is left out. Serve the "
            "expected model there, with the same --dtype, and continue with --resume"
        )

    def entries(self) -> int:
        return self.vocabulary or int(self.probe().told["vocabulary"])

    def fetched_head(self) -> Head:
        """The vocabulary projection, fetched once."""
        if self.whole_head is None:
            assert self.shell is not None
            answer = self.client.ask("/v1/head", tries=4)
            try:
                tensors, told = unpack(answer if isinstance(answer, bytes) else b"")
            except DataError as error:
                raise ServerError(
                    f"{self.access.root} gives no vocabulary projection: {error}"
                ) from error
            if told.get("identity") != self.told["identity"]:
                raise self._other_model("than before")
            self.whole_head = Head(self.shell, tensors)
            if self.placed is not None:
                self.whole_head.place(self.placed)
        return self.whole_head


def _of_rows(
    error: RefusedError, groups: Sequence[Int[Tensor, "b"]], named: str = ""
) -> RefusedError:
    """The same by rows, where a request is about several."""
    why = {row: why for number, why in error.rows.items() for row in groups[number].tolist()}
    return error.told_as(rows=why, part=named)


def _is_whole(told: Mapping[str, Any]) -> bool:
    """Whether a service says all that is used of it."""
    kinds: Sequence[tuple[str, type]] = (
        ("identity", str), ("dtype", str), ("teacher", dict), ("vocabulary", int), ("hidden_bytes", int)
    )  # fmt: skip
    of_torch = isinstance(getattr(torch, str(told.get("dtype")), None), torch.dtype)
    return of_torch and all(isinstance(told.get(name), kind) for name, kind in kinds)
