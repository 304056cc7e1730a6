"""Samples on disk: generations and grades in Parquet files that are only ever added to.

    FOLDER/measurements.jsonl                     what was asked for, and of whom (`opdlab.identity`)
           3f2a.../generations-00000.parquet      completions, as they came
                   grades-00000.parquet           verdicts, by version of the grader
                   refusals-00000.parquet         what a server gave no usable answer to, and why
                   withdrawals-00000.parquet      whose completions and verdicts so far do not count

A folder of files holds what one model drew under one prompt template, sampling, seed and set of problems.
Every file is written whole beside its place and renamed, so a kill at any moment leaves complete files.
Grading again adds grades and never touches a completion. Any Parquet reader can open the files.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar, final

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock

from opdlab import identity
from opdlab.errors import DataError, StorageError
from opdlab.files import damaged, natural, read_file, write_whole
from opdlab.identity import Measurement, digest
from opdlab.records import REFUSED, Generation, Grade, Problem, Refusal, Sample, Withdrawal

Row = TypeVar("Row", Generation, Grade, Refusal, Withdrawal)
Drawn = TypeVar("Drawn", Generation, Grade)
Key = tuple[str, int]
"""Problem and index of a sample."""

TYPES = {
    "str": pa.string(),
    "int": pa.int64(),
    "float": pa.float64(),
    "str | None": pa.string(),
}
LOCK_TIMEOUT_S = 60
OF = b"opdlab.of"
"""In a file's metadata: the measurement, as its folder is called, that its rows are of."""
REMEDY = "move the file away and evaluate again, or restore it from a copy"


def schema(record: type) -> pa.Schema:
    """Columns of a record's table."""
    return pa.schema(
        [
            pa.field(f.name, TYPES[str(f.type)], nullable="None" in str(f.type))
            for f in fields(record)
        ]
    )


def data_hash(problems: Sequence[Problem]) -> str:
    """SHA-256, 16 digits, of id, prompt and gold of the problems, in whatever order.

    Raises:
        DataError: two problems share an id, or a gold is no JSON value.
    """
    ids = Counter(problem.id for problem in problems)
    twice = [problem for problem, count in ids.items() if count > 1]
    if twice:
        raise DataError(f"{problems[0].benchmark}: the problem id {twice[0]!r} is used twice")
    listed = [[p.id, p.prompt, p.gold] for p in sorted(problems, key=lambda p: p.id)]
    try:
        return digest(listed)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"a reference answer of {problems[0].benchmark} cannot be stored ({error}); use JSON values"
        ) from error


