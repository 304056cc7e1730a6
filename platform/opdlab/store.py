"""Samples on disk: generations and grades in Parquet files that are only ever added to.

    FOLDER/step-80/math%2Fshort/3f2a.../asked.json               what was asked for, and of whom
                                       /generations-00000.parquet  completions, as they came
                                       /grades-00000.parquet       verdicts, by version of the grader

A folder holds what was drawn under one prompt template, sampling, seed and set of problems. Every file is
written whole beside its place and renamed, so a kill at any moment leaves complete files. Grading again
adds grades and never touches a completion. Any Parquet reader can open the files.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar, final
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock

from opdlab.errors import DataError, StorageError
from opdlab.natural_order import natural
from opdlab.records import Generation, Grade, Problem, Sample

Row = TypeVar("Row", Generation, Grade)
Key = tuple[str, int]
"""Problem and index of a sample."""

TYPES = {
    "str": pa.string(),
    "int": pa.int64(),
    "float": pa.float64(),
    "str | None": pa.string(),
}
ASKED = "asked.json"
LOCK_TIMEOUT_S = 60
REMEDY = "move the file away and evaluate again, or restore it from a copy"


def schema(record: type) -> pa.Schema:
    """Columns of a record's table."""
    return pa.schema(
        [
            pa.field(f.name, TYPES[str(f.type)], nullable="None" in str(f.type))
            for f in fields(record)
        ]
    )


@dataclass(frozen=True)
class Asked:
    """What an evaluation of one benchmark asks for: all that decides what is drawn and how it counts.

    Attributes:
        evaluator: type and options of the benchmark, as an experiment writes them.
        data: hash of the problems (see `data_hash`).
        problems, samples: how many problems, and k.
        grader: version of the grader whose verdicts count.
        software: versions and the model, for the record; not part of any key.
    """

    benchmark: str
    evaluator: Mapping[str, Any]
    data: str
    problems: int
    template: str
    temperature: float
    top_p: float
    max_new_tokens: int
    seed: int
    samples: int
    grader: str
    software: Mapping[str, str]

    @property
    def sampling(self) -> dict[str, Any]:
        """What decides how a completion is drawn, but for its seed."""
        return {
            "template": self.template,
            "temperature": float(self.temperature),
            "top_p": float(self.top_p),
            "max_new_tokens": self.max_new_tokens,
        }

    @property
    def key(self) -> str:
        """Name of the folder: equal for what draws the same completions, whatever k and grader."""
        return _hash({"data": self.data, "seed": self.seed, **self.sampling})

    @property
    def protocol(self) -> str:
        """Hash of all that makes two scores comparable: no seed, and no checkpoint."""
        counted = {"samples": self.samples, "grader": self.grader}
        return _hash({"data": self.data, **self.sampling, **counted})

    def differences(self, other: Asked) -> str:
        """In words, what makes the scores of two evaluations incomparable; empty where nothing does."""
        names = (*self.sampling, "samples", "data", "grader")
        pairs = ((name, getattr(self, name), getattr(other, name)) for name in names)
        return ", ".join(f"{name} {a} and {b}" for name, a, b in pairs if a != b)


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
        return _hash(listed)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"a gold answer of {problems[0].benchmark} cannot be stored ({error}); use JSON values"
        ) from error


