"""What benchmarks with data of their own share: fields by name, counts and hashes checked, one cache."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar

from opdlab.datafiles import is_text, syntax_tree
from opdlab.errors import DataError
from opdlab.plugins import DataReport, Evaluator
from opdlab.records import Problem, option
from opdlab_evaluators.data import (
    FOLDER_VARIABLE,
    Rows,
    Seen,
    Source,
    compare_or_remember,
    known,
    read,
    remembered,
    today,
)

Fields = Mapping[str, Any]
"""A row in the names of this package: `question` and `gold`, and whatever else its kind needs."""


@dataclass(frozen=True)
class Benchmark(Evaluator):
    """A benchmark whose problems are read from a file or from the hub.

    A subclass names its `source`, turns a row into fields (`normalise`) and fields into a problem
    (`problem`), and grades.
    """

    path: str | None = option(
        None,
        "File or folder with the data; by default the folder OPDLAB_DATA, else the hub.",
    )
    revision: str | None = option(
        None, "Commit or tag on the hub; by default the one first used on this machine."
    )
    limit: int | None = option(
        None, "Use only the first N problems, in the order of their ids; null for all.", ge=1
    )

    source: ClassVar[Source]

    @property
    def benchmark(self) -> str:
        return self.source.name + self._first

    @property
    def _first(self) -> str:
        """How the name tells a part from the whole; so many as there are, are the whole."""
        count = self.source.count
        part = self.limit is not None and (count is None or self.limit < count)
        return f"/first-{self.limit}" if part else ""

    @abstractmethod
    def normalise(self, row: Mapping[str, Any], number: int) -> Fields:
        """The fields of a row; `number` counts from 1. Raises DataError (see `pick`)."""

    @abstractmethod
    def problem(self, fields: Fields) -> Problem:
        """The problem, with the prompt in the wording that the options ask for."""

    def require(self, problems: Sequence[Problem]) -> None:
        """Raise DataError where a whole copy shows that it is another benchmark's."""
        del problems

    def judged_by(self, fields: Fields) -> str:
        """What an answer is held against: the reference answer, or the tests."""
        return str(fields["gold"])

    def other_count(self, count: int) -> str:
        """What a copy of so many problems is, which are not those of a whole one."""
        del count
        return "this is no whole copy of the benchmark"

    def problems(self) -> Sequence[Problem]:
        """See `Evaluator.problems`; raises DataError for missing or changed data."""
        return _checked(self, os.environ.get(FOLDER_VARIABLE))[0][: self.limit]

    def data(self) -> DataReport:
        return _checked(self, os.environ.get(FOLDER_VARIABLE))[1]


@lru_cache(maxsize=32)
def _checked(benchmark: Benchmark, folder: str | None) -> tuple[list[Problem], DataReport]:
    """Problems and report; `folder` is an argument so that another OPDLAB_DATA is read anew."""
    del folder
    source = benchmark.source
    found = read(source, benchmark.path, benchmark.revision)
    fields = _fields(benchmark, found)
    for number, each in enumerate(fields, start=1):
        _in_row(number, found, _hash, [each])
    asked = [f"{each['question']}\n{benchmark.judged_by(each)}" for each in fields]
    _refuse_twice([" ".join(each.split()) for each in asked], found, "holds a problem twice")
    said = _compared(benchmark, found, fields)
    problems = [
        replace(_in_row(number, found, benchmark.problem, each), benchmark=benchmark.benchmark)
        for number, each in enumerate(fields, start=1)
    ]
    _refuse_twice([problem.id for problem in problems], found, "uses a problem's id twice")
    benchmark.require(problems)
    # Recorded last: a copy that is refused is no first use, and another one may take its place.
    report = _report(benchmark, found, fields, said)
    # The order of the rows is no part of the benchmark: a limit takes the same problems of every copy.
    return sorted(problems, key=lambda problem: _natural(problem.id)), report


def _fields(benchmark: Benchmark, found: Rows) -> list[Fields]:
    """What each row holds, in the names of this package; another benchmark's file is told by its name."""
    rows = list(enumerate(found.rows, start=1))
    try:
        return [_in_row(number, found, benchmark.normalise, row, number) for number, row in rows]
    except DataError as error:
        name = benchmark.source.name
        other = known.holder(found.rows, name)
        if other is None or other == benchmark.source.extends:
            raise
        raise DataError(
            f"{name}: {found.origin} holds problems of {other}. Put {name}'s own data there ({error})"
        ) from error


def _refuse_twice(keys: Sequence[str], found: Rows, what: str) -> None:
    first: dict[str, int] = {}
    for number, key in enumerate(keys, start=1):
        if key in first:
            raise DataError(
                f"{found.origin} {what}: rows {first[key]} and {number}. Remove one, or take another copy"
            )
        first[key] = number


def _natural(text: str) -> list[str | int]:
    """A key that puts `q2` before `q10`."""
    parts = re.split(r"([0-9]+)", text)
    return [int(part) if index % 2 else part for index, part in enumerate(parts)]


def numbered(value: Any) -> str | None:
    """The number at the end of an id, which copies share: 7 of 7, 7.0, `Mbpp/7` and `test_7`."""
    found = re.fullmatch(r"(?:.*[^0-9.])?0*([0-9]+)(?:\.0)?", str(value).strip())
    return None if found is None else found[1]


