"""Problems that are known: hashes of questions with their reference answers.

`known/BENCHMARK.txt` holds one line a problem, made by `lines` from a copy whose reference answers were
judged right. A hash tells whether a question and an answer belong together; it does not contain them.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from opdlab.errors import DataError

FOLDER = Path(__file__).parent / "known"
_LAYOUT = re.compile(r"\\(?:left|right)(?![a-zA-Z])|\\[,;:! ]|[\s$]")


class Pair(NamedTuple):
    """Hashes of a question and of what its answers are judged by."""

    question: str
    answer: str


def pair(question: str, answer: str) -> Pair:
    """Letters and digits of the question alone, so that copies may be worded with other signs."""
    text = _LAYOUT.sub("", answer).replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    return Pair(_hash(re.sub(r"[\W_]+", "", question).casefold()), _hash(text))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:12]


def lines(pairs: Sequence[Pair]) -> str:
    """The text of a file in `known/`."""
    return "".join(sorted(f"{each.question} {each.answer}\n" for each in pairs))


@cache
def known(benchmark: str) -> frozenset[Pair]:
    """The problems of a benchmark; empty where no copy was at hand."""
    file = FOLDER / f"{benchmark}.txt"
    text = file.read_text() if file.exists() else ""
    return frozenset(Pair(*line.split()) for line in text.splitlines())


@cache
def _owners() -> dict[str, list[tuple[str, str]]]:
    """For each known question its benchmark and answer."""
    found: dict[str, list[tuple[str, str]]] = {}
    for file in sorted(FOLDER.glob("*.txt")):
        for each in known(file.stem):
            found.setdefault(each.question, []).append((file.stem, each.answer))
    return found


def holder(rows: Sequence[Mapping[str, Any]], benchmark: str) -> str | None:
    """The benchmark that asks a question which stands in one of the rows, in a column of any name."""
    owners = _owners()
    for row in rows:
        texts = [value for value in row.values() if isinstance(value, str)]
        names = [name for text in texts for name, _ in owners.get(pair(text, "").question, [])]
        if names:
            return None if benchmark in names else names[0]
    return None


def refuse_foreign(
    benchmark: str, pairs: Sequence[Pair], where: str, extends: str | None = None
) -> None:
    """Refuse problems of another benchmark.

    Args:
        extends: a benchmark whose questions this one asks, too, and judges by other tests.

    Raises:
        DataError: naming the other benchmark and the first row.
    """
    own = {each.question for each in known(benchmark)}
    foreign = [
        (number, name)
        for number, each in enumerate(pairs, start=1)
        if each.question not in own
        for name, answer in _owners().get(each.question, [])[:1]
        if name != benchmark and (name != extends or answer == each.answer)
    ]
    if foreign:
        number, name = foreign[0]
        raise DataError(
            f"{where} holds problems of {name}: row {number} and {len(foreign) - 1} more. Put "
            f"{benchmark}'s own data there"
        )


def standing(benchmark: str, pairs: Sequence[Pair], where: str) -> str:
    """What of the rows is known, in words; empty where nothing is.

    Raises:
        DataError: a known question has another answer, or a row is none of the benchmark's problems.
    """
    own = known(benchmark)
    questions = {each.question for each in own}
    met = [each for each in pairs if each.question in questions]
    if not met:
        return "no known question, " if own else ""
    for number, each in enumerate(pairs, start=1):
        if each.question in questions and each not in own:
            raise DataError(
                f"{where}: row {number} asks a known problem of {benchmark}, with another reference "
                "answer than the known one. Take another copy"
            )
    left = Counter(each.answer for each in own - set(met))
    for number, each in enumerate(pairs, start=1):
        if each.question not in questions and not left[each.answer]:
            raise DataError(
                f"{where}: row {number} is no problem of {benchmark}: neither its question nor its "
                "reference answer is known. Take another copy"
            )
        left[each.answer] -= each.question not in questions
    if len(met) == len(pairs):
        return "known questions and answers, "
    return f"known answers, {len(pairs) - len(met)} of {len(pairs)} questions unknown, "
