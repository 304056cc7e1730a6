"""Samples on disk: whole or not at all, only ever added to."""

from __future__ import annotations

import multiprocessing
import random
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sample_rows import row, rows

from opdlab.errors import DataError
from opdlab.records import Problem
from opdlab.store import find_samples, protocol_hash, read_samples, write_samples

FILE = Path("student") / "math.parquet"


def the_file(folder: Path) -> Path:
    (path,) = folder.rglob("*.parquet")
    return path


def test_samples_come_back_as_they_were_written(tmp_path):
    strange = 'naïve 🙂 \x00 \ufffd "\r\n\u2028 ' + "x" * 100_000
    samples = [
        row("p/0", 0, completion=strange, seed=2**63 - 1),
        row("p/0", 1, "no_answer", completion="", answer=None, reason="nothing boxed"),
        row("p1", 0, "wrong", answer=""),
    ]
    write_samples(tmp_path, samples)
    assert read_samples(tmp_path) == samples


def test_one_file_for_each_checkpoint_and_benchmark(tmp_path):
    names = [("a/b", "c"), ("a", "b/c"), ("..", "math/short"), ("lr=0.1", "math"), (".", ".x")]
    samples = [row(checkpoint=c, benchmark=b) for c, b in names]
    write_samples(tmp_path / "here", samples)
    paths = list((tmp_path / "here").rglob("*.parquet"))
    assert len(paths) == len(names)
    assert len(list(tmp_path.rglob("*.parquet"))) == len(names)
    assert {(s.checkpoint, s.benchmark) for s in read_samples(tmp_path / "here")} == set(names)


def test_later_samples_are_added_and_the_same_ones_left_out(tmp_path):
    write_samples(tmp_path, rows({"p0": "10"}))
    before = the_file(tmp_path).stat().st_mtime_ns
    write_samples(tmp_path, rows({"p0": "10"}))
    assert the_file(tmp_path).stat().st_mtime_ns == before
    write_samples(tmp_path, rows({"p1": "01"}))
    assert read_samples(tmp_path) == [*rows({"p0": "10"}), *rows({"p1": "01"})]


def test_grading_again_adds_a_grade_and_keeps_completion_and_first_grade(tmp_path):
    first = rows({"p0": "00"})
    again = [replace(s, status="correct", grader="grader-2", protocol="protocol-2") for s in first]
    write_samples(tmp_path, first)
    write_samples(tmp_path, again)
    assert read_samples(tmp_path) == again
    assert find_samples(tmp_path, "student", "math", "protocol-1") == first
    assert pq.ParquetFile(the_file(tmp_path)).metadata.num_rows == 4


def test_a_fault_of_the_grader_is_followed_by_the_grade_of_the_second_try(tmp_path):
    write_samples(tmp_path, rows({"p0": "x0"}))
    write_samples(tmp_path, rows({"p0": "1"}))
    assert read_samples(tmp_path) == rows({"p0": "10"})
    assert pq.ParquetFile(the_file(tmp_path)).metadata.num_rows == 3


@pytest.mark.parametrize("changed", [{"completion": "another"}, {"tokens": 11}, {"seed": 8}])
def test_a_completion_is_never_replaced(tmp_path, changed):
    write_samples(tmp_path, rows({"p0": "10"}))
    with pytest.raises(DataError, match="sample 1 of problem p0 is there with another completion"):
        write_samples(tmp_path, [row("p1"), row("p0", 1, "wrong", **changed)])
    assert read_samples(tmp_path) == rows({"p0": "10"})


def test_samples_of_another_protocol_are_other_samples(tmp_path):
    cold = [replace(s, completion="cold", protocol="cold") for s in rows({"p0": "1"})]
    write_samples(tmp_path, rows({"p0": "1"}))
    write_samples(tmp_path, cold)
    assert find_samples(tmp_path, "student", "math", "protocol-1") == rows({"p0": "1"})
    assert find_samples(tmp_path, "student", "math", "cold") == cold
    assert find_samples(tmp_path, "student", "math", "hot") is None
    assert find_samples(tmp_path, "teacher", "math", "cold") is None


