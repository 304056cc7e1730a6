"""Problems that are known: hashes of questions with their reference answers.

`known/BENCHMARK.txt` holds one line a problem, made by `lines` from a copy whose reference answers were
judged right. A hash tells whether a question and an answer belong together; it does not contain them.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from opdlab.errors import DataError

FOLDER = Path(__file__).parent / "known"
PASSAGE, SKETCHED, ENOUGH = 16, 8, 7
"""Letters of a passage; passages of a sketch; how many of them tell that a question contains another."""
_LAYOUT = re.compile(r"\\(?:left|right)(?![a-zA-Z])|\\[,;:! ]|[\s$]")


class Pair(NamedTuple):
    """Hashes of a question and of what its answers are judged by, and the question's `sketch`.

    `conditions` are hashes of all that its tests assert; none where the answer is no program.
    """

    question: str
    answer: str
    sketch: tuple[str, ...] = ()
    conditions: tuple[str, ...] = ()


def pair(question: str, answer: str, conditions: Iterable[str] = ()) -> Pair:
    """Letters and digits of the question alone, so that copies may be worded with other signs."""
    text = _LAYOUT.sub("", answer).replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    short = tuple(sorted({_hash(one)[:8] for one in conditions}))
    return Pair(_hash(_letters(question)), _hash(text), sketch(question), short)


def _letters(question: str) -> str:
    return re.sub(r"[\W_]+", "", question).casefold()


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:12]


def sketch(question: str) -> tuple[str, ...]:
    """Hashes of a few of its passages, which stay where words are added or a few are changed.

    The smallest of all hashes of passages of one length: which ones they are depends on each passage
    alone. Empty for a question that is too short to be told from a part of others.
    """
    hashes = sorted(_passages(question))
    return tuple(f"{each:08x}" for each in hashes[:SKETCHED]) if len(hashes) >= SKETCHED else ()


def _passages(question: str) -> set[int]:
    text = _letters(question).encode(errors="surrogatepass")
    return {zlib.crc32(text[at : at + PASSAGE]) for at in range(len(text) - PASSAGE + 1)}


def lines(pairs: Sequence[Pair]) -> str:
    """The text of a file in `known/`."""
    return "".join(sorted(f"{_line(each)}\n" for each in pairs))


def _line(each: Pair) -> str:
    asserted = ("|", *each.conditions) if each.conditions else ()
    return " ".join((*each[:2], *each.sketch, *asserted))


def _read(line: str) -> Pair:
    told, _, asserted = line.partition("|")
    question, answer, *rest = told.split()
    return Pair(question, answer, tuple(rest), tuple(asserted.split()))


@cache
def known(benchmark: str) -> frozenset[Pair]:
    """The problems of a benchmark; empty where no copy was at hand."""
    file = FOLDER / f"{benchmark}.txt"
    text = file.read_text() if file.exists() else ""
    return frozenset(map(_read, text.splitlines()))


@cache
def _owners() -> dict[str, list[tuple[str, Pair]]]:
    """For each known question its benchmarks and problems."""
    found: dict[str, list[tuple[str, Pair]]] = {}
    for name in _names():
        for each in known(name):
            found.setdefault(each.question, []).append((name, each))
    return found


def _names() -> list[str]:
    return sorted(file.stem for file in FOLDER.glob("*.txt"))


@cache
def _sketched() -> dict[int, list[tuple[str, Pair]]]:
    """For each hash of a sketch the benchmarks and problems that have it."""
    found: dict[int, list[tuple[str, Pair]]] = {}
    for name in _names():
        for each in known(name):
            for one in each.sketch:
                found.setdefault(int(one, 16), []).append((name, each))
    return found


def alike(question: str) -> dict[str, set[Pair]]:
    """By benchmark the known problems whose words nearly all stand in a question, amid others or alone."""
    met = Counter(one for part in _passages(question) for one in _sketched().get(part, ()))
    found: dict[str, set[Pair]] = {}
    for (name, each), count in met.items():
        if count >= ENOUGH:
            found.setdefault(name, set()).add(each)
    return found


def forget() -> None:
    """Read the files anew when they are next asked for."""
    for cached in (known, _owners, _sketched):
        cached.cache_clear()


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
    benchmark: str,
    pairs: Sequence[Pair],
    questions: Sequence[str],
    where: str,
    extends: str | None = None,
) -> None:
    """Refuse problems of another benchmark, in its words or, most of them, with words added.

    Args:
        questions: of the same rows, as they are written.
        extends: a benchmark whose questions this one asks, too, and judges by other tests.

    Raises:
        DataError: naming the other benchmark and the first row.
    """
    own = {each.question for each in known(benchmark)}
    foreign: list[tuple[int, str]] = []
    reworded: list[tuple[int, str]] = []
    for number, (each, question) in enumerate(zip(pairs, questions, strict=True), start=1):
        if each.question in own:
            continue
        owners = _owners().get(each.question, [])
        near = {} if owners else alike(question)
        similar = [] if benchmark in near else [(name, one) for name in near for one in near[name]]
        for names, held in ((foreign, owners), (reworded, similar)):
            other = [name for name, one in held if name != extends or _same_tests(each, one)]
            names += [(number, name) for name in other[:1]]
    if not foreign and 2 * len(reworded) > len(pairs):
        foreign = reworded
    if foreign:
        number, name = foreign[0]
        raise DataError(
            f"{where} holds problems of {name}: row {number} and {len(foreign) - 1} more. Put "
            f"{benchmark}'s own data there"
        )


def _same_tests(each: Pair, other: Pair) -> bool:
    """Whether most of what the tests of a row assert, those of another problem assert, too."""
    shared = set(each.conditions) & set(other.conditions)
    return each.answer == other.answer or 2 * len(shared) > len(each.conditions)


def standing(benchmark: str, pairs: Sequence[Pair], questions: Sequence[str], where: str) -> str:
    """What of the rows is known, in words; empty where nothing is.

    Raises:
        DataError: a known question has another answer, or a row is none of the benchmark's problems or one
            that another row asks.
    """
    own = known(benchmark)
    if not own:
        return ""
    exact = {each.question for each in own}
    # A problem that a row asks in its own words is not what another row means.
    free = own - {one for one in own if one.question in {each.question for each in pairs}}
    met: dict[int, Pair] = {}
    for number, (each, question) in enumerate(zip(pairs, questions, strict=True), start=1):
        known_words = each.question in exact
        near = own & {each} if known_words else free & alike(question).get(benchmark, set())
        if known_words or near:
            right = [one for one in near if one.answer == each.answer]
            if not right:
                other = (
                    "other tests than the known ones"
                    if each.conditions
                    else "another reference answer than the known one"
                )
                raise DataError(
                    f"{where}: row {number} asks a known problem of {benchmark}, with {other}. "
                    "Take another copy"
                )
            met[number] = right[0]
            free -= {right[0]}
    if not met:
        return "no known question, "
    left = Counter(each.answer for each in own - set(met.values()))
    for number, each in enumerate(pairs, start=1):
        if number not in met and not left[each.answer]:
            raise DataError(
                f"{where}: row {number} is no problem of {benchmark}: neither its question nor its "
                "reference answer is known. Take another copy"
            )
        left[each.answer] -= number not in met
    added = sum(pairs[number - 1].question not in exact for number in met)
    other = f" ({added} questions with words added or changed)" if added else ""
    if len(met) == len(pairs):
        return f"known questions and answers{other}, "
    return f"known answers{other}, {len(pairs) - len(met)} of {len(pairs)} questions unknown, "
