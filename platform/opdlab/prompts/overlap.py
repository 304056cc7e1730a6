"""Prompts that hold problems of the benchmarks: long runs of the same words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from opdlab.plugins import Evaluator, posed

WORDS = 13
"""In a row that two texts share by no chance: the habit since GPT-3 (arXiv:2005.14165, appendix C)."""
SHORTEST = 6
"""Words of a line that is compared as one, because it has no run of `WORDS`; of a whole problem any."""
WORDING_SHARE, WORDING_LEAST = 0.05, 3
"""A run that so many problems of one benchmark share is its wording, and no problem."""
_WORD = re.compile(
    "[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af]|[^\\W_\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af]+"
)
"""Letters and digits; where words have no blanks between them, every character is one."""


def words_of(text: str) -> list[str]:
    """The words of a text, without case, marks and layout."""
    return _WORD.findall(text.casefold())


@dataclass(frozen=True)
class Shared:
    """What a prompt has in common with a problem."""

    benchmark: str
    problem: str
    words: str


class Overlap:
    """Long runs of words of benchmarks' problems, by which prompts are looked through.

    Raises:
        OpdlabError: a benchmark has no data.
    """

    def __init__(self, benchmarks: Sequence[Evaluator]) -> None:
        self.runs: dict[tuple[str, ...], tuple[str, str]] = {}
        for benchmark in benchmarks:
            self._add(benchmark)

    def _add(self, benchmark: Evaluator) -> None:
        problems = posed.problems(benchmark)
        listed = [(problem.id, list(_parts(problem.prompt))) for problem in problems]
        counts = Counter(run for _, parts in listed for run in set(parts))
        most = max(WORDING_LEAST, WORDING_SHARE * len(listed))
        for name, parts in listed:
            for run in parts:
                if counts[run] < most:
                    self.runs.setdefault(run, (benchmark.benchmark, name))

    def __bool__(self) -> bool:
        return bool(self.runs)

    def of(self, text: str) -> Shared | None:
        """The first problem that a text shares a run of words with, or is."""
        for run in _parts(text):
            if (where := self.runs.get(run)) is not None:
                return Shared(*where, " ".join(run))
        return None

    def among(self, texts: Iterable[str]) -> Iterator[tuple[int, Shared]]:
        """Numbers of the texts that share something, and what."""
        for number, text in enumerate(texts):
            if (found := self.of(text)) is not None:
                yield number, found


def _parts(text: str) -> Iterator[tuple[str, ...]]:
    """Every run of `WORDS`; a shorter text as a whole, and its shorter lines."""
    words = words_of(text)
    yield from (tuple(words[first : first + WORDS]) for first in range(len(words) - WORDS + 1))
    if 0 < len(words) < WORDS:
        yield tuple(words)
    lines = text.splitlines()
    for line in lines if len(lines) > 1 else ():
        if SHORTEST <= len(short := words_of(line)) < WORDS:
            yield tuple(short)