def test_an_empty_folder_is_named(tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(DataError, match=f"{folder} holds no samples"):
            read_samples(folder)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def foreign(path: Path) -> None:
    table = pq.ParquetFile(path).read()
    pq.write_table(table.drop_columns(["protocol"]), path)


def retyped(path: Path) -> None:
    table = pq.ParquetFile(path).read()
    pq.write_table(table.cast(table.schema.set(6, pa.field("completion", pa.binary()))), path)


@pytest.mark.parametrize("damage", [cut, empty, foreign, retyped])
def test_a_damaged_file_is_named_with_the_remedy_and_never_written_over(tmp_path, damage):
    write_samples(tmp_path, rows({"p0": "10" * 20}))
    path = the_file(tmp_path)
    damage(path)
    content = path.read_bytes()
    with pytest.raises(DataError, match=rf"{FILE}.*move the file away and evaluate again"):
        read_samples(tmp_path)
    with pytest.raises(DataError, match=str(FILE)):
        write_samples(tmp_path, rows({"p1": "1"}))
    assert path.read_bytes() == content


def test_no_flipped_bit_is_read_as_other_samples(tmp_path):
    samples = rows({"p0": "10", "p1": "n1"})
    write_samples(tmp_path, samples)
    path = the_file(tmp_path)
    content = path.read_bytes()
    refused = 0
    for place in range(0, len(content), 3):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        try:
            assert read_samples(tmp_path) == samples
        except DataError:
            refused += 1
    assert refused > len(content) / 3 / 2


@pytest.mark.parametrize("value", [{"completion": "\ud83d"}, {"seed": 2**63}])
def test_what_cannot_be_stored_is_refused_and_leaves_the_rest_whole(tmp_path, value):
    write_samples(tmp_path, rows({"p0": "1"}))
    with pytest.raises(DataError, match="a sample cannot be stored"):
        write_samples(tmp_path, [row("p1", **value)])
    assert read_samples(tmp_path) == rows({"p0": "1"})


def test_a_sample_without_a_name_for_its_checkpoint_is_refused(tmp_path):
    with pytest.raises(DataError, match="without the name of its checkpoint"):
        write_samples(tmp_path, [row(checkpoint="")])


def random_text(length: int, seed: int = 0) -> str:
    return "".join(random.Random(seed).choices("0123456789abcdef", k=length))


def test_a_write_that_fails_half_way_leaves_what_was_there(tmp_path):
    """RLIMIT_FSIZE makes the kernel refuse the bytes past a limit, as a full disk does."""
    write_samples(tmp_path, rows({"p0": "10"}))
    script = f"""
        import resource, signal, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from opdlab.errors import StorageError
        from test_store import random_text, row, write_samples
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        try:
            write_samples({str(tmp_path)!r}, [row("p1", completion=random_text(1_000_000))])
        except StorageError as error:
            sys.exit(0 if "What was there before is whole" in str(error) else str(error))
        sys.exit("nothing failed")
    """
    run_python(script)
    assert read_samples(tmp_path) == rows({"p0": "10"})
    assert sorted(p.suffix for p in (tmp_path / "student").iterdir()) == [".lock", ".parquet"]


def test_a_full_disk_leaves_what_was_there(tmp_path):
    mounted = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "true"],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("no user namespaces here, so no small file system can be mounted")
    script = f"""
        import subprocess, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from opdlab.errors import StorageError
        from test_store import random_text, read_samples, row, rows, write_samples
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "none", {str(tmp_path)!r}], check=True)
        write_samples({str(tmp_path)!r}, rows({{"p0": "10"}}))
        try:
            write_samples({str(tmp_path)!r}, [row("p1", completion=random_text(1_000_000))])
        except StorageError as error:
            assert "No space left on device" in str(error), error
        else:
            sys.exit("nothing failed")
        assert read_samples({str(tmp_path)!r}) == rows({{"p0": "10"}})
        write_samples({str(tmp_path)!r}, rows({{"p1": "1"}}))
        assert len(read_samples({str(tmp_path)!r})) == 3
    """
    run_python(script, "unshare", "--user", "--map-root-user", "--mount")


