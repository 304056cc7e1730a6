"""Prompts for training: the i-th prompt is a pure function of the seed and i.

So the place in the data is one integer, a run can go on anywhere, and runs that share a seed see the
same prompts in the same order.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from opdlab.errors import DataError
from opdlab.modelling import Wording, as_wording
from opdlab.plugins import posed, said_by
from opdlab.prompts.encoding import encode, messages_of, plain_text
from opdlab.prompts.unknown_text import LOOKED_AT, Unknown, unknown
from opdlab.records import Problem, Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from opdlab.plugins import Evaluator, Grader

HASHED_PROBLEMS = 64
SLACK = 16
"""Tokens by which a tokenizer may exceed the letters of a plain text."""


class PromptSource(ABC):
    """An endless, seeded sequence of prompts.

    Attributes:
        count: how many problems there are before they come again; None where they never do.
        graded: whether answers to all of them can be graded.
    """

    count: int | None = None
    graded: bool = False

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, template: Wording | str, seed: int
    ) -> None:
        self.tokenizer = tokenizer
        self.wording = as_wording(template)
        self.seed = seed

    def prompt(self, index: int) -> Prompt:
        """The prompt at a place of the sequence, from 0."""
        problem = self.problem(index)
        return Prompt(problem, encode(self.tokenizer, problem, self.wording))

    @abstractmethod
    def problem(self, index: int) -> Problem:
        """The problem at a place of the sequence."""

    def places(self, asked: int) -> Iterable[int]:
        """Places among the first `asked` that hold what no earlier one does; of endless ones the first."""
        return range(min(self.count or LOOKED_AT, asked))

    def expect(self, places: Iterable[int]) -> None:  # noqa: B027 - most are in memory
        """These are read soon: whoever reads from a disk may begin."""

    def require_whole(self) -> None:  # noqa: B027 - most are read when they are opened
        """Hold what is read later against its hashes.

        Raises:
            DamagedError: naming a file that has changed.
        """

    def at_most(self, index: int) -> int:
        """Tokens of the prompt at a place, at most: told without splitting it where its text is short."""
        problem = self.problem(index)
        if isinstance(problem.asked, str) and problem.asked.isascii():
            return len(problem.asked) + self._around
        return len(encode(self.tokenizer, problem, self.wording))

    @cached_property
    def _around(self) -> int:
        return room_around(self.tokenizer, self.wording)

    def unknown(self) -> Unknown:
        """How much of the first prompts the tokenizer does not know."""
        problems = (self.problem(index) for index in range(LOOKED_AT))
        texts = (plain_text(messages_of(each, self.wording.system)) for each in problems)
        return unknown(self.tokenizer, (text + self.wording.prefill for text in texts))

    def require_known(self) -> None:
        """Refuse prompts that the student could not read.

        Raises:
            DataError: most of the first ones hold text that the tokenizer does not know.
        """
        if (found := self.unknown()).most:
            raise DataError(
                f"prompts: {found}. The tokenizer of {self.tokenizer.name_or_path} does not have these "
                "characters, and the model would read the same mark for each of them; take prompts in "
                "its characters, or a model that knows them"
            )

    @abstractmethod
    def manifest(self) -> dict[str, Any]:
        """What a run is trained on, by contents: `count` (None for endless ones) and `sha256`."""

    def evaluator(self, problem: Problem) -> Evaluator | Grader:
        """Who can grade an answer to a problem of this source.

        Raises:
            DataError: nobody can.
        """
        raise DataError(
            f"prompts: answers to problem {problem.id} of {problem.benchmark!r} cannot be graded; set "
            "prompts.answer_column and prompts.grader, or take prompts of `type: problems`"
        )

    @property
    def graders(self) -> list[str]:
        """Who grades answers, with the version of each."""
        return []

    def require_graders(self) -> None:  # noqa: B027 - without graders nothing is needed
        """Make sure that answers can be graded on this machine.

        Raises:
            OpdlabError: they cannot, such as programs where there is no sandbox.
        """


def room_around(tokenizer: PreTrainedTokenizerBase, wording: Wording) -> int:
    """Tokens of a prompt beside those of its plain text, which are no more than its letters."""
    return len(encode(tokenizer, "a", wording)) + SLACK


class ProblemSource(PromptSource):
    """Endless problems of evaluators, each place drawn from one of them; or the first `limit` of these."""

    graded = True

    def __init__(
        self,
        sources: list[Evaluator],
        tokenizer: PreTrainedTokenizerBase,
        template: Wording | str,
        seed: int,
        limit: int | None = None,
    ) -> None:
        super().__init__(tokenizer, template, seed)
        self.sources, self.count = sources, limit

    def problem(self, index: int) -> Problem:
        index = index % self.count if self.count else index
        choice = np.random.default_rng((self.seed, index)).integers(len(self.sources))
        source = self.sources[choice]
        try:
            return posed.training_problem(source, self.seed, index)
        except NotImplementedError as error:
            raise DataError(f"prompts.sources: {error}; leave {source.benchmark} out") from error

    def manifest(self) -> dict[str, Any]:
        first = [self.problem(index) for index in range(HASHED_PROBLEMS)]
        listed = [[each.benchmark, each.id, each.prompt, each.gold] for each in first]
        return {
            "type": "problems",
            "count": self.count,
            "first": len(first),
            "sha256": sha256_of(listed),
        }

    def evaluator(self, problem: Problem) -> Evaluator | Grader:
        posed = [source for source in self.sources if source.benchmark == problem.benchmark]
        return posed[0] if posed else super().evaluator(problem)

    @property
    def graders(self) -> list[str]:
        return sorted({f"{each.benchmark} {each.grader_version}" for each in self.sources})

    def require_graders(self) -> None:
        for source in self.sources:
            with said_by(source, "require_grader"):
                source.require_grader()


def sha256_of(listed: Iterable[Any]) -> str:
    """Hash of rows in their order, which decides what a seed draws."""
    digest = hashlib.sha256()
    for row in listed:
        digest.update(json.dumps(row, sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()
