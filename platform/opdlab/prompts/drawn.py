"""Prompts for training: the i-th prompt is a pure function of the seed and i.

So the place in the data is one integer, a run can go on anywhere, and runs that share a seed see the
same prompts in the same order.
"""

from __future__ import annotations

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from opdlab.datafiles import FORMATS, has_format, is_text, read_hub, read_rows
from opdlab.errors import DataError, ModelError
from opdlab.plugins import posed
from opdlab.records import Problem, Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from opdlab.configuration import DatasetPrompts, ProblemPrompts
    from opdlab.plugins import Evaluator

LOOKED_AT = 256
"""Prompts whose text is looked at before anything is trained."""
HASHED_PROBLEMS = 64
_SPLIT = re.compile(r"\w+([.-]\w+)*")


def encode(tokenizer: PreTrainedTokenizerBase, text: str, template: str) -> tuple[int, ...]:
    """Token ids of a prompt, special tokens included.

    Args:
        template: `chat` applies the tokenizer's chat template, `none` does not, `auto` does where
            there is one.

    Raises:
        ModelError: `chat` without a chat template.
    """
    if template == "chat" and not tokenizer.chat_template:
        raise ModelError(
            f"the tokenizer {tokenizer.name_or_path} has no chat template; set prompts.template: none"
        )
    if template == "none" or not tokenizer.chat_template:
        return _without_end(tokenizer, text)
    message = [{"role": "user", "content": text}]
    ids: Any = tokenizer.apply_chat_template(message, add_generation_prompt=True, return_dict=False)
    return tuple(ids)


def _without_end(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    """Token ids of a text to be gone on with: an EOS that the tokenizer appends would end it."""
    ids: Any = tokenizer(text)["input_ids"]
    own: Any = tokenizer(text, add_special_tokens=False)["input_ids"]
    eos = tokenizer.eos_token_id
    # An EOS that the text itself ends in stays.
    kept = next((n for n, token in enumerate(reversed(own)) if token != eos), len(own))
    added = next((n for n, token in enumerate(reversed(ids)) if token != eos), len(ids) - 1)
    return tuple(ids[: len(ids) - max(0, added - kept)])


def rendered(tokenizer: PreTrainedTokenizerBase, text: str, template: str) -> str:
    """The prompt as the model reads it: with the chat template where `encode` applies it."""
    if template == "none" or not tokenizer.chat_template:
        return text
    message = [{"role": "user", "content": text}]
    return str(tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False))


@dataclass(frozen=True)
class Unknown:
    """How much of prompts the tokenizer does not know.

    Attributes:
        prompts, tokens: how many were looked at.
        bad_prompts, bad_tokens: how many of them hold, or are, the token for unknown text.
        example: the first text that holds one; empty for none.
    """

    prompts: int
    tokens: int
    bad_prompts: int
    bad_tokens: int
    example: str

    @property
    def most(self) -> bool:
        """Whether most of the prompts hold something unknown."""
        return 2 * self.bad_prompts > self.prompts

    def __str__(self) -> str:
        share = self.bad_tokens / max(self.tokens, 1)
        said = f"{self.bad_prompts} of {self.prompts} prompts hold unknown text, {share:.1%} of all tokens"
        return f"{said}; the first is {self.example[:80]!r}" if self.example else said


def unknown(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> Unknown:
    """How much of the texts becomes the tokenizer's token for what it does not know."""
    listed = list(texts)
    ids: Any = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in listed]
    mark = tokenizer.unk_token_id
    counts = [0 if mark is None else tokens.count(mark) for tokens in ids]
    bad = [text for text, count in zip(listed, counts, strict=True) if count]
    return Unknown(len(listed), sum(map(len, ids)), len(bad), sum(counts), bad[0] if bad else "")


class PromptSource(ABC):
    """An endless, seeded sequence of prompts.

    Attributes:
        count: how many problems there are before they come again; None where they never do.
    """

    count: int | None = None

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str, seed: int) -> None:
        self.tokenizer = tokenizer
        self.template = template
        self.seed = seed

    def prompt(self, index: int) -> Prompt:
        """The prompt at a place of the sequence, from 0."""
        problem = self.problem(index)
        return Prompt(problem, encode(self.tokenizer, problem.prompt, self.template))

    @abstractmethod
    def problem(self, index: int) -> Problem:
        """The problem at a place of the sequence."""

    def unknown(self) -> Unknown:
        """How much of the first prompts the tokenizer does not know."""
        return unknown(self.tokenizer, (self.problem(i).prompt for i in range(LOOKED_AT)))

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

    def evaluator(self, problem: Problem) -> Evaluator:
        """Who can grade an answer to a problem of this source.

        Raises:
            DataError: nobody can.
        """
        raise DataError(
            f"prompts: answers to problem {problem.id} of {problem.benchmark!r} cannot be graded; take "
            "prompts of `type: problems`"
        )


class ProblemSource(PromptSource):
    """Endless problems of evaluators, each place drawn from one of them."""

    def __init__(
        self,
        sources: list[Evaluator],
        tokenizer: PreTrainedTokenizerBase,
        template: str,
        seed: int,
    ) -> None:
        super().__init__(tokenizer, template, seed)
        self.sources = sources

    def problem(self, index: int) -> Problem:
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
            "sha256": _sha256(listed),
        }

    def evaluator(self, problem: Problem) -> Evaluator:
        posed = [source for source in self.sources if source.benchmark == problem.benchmark]
        return posed[0] if posed else super().evaluator(problem)