def run_python(script: str, *prefix: str) -> None:
    command = [*prefix, sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


def append_many(folder: str, started, writes: int, length: int) -> None:
    for number in range(writes):
        write_samples(folder, [row(f"p{number}", completion=random_text(length, number))])
        started.set()


@pytest.fixture
def writer(tmp_path):
    """Start another process that writes to the folder, one sample a time."""
    spawn = multiprocessing.get_context("spawn")
    processes = []

    def start(writes: int, length: int):
        started = spawn.Event()
        arguments = (str(tmp_path), started, writes, length)
        processes.append(spawn.Process(target=append_many, args=arguments))
        processes[-1].start()
        assert started.wait(120)
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.join()


def test_readers_never_meet_half_a_file_nor_does_a_killed_writer_leave_one(tmp_path, writer):
    process = writer(writes=100_000, length=300_000)
    stop = time.monotonic() + 0.5
    while time.monotonic() < stop:
        assert read_samples(tmp_path)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    found = read_samples(tmp_path)
    assert [s.problem for s in found] == [f"p{i}" for i in range(len(found))]
    write_samples(tmp_path, rows({"after": "1"}))
    assert len(read_samples(tmp_path)) == len(found) + 1


def test_two_writers_lose_nothing(tmp_path, writer):
    process = writer(writes=40, length=10)
    for number in range(40):
        write_samples(tmp_path, [row(f"here-{number}")])
    process.join()
    assert process.exitcode == 0
    assert len(read_samples(tmp_path)) == 80


PROBLEMS = [Problem("math", "p0", "1+1=", {"value": "2"}), Problem("math", "p1", "2+2=", "4")]
PROTOCOL = {
    "template": "none",
    "temperature": 1.0,
    "top_p": 1.0,
    "max_new_tokens": 80,
    "samples": 8,
    "grader_version": "grader-1",
}


@pytest.mark.parametrize(
    "change",
    [
        {"template": "chat"},
        {"temperature": 0.6},
        {"top_p": 0.95},
        {"max_new_tokens": 81},
        {"samples": 16},
        {"grader_version": "grader-2"},
    ],
)
def test_the_protocol_hash_changes_with_every_setting(change):
    assert protocol_hash(PROBLEMS, **{**PROTOCOL, **change}) != protocol_hash(PROBLEMS, **PROTOCOL)


@pytest.mark.parametrize("change", [{"id": "p2"}, {"prompt": "2+2= "}, {"gold": "5"}])
def test_the_protocol_hash_changes_with_every_part_of_a_problem(change):
    changed = [PROBLEMS[0], replace(PROBLEMS[1], **change)]
    assert protocol_hash(changed, **PROTOCOL) != protocol_hash(PROBLEMS, **PROTOCOL)
    assert protocol_hash(PROBLEMS[:1], **PROTOCOL) != protocol_hash(PROBLEMS, **PROTOCOL)


def test_the_protocol_hash_does_not_change_with_order_or_the_type_of_a_number():
    expected = protocol_hash(PROBLEMS, **PROTOCOL)
    assert protocol_hash(PROBLEMS[::-1], **{**PROTOCOL, "temperature": 1}) == expected
    assert len(expected) == 16


def test_problems_that_cannot_be_told_apart_or_stored_have_no_hash():
    with pytest.raises(DataError, match="the problem id 'p0' is used twice"):
        protocol_hash([PROBLEMS[0], PROBLEMS[0]], **PROTOCOL)
    with pytest.raises(DataError, match="a gold answer of math cannot be stored"):
        protocol_hash([replace(PROBLEMS[0], gold={1, 2})], **PROTOCOL)