@final
class SampleSet:
    """The completions and grades of one measurement."""

    def __init__(self, folder: Path | str, asked: Measurement) -> None:
        self.folder, self.asked = Path(folder), asked
        self.path = self.folder / asked.draws

    @property
    def checkpoint(self) -> str:
        """Name of what was measured, with the step of training where it was in its midst."""
        return self.asked.checkpoint

    def generations(self) -> dict[Key, Generation]:
        """Every completion that counts, by problem and index; raises DataError if a file is damaged."""
        return {(row.problem, row.index): row for row in self._counting(Generation)}

    def grades(self, grader: str) -> dict[Key, Grade]:
        """The last grade of every completion by one version of the grader; raises as `generations`."""
        rows = (row for row in self._counting(Grade) if row.grader == grader)
        return {(row.problem, row.index): row for row in rows}

    def _counting(self, record: type[Drawn]) -> list[Drawn]:
        """Rows that were not withdrawn after they were written."""
        until = {
            (row.problem, row.index): getattr(row, _name(record))
            for row in _read(self.path, Withdrawal)
        }
        return [
            row
            for part in _parts(self.path, record)
            for row in _read_part(part, record)
            if not until or _number(part) > until.get((row.problem, row.index), -1)
        ]

    @property
    def withdrawals(self) -> int:
        """How many completions were withdrawn, if only to be drawn again."""
        return len(_read(self.path, Withdrawal))

    def refusals(self) -> dict[Key, Refusal]:
        """What a server refused last and nobody has answered since; raises as `generations`."""
        found = {(row.problem, row.index): row for row in _read(self.path, Refusal)}
        drawn = self.generations() if found else {}
        return {key: row for key, row in found.items() if key not in drawn}

    def add_generations(self, rows: Sequence[Generation]) -> None:
        """Add completions; the same ones again are left out.

        Raises:
            DataError: a completion would replace another one, or cannot be stored as text.
            StorageError: the disk is full or not writable; what was there is still whole.
        """
        with _writing(self.path):
            known = self.generations()
            for row in rows:
                earlier = known.get((row.problem, row.index))
                if earlier is not None and earlier.drawn != row.drawn:
                    raise DataError(
                        f"{self.path}: sample {row.index} of problem {row.problem} is there with "
                        "another completion, and completions are never replaced; use another folder or "
                        "checkpoint name"
                    )
            _add(self.path, [row for row in rows if (row.problem, row.index) not in known])

    def add_grades(self, rows: Sequence[Grade]) -> None:
        """Add grades; the last of a version counts. Raises as `add_generations`."""
        with _writing(self.path):
            _add(self.path, rows)

    def add_refusals(self, rows: Sequence[Refusal]) -> None:
        """Add what a server refused; the same reason again is left out. Raises as `add_generations`."""
        with _writing(self.path):
            known = self.refusals()
            _add(self.path, [row for row in rows if known.get((row.problem, row.index)) != row])

    def withdraw(self, reason: str) -> int:
        """Count no completion and no verdict so far: they are refused, and may be drawn again.

        Returns:
            How many there were. Raises as `add_generations`.
        """
        with _writing(self.path):
            drawn = self.generations()
            refused = [
                Refusal(r.problem, r.index, r.seed, r.prompt, reason) for r in drawn.values()
            ]
            last = {_name(one): _last(self.path, one) for one in (Generation, Grade)}
            # In this order: whoever is killed in between has withdrawn nothing.
            _add(self.path, refused)
            _add(self.path, [Withdrawal(*key, **last) for key in drawn])
        return len(drawn)

    def samples(self, partial: bool = False) -> list[Sample]:
        """The samples asked for with the grades that count, in order of problem and index.

        What a server refused is among them, as a fault.

        Raises:
            DataError: some are missing or not graded, unless `partial`; or a file is damaged.
        """
        asked = self.asked
        drawn = {k: row for k, row in self.generations().items() if row.index < asked.samples}
        grades = self.grades(asked.grader)
        total, protocol = asked.problems * asked.samples, asked.protocol
        found = {
            key: self._sample(row, grades[key], protocol)
            for key, row in drawn.items()
            if key in grades
        }
        found |= {
            key: self._refused(row, protocol)
            for key, row in self.refusals().items()
            if row.index < asked.samples
        }
        if not partial and len(found) < total:
            raise DataError(
                f"the evaluation of {self.checkpoint} on {asked.benchmark} is not finished: "
                f"{len(found)} of {total} samples are drawn and graded ({self.path}). Run the "
                f"same command again to finish it"
            )
        return [found[key] for key in sorted(found)]

    def _sample(self, row: Generation, grade: Grade, protocol: str) -> Sample:
        return Sample(
            checkpoint=self.checkpoint,
            benchmark=self.asked.benchmark,
            problem=row.problem,
            index=row.index,
            seed=row.seed,
            prompt=row.prompt,
            completion=row.completion,
            tokens=row.tokens,
            stop=row.stop,
            seconds=row.seconds,
            status=grade.status,
            answer=grade.answer,
            reason=grade.reason,
            grader=grade.grader,
            protocol=protocol,
        )

    def _refused(self, row: Refusal, protocol: str) -> Sample:
        return Sample(
            checkpoint=self.checkpoint,
            benchmark=self.asked.benchmark,
            problem=row.problem,
            index=row.index,
            seed=row.seed,
            prompt=row.prompt,
            completion="",
            tokens=0,
            stop=REFUSED,
            status="server_error",
            answer=None,
            reason=row.reason,
            grader=self.asked.grader,
            protocol=protocol,
        )


def ask(folder: Path | str, wanted: Measurement) -> SampleSet:
    """Write down what is asked for; the latest of a model and benchmark counts.

    Raises:
        StorageError: the folder is not writable.
        DataError: it holds what is no store of this version, or a damaged one.
    """
    place = Path(folder)
    if not wanted.model or not wanted.benchmark:
        raise DataError("a sample without the name of its checkpoint or benchmark cannot be stored")
    _refuse_older(place)
    with _writing(place):
        return SampleSet(place, identity.add(place, wanted))


