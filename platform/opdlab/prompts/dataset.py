"""Rows of data sets as a sequence of prompts: a function of the seed and the place alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from opdlab.errors import DataError
from opdlab.modelling import Wording
from opdlab.plugins import said_by
from opdlab.prompts.encoding import encode
from opdlab.prompts.preparing import Prepared
from opdlab.prompts.source import PromptSource
from opdlab.records import Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from opdlab.plugins import Evaluator, Grader

BLOCK = 1000
"""Places in which every source has its share of prompts exactly."""


@dataclass(frozen=True)
class Part:
    """One source with the rows of it that are drawn.

    Attributes:
        rows: numbers of rows of `data`, in the order of the files. int64
        weight: share of the prompts, beside those of the other parts.
    """

    data: Prepared
    rows: np.ndarray
    weight: float
    grader: Grader | None


class DatasetSource(PromptSource):
    """Rows of data sets. Each part is shuffled anew in every pass; parts are mixed by their weights.

    Args:
        shuffle: else rows come in the order of the files.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        tokenizer: PreTrainedTokenizerBase,
        template: Wording | str,
        seed: int,
        shuffle: bool = True,
    ) -> None:
        super().__init__(tokenizer, template, seed)
        self.parts, self.shuffle = list(parts), shuffle
        self.count = sum(len(part.rows) for part in parts)
        self.graded = all(part.grader is not None for part in parts)
        self._order = lru_cache(maxsize=2 * len(self.parts))(self._shuffled)
        self._block = lru_cache(maxsize=4)(self._mixed)
        self._shares = shares([part.weight for part in parts])

    def _shuffled(self, part: int, epoch: int) -> np.ndarray:
        count = len(self.parts[part].rows)
        if not self.shuffle:
            return np.arange(count)
        # With one part the order is the same whatever it is called.
        key = (self.seed, epoch) if len(self.parts) == 1 else (self.seed, part + 1, epoch)
        return np.random.default_rng(key).permutation(count)

    def _mixed(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Part of every place of a block, and how many of the same part came before it there."""
        parts = np.repeat(np.arange(len(self.parts)), self._shares)
        parts = np.random.default_rng((self.seed, 0, block)).permutation(parts)
        earlier = np.zeros(BLOCK, dtype=np.int64)
        for number in range(len(self.parts)):
            mine = parts == number
            earlier[mine] = np.arange(mine.sum())
        return parts, earlier

    def _drawn(self, index: int) -> tuple[int, int]:
        """Part, and row of its data, at a place of the sequence."""
        part, place = 0, index
        if len(self.parts) > 1:
            block, within = divmod(index, BLOCK)
            parts, earlier = self._block(block)
            part = int(parts[within])
            place = block * self._shares[part] + int(earlier[within])
        rows = self.parts[part].rows
        epoch, place = divmod(place, len(rows))
        return part, int(rows[self._order(part, epoch)[place]])

    def problem(self, index: int) -> Problem:
        part, row = self._drawn(index)
        return self._problem(part, row)

    def _problem(self, part: int, row: int) -> Problem:
        data = self.parts[part].data
        messages, gold = data.value("messages", row), data.value("gold", row)
        extra: dict[str, Any] = {"part": part}
        if messages is not None:
            extra["messages"] = json.loads(messages)
        if (given := data.value("given", row)) is not None:
            extra["given"] = given
        return Problem(
            data.value("domain", row),
            self._name(part, row),
            data.value("prompt", row),
            None if gold is None else json.loads(gold),
            extra,
        )

    def _name(self, part: int, row: int) -> str:
        data = self.parts[part].data
        place = data.place(row).removeprefix("row ")
        return place if len(self.parts) == 1 else f"{part}: {place}"

    def places(self, asked: int) -> Iterable[int]:
        if len(self.parts) == 1:
            return super().places(asked)
        return self._new_places(asked)

    def _new_places(self, asked: int) -> Iterator[int]:
        seen = set()
        for index in range(asked):
            if (drawn := self._drawn(index)) not in seen:
                seen.add(drawn)
                yield index

    @property
    def problems(self) -> list[Problem]:
        """All rows, in the order of the files."""
        parts = enumerate(self.parts)
        return [self._problem(part, int(row)) for part, each in parts for row in each.rows]

    @property
    def texts(self) -> list[str]:
        """The prompts of all rows, in the order of the files."""
        return [text for part in self.parts for text, _ in part.data.texts(part.rows)]

    def longest(self, count: int) -> list[int]:
        """Tokens of the prompts with the most characters, so many of them."""
        sizes = [
            (len(text), part, int(row))
            for part, each in enumerate(self.parts)
            for row, (text, _) in zip(each.rows, each.data.texts(each.rows), strict=True)
        ]
        first = sorted(sizes, reverse=True)[:count]
        asked = [self._problem(part, row) for _, part, row in first]
        return [len(encode(self.tokenizer, problem, self.wording)) for problem in asked]

    def manifest(self) -> dict[str, Any]:
        digest = hashlib.sha256()
        for part in self.parts:
            digest.update(part.data.sha256.encode() + np.ascontiguousarray(part.rows).tobytes())
        told = [{"path": part.data.path, "revision": part.data.revision} for part in self.parts]
        origin = told[0] if len(told) == 1 else {"sources": told}
        counted = {"count": self.count, "sha256": digest.hexdigest()}
        return {"type": "dataset", **origin, **counted}

    def evaluator(self, problem: Problem) -> Evaluator | Grader:
        grader = self.parts[problem.extra["part"]].grader if "part" in problem.extra else None
        return super().evaluator(problem) if grader is None else grader

    @property
    def graders(self) -> list[str]:
        found = (part.grader for part in self.parts if part.grader is not None)
        return sorted({f"{type(one).__name__} {one.version}" for one in found})

    def require_graders(self) -> None:
        for part in self.parts:
            if part.grader is not None:
                with said_by(part.grader, "require"):
                    part.grader.require()


def turns_of(prompt: str, messages: str | None) -> Any:
    """What a row asks, as `encode` takes it."""
    return prompt if messages is None else json.loads(messages)


def shares(weights: Sequence[float]) -> list[int]:
    """Places of a block for each weight: whole numbers of 1 or more, by the largest remainders.

    Raises:
        DataError: there are more weights than places.
    """
    if len(weights) > BLOCK // 2:
        raise DataError(f"prompts.sources: {len(weights)} sources are too many; join their files")
    exact = np.asarray(weights, dtype=np.float64)
    exact = exact / exact.max()
    exact *= BLOCK / exact.sum()
    found = np.maximum(1, np.floor(exact)).astype(int)
    while found.sum() != BLOCK:
        step = 1 if found.sum() < BLOCK else -1
        gaps = step * (exact - found)
        if step < 0:
            gaps[found == 1] = -np.inf
        found[int(gaps.argmax())] += step
    return [int(one) for one in found]
