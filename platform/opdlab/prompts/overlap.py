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
"""Words that so many problems of one benchmark share are its wording, and no problem: runs of `WORDS`, and
runs of `SHORTEST`, of which at most half of a longer run may consist."""
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
        listed = [(one.id, [*_parts(one.prompt)], words_of(one.prompt)) for one in problems]
        # Two of two problems may share their wording, but one alone tells nothing of it.
        most = max(2, min(WORDING_LEAST, len(listed)), WORDING_SHARE * len(listed))
        counts = Counter(run for _, parts, _ in listed for run in set(parts))
        short = Counter(run for _, _, words in listed for run in {*_runs(words, SHORTEST)})
        wording = {run for run, count in short.items() if count >= most}
        for name, parts, words in listed:
            for run in parts:
                own = len(run) - _covered(run, wording)
                if run == tuple(words) or (counts[run] < most and 2 * own > len(run)):
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
    """Every run of `WORDS`, the text as a whole, and its shorter lines."""
    words = words_of(text)
    yield from _runs(words, WORDS)
    if words:
        yield tuple(words)
    lines = text.splitlines()
    for line in lines if len(lines) > 1 else ():
        if SHORTEST <= len(short := words_of(line)) < WORDS:
            yield tuple(short)


def _runs(words: Sequence[str], length: int) -> Iterator[tuple[str, ...]]:
    return (tuple(words[first : first + length]) for first in range(len(words) - length + 1))


def _covered(run: Sequence[str], wording: set[tuple[str, ...]]) -> int:
    """How many words of a run lie in runs that are wording."""
    covered = set()
    for first, part in enumerate(_runs(run, SHORTEST)):
        if part in wording:
            covered.update(range(first, first + SHORTEST))
    return len(covered)