def sample_sets(folder: Path | str) -> list[SampleSet]:
    """What was asked for last of every model, step and benchmark, in the order of asking.

    Raises:
        DataError: the folder holds no samples, or a file is damaged.
    """
    place = Path(folder)
    found = [SampleSet(place, one) for one in identity.latest(identity.read(place))]
    if not found:
        _refuse_older(place)
        if holds_samples(place):
            remedy = "restore it from a copy, or move the folder away and evaluate again"
            raise damaged(
                place / identity.MEASUREMENTS, "it is gone, and samples are there", remedy
            )
        raise DataError(f"{folder} holds no samples: evaluate a checkpoint into it first")
    return found


def holds_samples(folder: Path) -> bool:
    """Whether completions lie in a folder, whatever its record of them says."""
    return next(folder.glob("*/generations-*.parquet"), None) is not None


def _refuse_older(folder: Path) -> None:
    if next(folder.glob("*/*/*/asked.json"), None) is not None:
        raise DataError(
            f"{folder} was written by an earlier opdlab, which did not record what was measured: move "
            "it away and evaluate again"
        )


def read_samples(folder: Path | str, partial: bool = False) -> list[Sample]:
    """The samples of every checkpoint and benchmark, as asked for last (see `SampleSet.samples`).

    Raises:
        DataError: the folder holds no samples, some are missing unless `partial`, or a file is damaged.
    """
    return [sample for one in sample_sets(folder) for sample in one.samples(partial)]


@contextlib.contextmanager
def _writing(path: Path) -> Any:
    try:
        path.mkdir(parents=True, exist_ok=True)
        with FileLock(path / ".lock", timeout=LOCK_TIMEOUT_S):
            yield
    except OSError as error:
        raise StorageError(
            f"{path}: samples were not written ({error}). What was there before is whole; free some "
            "space or choose another output folder, then run the command again"
        ) from error


def _name(record: type) -> str:
    return f"{record.__name__.lower()}s"


def _parts(path: Path, record: type) -> list[Path]:
    return sorted(path.glob(f"{_name(record)}-*.parquet"), key=natural)


def _number(part: Path) -> int:
    return int(part.stem.rpartition("-")[2])


def _last(path: Path, record: type) -> int:
    """Number of the last file of its kind, -1 for none; of those that were withdrawn as well.

    Not their count: a damaged one that was moved away leaves a gap.
    """
    withdrawn = (getattr(row, _name(record), -1) for row in _read(path, Withdrawal))
    return max([*map(_number, _parts(path, record)), *withdrawn], default=-1)


def _add(path: Path, rows: Sequence[Row]) -> None:
    if not rows:
        return
    record = type(rows[0])
    name = f"{_name(record)}-{_last(path, record) + 1:05d}.parquet"
    sink = pa.BufferOutputStream()
    table = _table(path, rows).replace_schema_metadata({OF: path.name})
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    write_whole(path / name, sink.getvalue().to_pybytes())


def _table(path: Path, rows: Sequence[Row]) -> pa.Table:
    try:
        return pa.Table.from_pylist([vars(row) for row in rows], schema=schema(type(rows[0])))
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeEncodeError) as error:
        raise DataError(
            f"{path}: a sample cannot be stored ({error}); texts must be valid Unicode and numbers fit "
            "64 bits"
        ) from error


def _read(path: Path, record: type[Row]) -> list[Row]:
    return [row for part in _parts(path, record) for row in _read_part(part, record)]


def _read_part(path: Path, record: type[Row]) -> list[Row]:
    try:
        # Not read_table: it takes a folder named lr=0.1 for a column.
        with pq.ParquetFile(
            pa.BufferReader(read_file(path)), page_checksum_verification=True
        ) as file:
            # The files are small, and there may be thousands: threads cost more than they bring.
            table = file.read(use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is damaged or unreadable ({error}): {REMEDY}") from error
    if not table.schema.equals(schema(record)) or not table.num_rows:
        columns = ", ".join(table.schema.names)
        raise DataError(
            f"{path} is not a table of this version of opdlab (columns {columns}): {REMEDY}"
        )
    whose = (table.schema.metadata or {}).get(OF, b"").decode()
    if whose != path.parent.name:
        raise DataError(
            f"{path} holds samples of {whose or 'an unknown measurement'}, not of {path.parent.name}: "
            f"{REMEDY}"
        )
    return [record(**row) for row in table.to_pylist()]