def _hash(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@final
class SampleSet:
    """The completions and grades of one checkpoint on one benchmark, drawn in one way."""

    def __init__(self, folder: Path | str, checkpoint: str, asked: Asked) -> None:
        self.checkpoint, self.asked = checkpoint, asked
        names = (file_name(checkpoint), file_name(asked.benchmark))
        self.path = Path(folder).joinpath(*names, asked.key)

    def ask(self) -> None:
        """Write down what is asked for; the latest counts.

        Raises:
            StorageError: the folder is not writable.
        """
        with _writing(self.path):
            content = json.dumps(asdict(self.asked), indent=1, sort_keys=True) + "\n"
            _replace(self.path / ASKED, content.encode())
            # What was asked for last is found by time, and a file system's own clock is coarse.
            now = time.time_ns()
            os.utime(self.path / ASKED, ns=(now, now))

    def generations(self) -> dict[Key, Generation]:
        """Every completion there is, by problem and index; raises DataError if a file is damaged."""
        return {(row.problem, row.index): row for row in _read(self.path, Generation)}

    def grades(self, grader: str) -> dict[Key, Grade]:
        """The last grade of every completion by one version of the grader; raises as `generations`."""
        rows = (row for row in _read(self.path, Grade) if row.grader == grader)
        return {(row.problem, row.index): row for row in rows}

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

    def samples(self, partial: bool = False) -> list[Sample]:
        """The samples asked for with the grades that count, in order of problem and index.

        Raises:
            DataError: some are missing or not graded, unless `partial`; or a file is damaged.
        """
        asked = self.asked
        drawn = {k: row for k, row in self.generations().items() if row.index < asked.samples}
        grades = self.grades(asked.grader)
        total = asked.problems * asked.samples
        graded = sorted(key for key in drawn if key in grades)
        if not partial and len(graded) < total:
            raise DataError(
                f"the evaluation of {self.checkpoint} on {asked.benchmark} is not finished: "
                f"{len(graded)} of {total} samples are drawn and graded ({self.path}). The command that "
                "began it goes on where it stopped"
            )
        protocol = asked.protocol
        return [self._sample(drawn[key], grades[key], protocol) for key in graded]

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


def sample_sets(folder: Path | str) -> list[SampleSet]:
    """What was asked for last of every checkpoint and benchmark.

    Raises:
        DataError: the folder holds no samples, or a file is damaged.
    """
    found: dict[tuple[str, str], tuple[int, SampleSet]] = {}
    for path in sorted(Path(folder).glob(f"*/*/*/{ASKED}")):
        when, one = path.stat().st_mtime_ns, _open(folder, path)
        name = (one.checkpoint, one.asked.benchmark)
        if name not in found or when > found[name][0]:
            found[name] = (when, one)
    if not found:
        raise DataError(f"{folder} holds no samples: evaluate a checkpoint into it first")
    return [one for _, one in found.values()]


def read_samples(folder: Path | str, partial: bool = False) -> list[Sample]:
    """The samples of every checkpoint and benchmark, as asked for last (see `SampleSet.samples`).

    Raises:
        DataError: the folder holds no samples, some are missing unless `partial`, or a file is damaged.
    """
    return [sample for one in sample_sets(folder) for sample in one.samples(partial)]


def _open(folder: Path | str, path: Path) -> SampleSet:
    try:
        asked = Asked(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path} is damaged or unreadable ({error}): {REMEDY}") from error
    return SampleSet(folder, unquoted(path.parents[2].name), asked)


def file_name(name: str) -> str:
    """Percent-encoded, so that names with slashes, dots or spaces stay apart and inside the folder."""
    if not name:
        raise DataError("a sample without the name of its checkpoint or benchmark cannot be stored")
    quoted = quote(name, safe="=+, ")
    return f"%2E{quoted[1:]}" if quoted.startswith(".") else quoted


def unquoted(name: str) -> str:
    """The name that `file_name` encoded."""
    return unquote(name)


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


def _parts(path: Path, record: type) -> list[Path]:
    return sorted(path.glob(f"{record.__name__.lower()}s-*.parquet"), key=natural)


def _add(path: Path, rows: Sequence[Row]) -> None:
    if not rows:
        return
    record = type(rows[0])
    name = f"{record.__name__.lower()}s-{len(_parts(path, record)):05d}.parquet"
    sink = pa.BufferOutputStream()
    pq.write_table(_table(path, rows), sink, compression="zstd", write_page_checksum=True)
    _replace(path / name, sink.getvalue().to_pybytes())


def _table(path: Path, rows: Sequence[Row]) -> pa.Table:
    try:
        return pa.Table.from_pylist([vars(row) for row in rows], schema=schema(type(rows[0])))
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeEncodeError) as error:
        raise DataError(
            f"{path}: a sample cannot be stored ({error}); texts must be valid Unicode and numbers fit "
            "64 bits"
        ) from error


def _replace(path: Path, content: bytes) -> None:
    """Write beside, flush to the disk, rename: a crash leaves no half file."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _read(path: Path, record: type[Row]) -> list[Row]:
    return [row for part in _parts(path, record) for row in _read_part(part, record)]


def _read_part(path: Path, record: type[Row]) -> list[Row]:
    try:
        # Not read_table: it takes a folder named lr=0.1 for a column.
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            # The files are small, and there may be thousands: threads cost more than they bring.
            table = file.read(use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is damaged or unreadable ({error}): {REMEDY}") from error
    if not table.schema.equals(schema(record)) or not table.num_rows:
        columns = ", ".join(table.schema.names)
        raise DataError(
            f"{path} is no table of this version of opdlab (columns {columns}): {REMEDY}"
        )
    return [record(**row) for row in table.to_pylist()]
