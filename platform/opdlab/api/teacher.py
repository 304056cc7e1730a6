"""A teacher for your own trainer: scores of answers, and of candidates that could have been sampled."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final, get_args

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from opdlab import credentials
from opdlab.api.in_memory import require_model
from opdlab.api.token_rows import rows_of, token_ids, usable, whole
from opdlab.console import quieten
from opdlab.errors import DataError, ModelError
from opdlab.modelling import models
from opdlab.records import Lookahead, Questions, Rollout, TeacherScores
from opdlab.scoring import Scorer, Teacher as TeacherHere
from opdlab.serving import Access, RemoteTeacher, check_access
from opdlab.shapes import Float, Int, Tensor

Measure = Literal["max_prob", "entropy", "perplexity"]
Ids = Sequence[int] | Int[Tensor, "n"]
_ROWS = 1024
"""Positions whose whole distribution is held at a time."""


@dataclass(frozen=True, eq=False)
class Scored:
    """A teacher's scores of one answer of T tokens, in nats.

    Attributes:
        log_prob: of each token. `Float[T]`
        entropy: of the distribution from which the token was sampled. `Float[T]`
        fidelity: largest probability of the distribution after the token. `Float[T]`
        top_log_prob: of the K most likely entries at each token, most likely first; K is 0 if none were
            requested. `Float[T K]`
        top_ids: ids of these entries. `Int[T K]`
        confidence: of the distribution after each candidate, by the requested measure; NaN where the
            candidate is -1. Only from `look_ahead`; otherwise it has no columns. `Float[T K]`
    """

    log_prob: Float[Tensor, "T"]
    entropy: Float[Tensor, "T"]
    fidelity: Float[Tensor, "T"]
    top_log_prob: Float[Tensor, "T K"]
    top_ids: Int[Tensor, "T K"]
    confidence: Float[Tensor, "T K"]


@final
class Teacher:
    """A frozen causal language model that scores token ids.

    Rows may have different lengths, and no row's numbers depend on the others. All candidates are
    scored in one pass (tree attention) if the model's attention can be hooked, which is tested before
    the first scores; otherwise by one forward per candidate, with the same numbers.

    Examples:
        >>> teacher = Teacher("embedded:teacher")
        >>> prompt, answer = teacher.encode("12+3="), teacher.encode("15")
        >>> (said,) = teacher.score([prompt], [answer], top_k=4)
        >>> said.top_ids.shape == (len(answer), 4)
        True
    """

    def __init__(
        self,
        model: str | Path | PreTrainedModel,
        *,
        revision: str | None = None,
        dtype: str = "float32",
        device: str | torch.device | None = None,
        vocabulary: int | None = None,
        key_variable: str = credentials.TEACHING_KEY,
    ) -> None:
        """Load the model, use one in memory, or one behind `opdlab teach`.

        Args:
            model: a folder, `embedded:NAME`, a name on the hub, the address of `opdlab teach`
                (`http://...`), or a model in memory, which is put in evaluation mode and gets no gradient.
            revision: commit or tag on the hub; required there.
            dtype: of the weights where they are loaded: `float32`, `bfloat16`, `float16`.
            device: where it runs; None uses a GPU if there is one, or the device of a model in memory.
            vocabulary: number of entries that count, those that the student has as well; None for all.
            key_variable: environment variable that holds the API key of a service, if any.

        `revision`, `dtype` and `device` are the service's, if there is one.

        Raises:
            DataError: the model has no such vocabulary, or the address is none.
            ModelError: it cannot be loaded, is not a causal language model, the device does not exist,
                or its output at a token depends on later tokens.
            ServerError: nobody answers at the address, or no `opdlab teach`.
        """
        self.revision = revision
        self.scorer: Scorer
        if isinstance(model, str) and model.startswith(("http://", "https://")):
            self.path = None
            remote = open_remote(model, key_variable)
            known = int(remote.told["vocabulary"])
            self.positions = remote.limits.longest
            self.vocabulary = _entries(vocabulary, known)
            remote.vocabulary = vocabulary
            self.scorer = remote
            return
        where = None if device is None else usable(device)
        if isinstance(model, str | Path):
            quieten()
            self.path = str(model)
            loaded = models.load_model(self.path, revision, dtype, where or models.device("auto"))
        else:
            loaded = require_model("Teacher", model)
            self.path = None
            # Models of four bits cannot be moved, not even to where they are.
            if where is not None and where != loaded.device:
                loaded = loaded.to(where)  # pyright: ignore[reportArgumentType]
        known = int(loaded.config.get_text_config().vocab_size)
        self.vocabulary = _entries(vocabulary, known)
        self.positions = models.positions(loaded)
        self.scorer = TeacherHere(loaded, vocabulary)

    @property
    def way(self) -> str:
        """`tree`, `naive` for a model whose attention cannot be hooked, or `service`."""
        return self.scorer.probe().way

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens, by the tokenizer beside the model.

        Returns:
            Token ids.

        Raises:
            DataError: the teacher is a model in memory or behind a service, which has no tokenizer.
        """
        if self.path is None:
            raise DataError(
                "Teacher.encode: a model in memory or behind a service has no tokenizer; give token ids"
            )
        if not isinstance(text, str):
            raise DataError(
                f"Teacher.encode: {type(text).__name__} is not a text; give one text at a time"
            )
        tokenizer = models.load_tokenizer(self.path, self.revision)
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    def score(
        self, prompts: Iterable[Ids], answers: Iterable[Ids], *, top_k: int = 0
    ) -> list[Scored]:
        """Score each token of answers.

        Args:
            prompts: token ids, at least one each. Padding is read like any other token; pass the rows
                of padded tensors without it, `[row[mask.bool()] for row, mask in zip(ids, masks)]`.
            answers: token ids that follow them, at least one each; T of a row.
            top_k: number of most likely entries to return at each token.

        Returns:
            One `Scored` per row, of the answer's length T, on the host.

        Raises:
            DataError: answers and prompts differ in number, one is empty, something is not a token id,
                or `top_k` exceeds the vocabulary.
            ModelError: a row beyond the model's positions.
        """
        whole("top_k", top_k, 0, self.vocabulary)
        rollout = self._rollout(prompts, answers)
        none = torch.empty(len(rollout.row), 0, dtype=torch.long)
        scores = self.scorer.score(rollout, Questions(none, top_k=top_k))
        return self._by_row(rollout, scores, top_k)

    def look_ahead(
        self,
        prompts: Iterable[Ids],
        answers: Iterable[Ids],
        candidates: Iterable[Int[Tensor, "T K"] | Sequence[Sequence[int]]],
        *,
        measure: Measure = "max_prob",
        lookahead: int = 1,
    ) -> list[Scored]:
        """Score with the teacher one step after each candidate, or several, as LGR does.

        Args:
            prompts: as in `score`.
            answers: as in `score`.
            candidates: for each answer `Int[T K]`: tokens instead of each of its tokens, -1 for none; K
                is the same for all answers.
            measure: of confidence, higher is more certain: `max_prob`, or the negative of `entropy` or
                `perplexity`.
            lookahead: steps that are looked ahead. Past one, each candidate is followed by the teacher's
                likeliest tokens; its confidence is the geometric mean of the largest probabilities. No
                token ends a text here.

        Returns:
            For each answer also `confidence`, `Float[T K]`.

        Raises:
            DataError: as in `score`, candidates of another shape than their answer, an unknown measure,
                or one other than `max_prob` past one step.
            ModelError: a teacher behind a service is asked past one step.

        Examples:
            >>> teacher = Teacher("embedded:teacher")
            >>> prompt, answer = teacher.encode("12+3="), teacher.encode("15")
            >>> (said,) = teacher.score([prompt], [answer], top_k=4)
            >>> (ahead,) = teacher.look_ahead([prompt], [answer], [said.top_ids])
            >>> ahead.confidence.shape == (len(answer), 4)
            True
        """
        if measure not in get_args(Measure):
            raise DataError(
                f"look_ahead: measure={measure!r}; choose one of {', '.join(get_args(Measure))}"
            )
        whole("lookahead", lookahead, 1, 1024)
        if lookahead > 1 and measure != "max_prob":
            raise DataError(f"look_ahead: measure={measure!r} is of one step; set lookahead=1")
        rollout = self._rollout(prompts, answers)
        lengths = rollout.response_lengths.tolist()
        rows = [
            token_ids(f"candidates {i}", one, self.vocabulary, -1)
            for i, one in enumerate(rows_of("candidates", candidates))
        ]
        shapes = [tuple(one.shape) for one in rows]
        width = shapes[0][1] if shapes and len(shapes[0]) == 2 else 0
        if shapes != [(length, width) for length in lengths]:
            raise DataError(
                f"look_ahead: candidates have the shapes {shapes}; give one row a token and equally many "
                f"columns: {[(length, width or 'K') for length in lengths]}"
            )
        asked = Questions(torch.cat(rows), measure, lookahead=Lookahead(lookahead))
        scores = self.scorer.score(rollout, asked, finite=False)
        return self._by_row(rollout, scores, 0)

    def _by_row(self, rollout: Rollout, scores: TeacherScores, top_k: int) -> list[Scored]:
        device, tokens = scores.log_prob.device, len(rollout.row)
        kept = (
            torch.empty(tokens, 0, device=device),
            torch.empty(tokens, 0, dtype=torch.long, device=device),
        )
        if top_k and scores.top_ids is not None and scores.top_log_prob is not None:
            # A service tells all others together in the last column.
            kept = (scores.top_log_prob[:, :top_k], scores.top_ids[:, :top_k])
        elif top_k and scores.hidden is not None:
            scorer = self.scorer
            assert isinstance(scorer, TeacherHere)
            with torch.no_grad():
                parts = [scorer.log_probs(rows).topk(top_k) for rows in scores.hidden.split(_ROWS)]
            kept = (
                torch.cat([one.values for one in parts]),
                torch.cat([one.indices for one in parts]),
            )
        columns = (
            scores.log_prob,
            scores.entropy,
            scores.fidelity,
            *kept,
            scores.confidence,
        )
        lengths = rollout.response_lengths.tolist()
        rows = zip(*(one.split(lengths) for one in columns), strict=True)
        return [Scored(*row) for row in rows]

    def _rollout(self, prompts: Iterable[Ids], answers: Iterable[Ids]) -> Rollout:
        """Answers to prompts as a rollout, of which nobody asks what their student thought."""
        asked, said = (
            [
                token_ids(f"{name} {i}", one, self.vocabulary)
                for i, one in enumerate(rows_of(f"{name}s", given))
            ]
            for name, given in (("prompt", prompts), ("answer", answers))
        )
        if len(asked) != len(said) or not asked:
            raise DataError(f"{len(asked)} prompts and {len(said)} answers; give one for each")
        for name, rows in (("prompt", asked), ("answer", said)):
            for place, row in enumerate(rows):
                if row.ndim != 1 or not len(row):
                    raise DataError(f"{name} {place} has no tokens in a row; give one or more")
        for place, pair in enumerate(zip(asked, said, strict=True)):
            if self.positions is not None and (length := sum(map(len, pair))) > self.positions:
                raise ModelError(
                    f"prompt and answer {place} have {length} tokens, and the teacher {self.positions} "
                    "positions: beyond them it reads noise; shorten them"
                )
        lengths = torch.tensor([len(one) for one in said])
        total = int(lengths.sum())
        nothing = torch.zeros(total)
        both = [torch.cat(pair) for pair in zip(asked, said, strict=True)]
        return Rollout(
            tokens=pad_sequence(both, batch_first=True),
            prompt_lengths=torch.tensor([len(one) for one in asked]),
            response_lengths=lengths,
            ended=torch.zeros(len(both), dtype=torch.bool),
            log_prob=nothing,
            entropy=nothing,
            candidates=torch.empty(total, 0, dtype=torch.long),
            seeds=torch.arange(len(both)),
            eos_ids=(),
        )


def open_remote(url: str, key_variable: str) -> RemoteTeacher:
    """A teacher behind `opdlab teach`, asked who it is."""
    try:
        address = check_access(url, key_variable)
    except ValueError as error:
        raise DataError(f"Teacher: {error}") from error
    return RemoteTeacher(Access(address, key_variable, 8, 60.0, 3600.0), None).probe()


def _entries(wanted: int | None, known: int) -> int:
    return known if wanted is None else whole("vocabulary", wanted, 1, known)
