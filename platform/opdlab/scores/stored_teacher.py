"""A teacher whose scores are on disk: a `Scorer` without a model."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any, final

import torch
from transformers import PreTrainedModel

from opdlab.errors import ModelError
from opdlab.methods import Offers
from opdlab.modelling import Listed, TeacherLogits
from opdlab.records import Distributions, Questions, Rollout, TeacherScores
from opdlab.scores.head import Head
from opdlab.scores.manifest import TEACHER
from opdlab.scores.packing import tokens_of
from opdlab.scores.reader import Scores
from opdlab.scores.spread import counted, dense_draws
from opdlab.scores.told import Told
from opdlab.scoring import check_finite, check_tokens, require_one_step
from opdlab.shapes import Int, Tensor
from opdlab.transfers import to_host

NOT_TOLD = frozenset({"entropy", "fidelity", "sampled_confidence"})


@final
class StoredTeacher(Told):
    """Scores of a store: a `Scorer`.

    An answer is found by its tokens, so any split of rows and any order gives equal scores. The
    distributions of `top_k` have the probability of all other tokens as one more number, whose id is -1;
    those of `drawn` have the logarithm of each draw's share.
    """

    way = "stored"

    def __init__(self, folder: Path, vocabulary: int | None) -> None:
        """Open a store; its hashes are looked at by `probe`.

        Raises:
            DataError: there is no store, or it is damaged.
            ModelError: student and teacher share other entries than when it was made.
        """
        self.scores, self.vocabulary = Scores(folder), vocabulary
        told = self.scores.manifest
        if vocabulary is not None and vocabulary != told.vocabulary:
            raise ModelError(
                f"{folder} holds scores over {told.vocabulary} entries of the vocabulary, and this student "
                f"shares {vocabulary} with the teacher; score the answers again with this student"
            )
        hidden = told.kind_of.name == "hidden"
        self.whole_head = Head.read(self.scores.folder / TEACHER) if hidden else None
        self.probed = False

    @property
    def offers(self) -> Offers:
        return self.scores.manifest.offers(str(self.scores.folder))

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32 if self.whole_head is None else self.whole_head.dtype

    def answering(self) -> AbstractContextManager[PreTrainedModel]:
        """Raises ModelError: it writes no answers."""
        raise ModelError(
            f"the teacher is a store of scores ({self.scores.folder}), which writes no answers"
        )

    def probe(self) -> StoredTeacher:
        """Hold all files against their hashes; only once."""
        if not self.probed:
            self.scores.verify()
            self.probed = True
        return self

    def score(self, rollout: Rollout, questions: Questions, finite: bool = True) -> TeacherScores:
        """Look the answers up; see `Scorer.score`.

        Raises:
            DamagedError: a file of the store has changed.
            ModelError: an answer is not in the store, or more is asked than it holds.
        """
        require_one_step(questions, self.offers)
        self.probe()
        rollout, started = rollout.host, perf_counter()
        (candidates,) = to_host([questions.candidates])
        check_tokens(rollout, self.vocabulary)
        rows = [self._row(rollout, row) for row in range(len(rollout.tokens))]
        log_prob = self._column("log_prob", rows)
        none = torch.full_like(log_prob, torch.nan)
        found = TeacherScores(
            log_prob=log_prob,
            entropy=none,
            fidelity=none,
            sampled_confidence=none,
            confidence=torch.full(candidates.shape, torch.nan),
            **self._distributions(rows, questions),
        )
        if self.scores.manifest.candidates_of is not None:
            found = self._with_candidates(found, rollout, rows, candidates, questions)
        elif (candidates >= 0).any():
            raise ModelError(self.offers.why_not["max_prob"])
        if finite:
            asked = self.scores.manifest.candidates_of is not None
            check_finite(found, rollout, questions, frozenset({"entropy"}) if asked else NOT_TOLD)
        return replace(found, seconds={"trunk": perf_counter() - started, "leaves": 0.0})

    def _row(self, rollout: Rollout, row: int) -> int:
        prompt, response = tokens_of(rollout, row)
        found = self.scores.find(prompt, response)
        if found is None:
            raise ModelError(
                f"{self.scores.folder} holds no scores of the answer in row {row} "
                f"({len(prompt)} tokens of prompt, {len(response)} of response): scores on disk are of the "
                "answers that they were made of, so train on those (leave `prompts` out), or take a "
                "teacher in this process or behind a server"
            )
        return found

    def _column(self, name: str, rows: list[int]) -> Tensor:
        return torch.cat([self.scores.tensor(name, row) for row in rows])

    def _distributions(self, rows: list[int], questions: Questions) -> dict[str, Any]:
        kind = self.scores.kind
        if not questions.full and not questions.top_k:
            return {}
        if kind.name == "hidden":
            return {"hidden": self._column("hidden", rows)}
        if kind.name == "top_k" and not questions.full:
            ids, tail = self._column("top_ids", rows), self._column("tail", rows)[:, None]
            values = self._column("top_log_prob", rows)
            return {
                "top_ids": torch.cat([ids, torch.full_like(tail, -1).long()], -1),
                "top_log_prob": torch.cat([values, tail], -1),
            }
        if kind.name == "drawn" and questions.full:
            ids = self._column("drawn", rows)
            share = -torch.tensor(float(kind.size)).log()
            return {"top_ids": ids, "top_log_prob": share.expand(ids.shape).contiguous()}
        raise ModelError(self.offers.why_not["full" if questions.full else "top-k"])

    def _with_candidates(
        self,
        found: TeacherScores,
        rollout: Rollout,
        rows: list[int],
        candidates: Int[Tensor, "T K"],
        questions: Questions,
    ) -> TeacherScores:
        """The scores with the confidences that the store holds.

        Raises:
            ModelError: one that is asked for is not there.
        """
        told = self.scores.manifest.candidates_of
        assert told is not None
        asked = candidates >= 0
        if asked.any() and questions.measure != told.measure:
            raise ModelError(self.offers.why_not[questions.measure])
        whole = torch.full((len(rollout.token), told.top_k), torch.nan)
        ids = torch.full((len(rollout.token), told.top_k), -1)
        starts = rollout.response_lengths.cumsum(0) - rollout.response_lengths
        for row, start in zip(rows, starts.tolist(), strict=True):
            places = start + self.scores.tensor("candidate_at", row).long()
            ids[places] = self.scores.tensor("candidates", row)
            whole[places] = self.scores.tensor("confidence", row)
        K = min(candidates.shape[1], told.top_k)
        same = ids[:, :K] == candidates[:, :K]
        lacking = asked.clone()
        lacking[:, :K] &= ~same | whole[:, :K].isnan()
        if lacking.any():
            t = int(lacking.any(-1).nonzero()[0])
            raise ModelError(
                f"{self.scores.folder} holds no confidence after a candidate that the method asks about "
                f"(row {int(rollout.row[t])}, response position {int(rollout.position[t])}): it was made "
                f"with top_k {told.top_k} and an entropy_threshold of {told.entropy_threshold:g}; take "
                "these, a smaller top_k or a higher threshold, or score again"
            )
        confidence = torch.full(candidates.shape, torch.nan)
        confidence[:, :K] = whole[:, :K].masked_fill(~asked[:, :K], torch.nan)
        return replace(
            found,
            fidelity=self._column("fidelity", rows),
            sampled_confidence=self._column("sampled_confidence", rows),
            confidence=confidence,
        )

    def entries(self) -> int:
        return self.vocabulary or self.scores.manifest.vocabulary

    def logits(self, said: Distributions) -> TeacherLogits:
        if said.hidden is not None or self.scores.kind.name != "drawn":
            return super().logits(said)
        (ids, values), entries = self.tokens(said), self.entries()
        return lambda part: dense_draws(ids[part], values[part], entries)

    def listed(self, said: Distributions) -> Listed | None:
        if said.top_ids is None or self.scores.kind.name != "drawn":
            return super().listed(said)
        return Listed(*counted(said.top_ids))
