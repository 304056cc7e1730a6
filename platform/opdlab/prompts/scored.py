"""Prompts of answers whose scores are on disk: in an order of the seed, as their tokens were scored."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from opdlab.errors import DataError
from opdlab.modelling import Wording, models
from opdlab.prompts.source import PromptSource
from opdlab.records import Problem, Prompt
from opdlab.scores import Scores

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class ScoredSource(PromptSource):
    """The prompts of a store; `extra["stored"]` of a problem is the number of its answer there.

    Args:
        shuffle: else answers come in the order of the store.

    Raises:
        DataError: the store is damaged or not finished, or its tokens are not those of this tokenizer or
            wording.
    """

    def __init__(
        self,
        scores: Scores,
        tokenizer: PreTrainedTokenizerBase,
        template: Wording | str,
        seed: int,
        shuffle: bool = True,
    ) -> None:
        super().__init__(tokenizer, template, seed)
        self.scores, self.shuffle, self.count = scores, shuffle, len(scores)
        self._order = lru_cache(maxsize=2)(self._shuffled)
        self._require_same()

    def _require_same(self) -> None:
        told, where = self.scores.manifest, self.scores.folder
        if told.wording != str(self.wording):
            raise DataError(
                f"{where} holds prompts that were put as prompts.template {told.wording!r} says, and this "
                f"experiment says {str(self.wording)!r}; set the same, or score the answers again"
            )
        template = models.template_sha256(self.tokenizer, self.wording.template)
        if template != told.student["template_sha256"]:
            raise DataError(
                f"{where} holds prompts in another chat template than that of "
                f"{self.tokenizer.name_or_path}; take the student that they were made for, or score the "
                "answers again"
            )
        if models.tokenizer_sha256(self.tokenizer) == told.student["tokenizer_sha256"]:
            return
        theirs = {i: token for token, i in self.scores.tokenizer().get_vocab().items()}
        mine = {i: token for token, i in self.tokenizer.get_vocab().items()}
        odd = [i for i in range(told.vocabulary) if theirs.get(i) != mine.get(i)]
        if odd:
            raise DataError(
                f"{where} holds token ids of another vocabulary than that of "
                f"{self.tokenizer.name_or_path}: {len(odd)} ids differ, the first is {odd[0]} "
                f"({theirs.get(odd[0])!r} there, {mine.get(odd[0])!r} here); score the answers again"
            )

    def _shuffled(self, epoch: int) -> np.ndarray:
        if not self.shuffle:
            return np.arange(len(self.scores))
        return np.random.default_rng((self.seed, epoch)).permutation(len(self.scores))

    def row(self, index: int) -> int:
        """The answer of the store at a place of the sequence."""
        epoch, place = divmod(index, len(self.scores))
        return int(self._order(epoch)[place])

    def prompt(self, index: int) -> Prompt:
        row = self.row(index)
        shard, place = self.scores.at(row)
        tokens = tuple(shard.ids("prompt", place).tolist())
        told = shard.told(place)
        text = str(self.tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False))
        extra = {"stored": row}
        return Prompt(Problem(told["benchmark"], told["problem"], text, None, extra), tokens)

    def problem(self, index: int) -> Problem:
        return self.prompt(index).problem

    def at_most(self, index: int) -> int:
        shard, place = self.scores.at(self.row(index))
        return len(shard.ids("prompt", place))

    def require_known(self) -> None:
        """Its tokens are known: they are not read from a text."""

    def require_whole(self) -> None:
        self.scores.verify()

    def expect(self, places: Iterable[int]) -> None:
        self.scores.read_ahead([self.row(index) for index in places])

    def manifest(self) -> dict[str, Any]:
        told = self.scores.manifest
        return {
            "type": "scored",
            "path": str(self.scores.folder),
            "count": self.count,
            "sha256": self.scores.sha256,
            "kind": str(told.kind_of),
        }
