"""Samples on disk: one Parquet file for each checkpoint and benchmark, only ever added to.

    FOLDER/step-80/math%2Fshort.parquet

A row is a completion with one grading of it. Grading again adds rows under another protocol, or later
rows under the same one, and never touches a completion. Any Parquet reader can open the files.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock

from opdlab.errors import DataError, StorageError
from opdlab.records import Problem, Sample

TYPES = {"str": pa.string(), "int": pa.int64(), "str | None": pa.string()}
SCHEMA = pa.schema(
    [pa.field(f.name, TYPES[str(f.type)], nullable="None" in str(f.type)) for f in fields(Sample)]
)
GENERATED = ("seed", "prompt", "completion", "tokens", "stop")
LOCK_TIMEOUT_S = 60


def protocol_hash(
    problems: Sequence[Problem],
    *,
    template: str,
    temperature: float,
    top_p: float,
    max_new_tokens: int,
    samples: int,
    grader_version: str,
) -> str:
    """SHA-256, 16 digits, over all that makes two scores of a benchmark comparable.

    The content of the problems (id, prompt, gold; not their order), the prompt template, the sampling,
    k, and the grader. Neither the checkpoint nor any seed.

    Raises:
        DataError: two problems share an id, or a gold is no JSON value.
    """
    ids = Counter(problem.id for problem in problems)
    twice = [problem for problem, count in ids.items() if count > 1]
    if twice:
        raise DataError(f"{problems[0].benchmark}: the problem id {twice[0]!r} is used twice")
    protocol = {
        "problems": [[p.id, p.prompt, p.gold] for p in sorted(problems, key=lambda p: p.id)],
        "template": template,
        "temperature": float(temperature),
        "top_p": float(top_p),
        "max_new_tokens": max_new_tokens,
        "samples": samples,
        "grader": grader_version,
    }
    try:
        text = json.dumps(protocol, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"a gold answer of {problems[0].benchmark} cannot be stored ({error}); use JSON values"
        ) from error
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_samples(folder: Path | str, samples: Sequence[Sample]) -> None:
    """Add samples to the files of their checkpoints and benchmarks; each file changes whole or not.

    What is there already is left out, so writing twice is harmless.

    Raises:
        DataError: a sample would replace another completion of the same protocol, or cannot be stored
            as text; or the file that is there is damaged.
        StorageError: the disk is full or the folder not writable; earlier samples are still whole.
    """
    groups: dict[Path, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(_path(folder, sample.checkpoint, sample.benchmark), []).append(sample)
    for path, group in groups.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_name(f".{path.name}.lock"), timeout=LOCK_TIMEOUT_S):
                _append(path, group)
        except OSError as error:
            raise StorageError(
                f"{path}: samples were not written ({error}). What was there before is whole; free some "
                "space or choose another output folder, then run the command again"
            ) from error


def read_samples(folder: Path | str) -> list[Sample]:
    """The samples of every checkpoint and benchmark, under the protocol written last, graded last.

    Raises:
        DataError: the folder holds no samples, or a file is damaged.
    """
    paths = sorted(Path(folder).rglob("[!.]*.parquet"))
    if not paths:
        raise DataError(f"{folder} holds no samples: evaluate a checkpoint into it first")
    samples = []
    for path in paths:
        rows = _read(path)
        samples += _latest(row for row in rows if row.protocol == rows[-1].protocol).values()
    return samples


def find_samples(
    folder: Path | str, checkpoint: str, benchmark: str, protocol: str
) -> list[Sample] | None:
    """The samples of one checkpoint and benchmark under one protocol, as graded last; None if none.

    Raises:
        DataError: the file is damaged.
    """
    path = _path(folder, checkpoint, benchmark)
    if not path.exists():
        return None
    return list(_latest(row for row in _read(path) if row.protocol == protocol).values()) or None


def _path(folder: Path | str, checkpoint: str, benchmark: str) -> Path:
    return Path(folder) / _file_name(checkpoint) / f"{_file_name(benchmark)}.parquet"


def _file_name(name: str) -> str:
    """Percent-encoded, so that names with slashes, dots or spaces stay apart and inside the folder."""
    if not name:
        raise DataError("a sample without the name of its checkpoint or benchmark cannot be stored")
    quoted = quote(name, safe="=+, ")
    return f"%2E{quoted[1:]}" if quoted.startswith(".") else quoted


def _latest(rows: Iterable[Sample]) -> dict[tuple[str, str, int], Sample]:
    """The last grading of each sample, samples in order of first appearance."""
    return {(row.protocol, row.problem, row.index): row for row in rows}


def _append(path: Path, samples: Sequence[Sample]) -> None:
    rows = _read(path) if path.exists() else []
    known = _latest(rows)
    before = len(rows)
    for sample in samples:
        key = (sample.protocol, sample.problem, sample.index)
        earlier = known.get(key)
        if earlier == sample:
            continue
        if earlier is not None and any(
            getattr(earlier, f) != getattr(sample, f) for f in GENERATED
        ):
            raise DataError(
                f"{path}: sample {sample.index} of problem {sample.problem} is there with another "
                "completion, and completions are never replaced; use another folder or checkpoint name"
            )
        known[key] = sample
        rows.append(sample)
    if len(rows) > before:
        _replace(path, _table(path, rows))


def _table(path: Path, rows: Sequence[Sample]) -> pa.Table:
    try:
        return pa.Table.from_pylist([vars(row) for row in rows], schema=SCHEMA)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeEncodeError) as error:
        raise DataError(
            f"{path}: a sample cannot be stored ({error}); texts must be valid Unicode and numbers fit "
            "64 bits"
        ) from error


def _replace(path: Path, table: pa.Table) -> None:
    """Write beside, flush to the disk, rename: a crash leaves the old file or the new one."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            pq.write_table(table, file, compression="zstd", write_page_checksum=True)
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


def _read(path: Path) -> list[Sample]:
    remedy = "move the file away and evaluate again, or restore it from a copy"
    try:
        # Not read_table: it takes a folder named lr=0.1 for a column.
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            table = file.read()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is damaged or unreadable ({error}): {remedy}") from error
    if not table.schema.equals(SCHEMA) or not table.num_rows:
        columns = ", ".join(table.schema.names)
        raise DataError(
            f"{path} holds no samples of this version of opdlab (columns {columns}): {remedy}"
        )
    return [Sample(**row) for row in table.to_pylist()]