class DatasetSource(PromptSource):
    """Rows of a dataset, shuffled anew in every pass.

    Args:
        origin: the file or the data set on the hub, and its revision.
    """

    def __init__(
        self,
        texts: list[str],
        tokenizer: PreTrainedTokenizerBase,
        template: str,
        seed: int,
        domains: list[str] | None = None,
        origin: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(tokenizer, template, seed)
        self.texts, self.count = texts, len(texts)
        self.origin = dict(origin or {})
        self.domains = domains or ["dataset"] * len(texts)
        self._order = lru_cache(maxsize=2)(self._shuffled)

    def _shuffled(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self.seed, epoch)).permutation(len(self.texts))

    def problem(self, index: int) -> Problem:
        epoch, place = divmod(index, len(self.texts))
        row = int(self._order(epoch)[place])
        return Problem(self.domains[row], str(row), self.texts[row], gold=None)

    def manifest(self) -> dict[str, Any]:
        rows = [[domain, text] for domain, text in zip(self.domains, self.texts, strict=True)]
        counted = {"count": self.count, "sha256": _sha256(rows)}
        return {"type": "dataset", **self.origin, **counted}


def _sha256(listed: list[list[Any]]) -> str:
    """Hash of rows in their order, which decides what a seed draws."""
    digest = hashlib.sha256()
    for row in listed:
        digest.update(json.dumps(row, sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()


def open_prompts(
    config: ProblemPrompts | DatasetPrompts, tokenizer: PreTrainedTokenizerBase, seed: int
) -> PromptSource:
    """The prompts that an experiment names.

    Raises:
        DataError: the dataset or its column is missing, or has no text.
    """
    if config.type == "problems":
        return ProblemSource(list(config.sources), tokenizer, config.template, seed)
    columns = [config.column, *([config.domain_column] if config.domain_column else [])]
    rows = _rows(config, columns)
    texts = _texts(rows, config, config.column)
    domains = _texts(rows, config, config.domain_column) if config.domain_column else None
    origin = {"path": config.path, "revision": rows.revision}
    return DatasetSource(texts, tokenizer, config.template, seed, domains, origin)


@dataclass(frozen=True)
class _Rows:
    """Rows with the columns that are used, the names of all, and the commit on the hub."""

    rows: Sequence[Mapping[str, Any]]
    names: Sequence[str]
    revision: str | None = None


def _rows(config: DatasetPrompts, columns: Sequence[str]) -> _Rows:
    if not _SPLIT.fullmatch(config.split):
        raise DataError(
            f"prompts.split {config.split!r} is no name of a split: it is read whole; name it alone, or "
            "write a file with the rows that you want"
        )
    try:
        return _read_file(config) if has_format(config.path) else _read_hub(config, columns)
    except DataError as error:
        said = str(error)
        raise DataError(said if said.startswith("prompts") else f"prompts.path: {said}") from error


def _read_file(config: DatasetPrompts) -> _Rows:
    """The rows that are in the file now: no cache, which would know it by its name and time."""
    if not Path(config.path).is_file():
        raise DataError(f"prompts.path: there is no file {Path(config.path).absolute()}")
    for name in ("revision", "config"):
        if getattr(config, name) is not None:
            raise DataError(
                f"prompts.{name} is for a data set on the hub, but prompts.path is a file ({config.path}); "
                f"remove prompts.{name}"
            )
    rows = read_rows(config.path, split=config.split)
    return _Rows(rows, list(dict.fromkeys(name for row in rows for name in row)))


def _read_hub(config: DatasetPrompts, columns: Sequence[str]) -> _Rows:
    """The rows of a data set on the hub, at a revision; a tag or branch is told as its commit."""
    if config.revision is None:
        raise DataError(
            f"{config.path!r} is no file of a known format ({FORMATS}); a dataset on the hub needs "
            "prompts.revision, so that the run can be repeated"
        )
    asked = (config.path, config.split, config.revision, config.config)
    commit, rows = read_hub(*asked, columns=columns)
    names = list(dict.fromkeys(name for row in rows for name in row))
    if not {*columns} <= {*names}:
        # The error tells which columns there are.
        names = list(dict.fromkeys(name for row in read_hub(*asked)[1] for name in row))
    return _Rows(rows, names, commit)


def _texts(data: _Rows, config: DatasetPrompts, column: str) -> list[str]:
    """A column that has a text in every row."""
    if not data.rows:
        raise DataError(f"prompts.path: {config.path} has no rows")
    if column not in data.names:
        raise DataError(
            f"prompts: {config.path} has no column {column!r}; it has {', '.join(data.names)}"
        )
    values: list[Any] = [row.get(column) for row in data.rows]
    faulty = [
        n
        for n, value in enumerate(values, start=1)
        if not (isinstance(value, str) and value.strip())
    ]
    if faulty:
        raise DataError(
            f"{config.path}: {len(faulty)} of {len(values)} rows have no text in column {column!r}, row "
            f"{faulty[0]} first; remove or fill them"
        )
    torn = [n for n, value in enumerate(values, start=1) if not is_text(value)]
    if torn:
        raise DataError(
            f"{config.path}: row {torn[0]} has half a character in column {column!r} (a lone surrogate, "
            "which is no text); remove or mend it"
        )
    return values