def question_id(question: str) -> str:
    """The id of a problem that copies number in ways of their own: a hash of its question."""
    return hashlib.sha256(" ".join(question.split()).encode()).hexdigest()[:12]


def _in_row(number: int, found: Rows, make: Callable[..., Any], *given: Any) -> Any:
    """What `make` makes of a row; whatever a malformed one does to it is told as a fault of the data."""
    try:
        return make(*given)
    except DataError as error:
        raise DataError(f"{found.origin}: {error}") from error
    except (AttributeError, LookupError, SyntaxError, TypeError, ValueError) as error:
        raise DataError(
            f"{found.origin}: row {number} is malformed ({type(error).__name__}: {error}); take another "
            "copy"
        ) from error


def _compared(benchmark: Benchmark, found: Rows, fields: Sequence[Fields]) -> str:
    """What of the rows is known, in words; raises DataError for what is no copy of the benchmark."""
    source = benchmark.source
    where = f"{source.name}: {found.origin}"
    questions = [str(row["question"]) for row in fields]
    pairs = [
        known.pair(question, benchmark.judged_by(row), row.get("_conditions", ()))
        for question, row in zip(questions, fields, strict=True)
    ]
    known.refuse_foreign(source.name, pairs, questions, where, source.extends)
    if not fields or (source.count is not None and len(fields) != source.count):
        advice = "" if benchmark.limit else " (for part of it set the option `limit`)"
        raise DataError(
            f"{where} holds {len(fields)} problems, not {source.count or 'any'}: "
            f"{benchmark.other_count(len(fields))}{advice}"
        )
    said = known.standing(source.name, pairs, questions, where)
    answers = hashes(fields)[1]
    if source.answers is not None and answers != source.answers:
        raise DataError(
            f"{where}: its reference answers have the hash {answers}, the benchmark's are known to have "
            f"{source.answers}; some were changed, or it is another data set. Take another copy"
        )
    return said


def _report(benchmark: Benchmark, found: Rows, fields: Sequence[Fields], said: str) -> DataReport:
    source = benchmark.source
    content, answers = hashes(fields)
    seen = Seen(content, len(fields), found.revision, today())
    return DataReport(
        benchmark=source.name,
        origin=f"{found.origin}@{found.revision}" if found.revision else found.origin,
        count=len(fields),
        content=content,
        answers=answers,
        standing=_standing(source, found, seen, said),
    )


def _standing(source: Source, found: Rows, seen: Seen, said: str) -> str:
    """What the contents were compared with; they are recorded, so that a later change is seen."""
    whole = seen.content in source.contents
    first = remembered(source.name, found.origin)
    # A link may lead elsewhere tomorrow, and what it leads to may be named without it.
    uses = [
        compare_or_remember(source.name, name, seen, expect_change=whole) for name in found.names
    ]
    earlier = next((each for each in uses if each is not None), None)
    if whole:
        return "known copy"
    # The answers as a whole are known, too, where a question is not.
    if source.answers and not said.startswith("known "):
        said = f"known answers, {said}"
    if earlier is not None:
        return f"{said}content as first used on {earlier.day}"
    if first is not None and first.content != seen.content:
        said += f"another content than at revision {first.revision}, "
    return f"{said}content recorded on this first use"


def hashes(fields: Sequence[Fields]) -> tuple[str, str | None]:
    """SHA-256, 16 digits, of all that the rows hold but their ids, and of their golds alone.

    Neither depends on the order of the rows. A field whose name begins with `_` is not counted: it is
    large, and another one holds its hash.
    """
    content = [
        {name: value for name, value in row.items() if name != "id" and not name.startswith("_")}
        for row in fields
    ]
    golds = [row["gold"] for row in fields if row.get("gold") is not None]
    return _hash(content), _hash(golds) if golds else None


def _hash(values: Sequence[Any]) -> str:
    listed = sorted(json.dumps(value, sort_keys=True, allow_nan=False) for value in values)
    return hashlib.sha256("\n".join(listed).encode()).hexdigest()[:16]


def pick(row: Mapping[str, Any], names: Sequence[str], benchmark: str, number: int) -> Any:
    """The value of the first of `names` that the row has.

    Raises:
        DataError: it has none of them, or the value is empty, blank, no number, or no text.
    """
    for name in names:
        value = row.get(name)
        if isinstance(value, bytes):
            raise DataError(
                f"{benchmark}: row {number} has bytes in {name} that are no UTF-8 text; take another copy"
            )
        if isinstance(value, str) and not is_text(value):
            raise DataError(
                f"{benchmark}: row {number} has half a character in {name} (a lone surrogate, which is no "
                "text); take another copy"
            )
        blank = value.strip() == "" if isinstance(value, str) else value is None
        if not (blank or value != value):  # NaN, which other programs write for a missing value
            return value
    raise DataError(
        f"{benchmark}: row {number} has nothing in {' or '.join(names)}; it has the columns "
        f"{', '.join(map(str, row))}"
    )


def texts(value: Any) -> list[str]:
    """A list of texts; a table in CSV holds it as the text of one.

    Raises:
        ValueError: it is none.
    """
    found = (
        ast.literal_eval(syntax_tree(value.strip(), "eval")) if isinstance(value, str) else value
    )
    if not isinstance(found, list | tuple) or not all(isinstance(each, str) for each in found):
        raise ValueError(f"{value!r:.80} is no list of texts")
    return list(found)
