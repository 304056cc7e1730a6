"""What benchmarks with data of their own share: fields by name, counts and hashes checked, one cache."""

from __future__ import annotations

import hashlib
import json
import os
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar

from opdlab.errors import DataError
from opdlab.evaluator import DataReport, Evaluator
from opdlab.records import Problem, option
from opdlab_evaluators.first_use import compare_or_remember
from opdlab_evaluators.source import FOLDER_VARIABLE, Rows, Source, read

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
        "File or folder with the data; by default what the folder OPDLAB_DATA holds, else the hub.",
    )
    revision: str | None = option(
        None, "Commit or tag on the hub; by default the one that was used here first."
    )
    limit: int | None = option(None, "Only so many problems, from the first; null for all.", ge=1)

    source: ClassVar[Source]

    @property
    def benchmark(self) -> str:
        return self.source.name + (f"/first-{self.limit}" if self.limit else "")

    @abstractmethod
    def normalise(self, row: Mapping[str, Any], number: int) -> Fields:
        """The fields of a row; `number` counts from 1. Raises DataError (see `pick`)."""

    @abstractmethod
    def problem(self, fields: Fields) -> Problem:
        """The problem, with the prompt in the wording that the options ask for."""

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
    rows = list(enumerate(found.rows, start=1))
    fields = [_in_row(number, found, benchmark.normalise, row, number) for number, row in rows]
    report = _report(source, found, fields)
    problems = [
        replace(_in_row(number, found, benchmark.problem, each), benchmark=benchmark.benchmark)
        for number, each in enumerate(fields, start=1)
    ]
    if len({problem.id for problem in problems}) < len(problems):
        raise DataError(f"{source.name}: {found.origin} uses a problem's id twice")
    return problems, report


def _in_row(number: int, found: Rows, make: Callable[..., Any], *given: Any) -> Any:
    """What `make` makes of a row; whatever a malformed one does to it is told as a fault of the data."""
    try:
        return make(*given)
    except DataError:
        raise
    except (AttributeError, LookupError, SyntaxError, TypeError, ValueError) as error:
        raise DataError(
            f"{found.origin}: row {number} is malformed ({type(error).__name__}: {error}); take another "
            "copy"
        ) from error


def _report(source: Source, found: Rows, fields: Sequence[Fields]) -> DataReport:
    content, answers = hashes(fields)
    where = f"{source.name}: {found.origin}"
    if not fields or (source.count is not None and len(fields) != source.count):
        raise DataError(
            f"{where} holds {len(fields)} problems, not {source.count or 'any'}: this is no whole copy "
            "of the benchmark (for part of it set the option `limit`)"
        )
    if source.answers is not None and answers != source.answers:
        raise DataError(
            f"{where}: its gold answers have the hash {answers}, the benchmark's are known to have "
            f"{source.answers}; some were changed, or it is another data set. Take another copy"
        )
    return DataReport(
        benchmark=source.name,
        origin=f"{found.origin}@{found.revision}" if found.revision else found.origin,
        count=len(fields),
        content=content,
        answers=answers,
        standing=_standing(source, found, content, len(fields)),
    )


def _standing(source: Source, found: Rows, content: str, count: int) -> str:
    if content in source.contents:
        return "known copy"
    earlier = compare_or_remember(source.name, found.origin, content, count, found.revision)
    shared = "known answers, " if source.answers else ""
    if earlier is None:
        return f"{shared}content recorded on this first use"
    return f"{shared}content as first used on {earlier.day}"


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
        DataError: it has none of them, or the value is empty.
    """
    for name in names:
        value = row.get(name)
        if value is not None and value != "":
            return value
    raise DataError(
        f"{benchmark}: row {number} has nothing in {' or '.join(names)}; it has the columns "
        f"{', '.join(map(str, row))}"
    )
