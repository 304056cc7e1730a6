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
from store_rows import asked, drawn, fill, graded, kept, many

from opdlab.errors import DataError
from opdlab.evaluation.store import data_hash, read_samples
from opdlab.records import Grade, Problem

WHOLE = {"p0": "10", "p1": "n1"}


def verdicts(folder: Path) -> dict[str, str]:
    """Statuses by problem, in the order of the samples."""
    found: dict[str, str] = {}
    for sample in read_samples(folder):
        found[sample.problem] = found.get(sample.problem, "") + sample.status[0]
    return found


def the_file(folder: Path, kind: str = "generations") -> Path:
    (path,) = folder.rglob(f"{kind}-*.parquet")
    return path


def test_samples_come_back_as_they_were_drawn_and_graded(tmp_path):
    strange = 'naïve 🙂 \x00 \ufffd "\r\n\u2028 ' + "x" * 100_000
    rows = [drawn("p/0", 0, completion=strange, seed=2**63 - 1), drawn("p/0", 1, completion="")]
    one = kept(tmp_path, problems=1)
    one.add_generations(rows)
    one.add_grades(
        [
            Grade("p/0", 0, "grader-1", "wrong", "", ""),
            Grade("p/0", 1, "grader-1", "no_answer", None, "nothing boxed"),
        ]
    )
    first, second = read_samples(tmp_path)
    assert list(one.generations().values()) == rows
    assert (first.completion, first.seed, first.answer) == (strange, 2**63 - 1, "")
    assert (second.status, second.answer, second.reason) == ("no_answer", None, "nothing boxed")
    assert (first.checkpoint, first.benchmark) == ("student", "math")
    assert first.protocol == asked(problems=1).protocol


def test_one_folder_for_each_checkpoint_and_benchmark_whatever_their_names(tmp_path):
    names = [("a/b", "c"), ("a", "b/c"), ("..", "math/short"), ("lr=0.1", "math"), (".", ".x")]
    for checkpoint, benchmark in names:
        fill(kept(tmp_path / "here", checkpoint, benchmark=benchmark), WHOLE)
    assert len(list(tmp_path.rglob("generations-*.parquet"))) == len(names)
    assert len(list((tmp_path / "here").rglob("generations-*.parquet"))) == len(names)
    assert {(s.checkpoint, s.benchmark) for s in read_samples(tmp_path / "here")} == set(names)


def test_later_completions_stand_in_files_of_their_own(tmp_path):
    one = kept(tmp_path)
    one.add_generations(many({"p0": "10"}))
    before = the_file(tmp_path).read_bytes()
    one.add_generations(many({"p0": "10", "p1": "11"}))
    first, second = sorted(tmp_path.rglob("generations-*.parquet"))
    assert first.read_bytes() == before
    assert [pq.ParquetFile(part).metadata.num_rows for part in (first, second)] == [2, 2]
    one.add_generations(many({"p0": "10", "p1": "11"}))
    assert len(list(tmp_path.rglob("generations-*.parquet"))) == 2


def test_an_evaluation_that_is_not_finished_is_never_read_as_one(tmp_path):
    one = kept(tmp_path)
    one.add_generations(many({"p0": "10"}))
    one.add_grades(graded({"p0": "1"}))
    with pytest.raises(DataError, match="not finished: 1 of 4 samples are drawn and graded"):
        read_samples(tmp_path)
    assert [s.status for s in read_samples(tmp_path, partial=True)] == ["correct"]


def test_more_samples_a_problem_are_added_to_those_that_are_there(tmp_path):
    fill(kept(tmp_path), WHOLE)
    fewer = kept(tmp_path, samples=1)
    assert verdicts(tmp_path) == {"p0": "c", "p1": "n"}
    more = kept(tmp_path, samples=3)
    assert fewer.path == more.path
    assert len(more.generations()) == 4
    fill(more, {"p0": "100", "p1": "n10"})
    assert verdicts(tmp_path) == {"p0": "cww", "p1": "ncw"}
    assert more.asked.protocol != fewer.asked.protocol


def test_what_is_withdrawn_counts_no_more_and_may_be_drawn_again(tmp_path):
    one = kept(tmp_path)
    fill(one, {"p0": "11", "p1": "11"})
    assert one.withdraw("drawn otherwise") == 4
    assert not one.generations()
    assert not one.grades("grader-1")
    assert {row.reason for row in one.samples()} == {"drawn otherwise"}
    for file in one.path.glob("generations-*"):
        file.unlink()  # as whoever moves a damaged one away
    one.add_generations([drawn("p0", 0, completion="another")])
    assert [row.completion for row in one.generations().values()] == ["another"]
    assert not one.grades("grader-1"), "a verdict is of the completion before"
    one.add_generations(
        [drawn(problem, index) for problem, index in [("p0", 1), ("p1", 0), ("p1", 1)]]
    )
    one.add_grades(graded({"p0": "00", "p1": "00"}))
    assert {row.status for row in one.samples()} == {"wrong"}
    assert one.withdraw("again") == 4
    assert {row.reason for row in one.samples()} == {"again"}


def test_grading_again_adds_grades_and_touches_no_completion(tmp_path):
    fill(kept(tmp_path), WHOLE)
    before = the_file(tmp_path).read_bytes()
    again = kept(tmp_path, grader="grader-2")
    again.add_grades(graded({"p0": "11", "p1": "11"}, "grader-2"))
    assert verdicts(tmp_path) == {"p0": "cc", "p1": "cc"}
    assert the_file(tmp_path).read_bytes() == before
    kept(tmp_path)
    assert verdicts(tmp_path) == {"p0": "cw", "p1": "nc"}


def test_the_last_grade_of_a_version_counts(tmp_path):
    one = kept(tmp_path)
    fill(one, {"p0": "x0", "p1": "11"})
    one.add_grades(graded({"p0": "1"}))
    assert verdicts(tmp_path) == {"p0": "cw", "p1": "cc"}


@pytest.mark.parametrize("changed", [{"completion": "another"}, {"tokens": 11}, {"seed": 8}])
def test_a_completion_is_never_replaced(tmp_path, changed):
    one = kept(tmp_path)
    fill(one, WHOLE)
    with pytest.raises(DataError, match="sample 1 of problem p0 is there with another completion"):
        one.add_generations([drawn("p1", 2), drawn("p0", 1, **changed)])
    assert len(one.generations()) == 4
    one.add_generations([drawn("p0", 1, seconds=9.0)])


@pytest.mark.parametrize(
    "change",
    [
        {"template": "chat"},
        {"temperature": 0.6},
        {"top_p": 0.95},
        {"max_new_tokens": 81},
        {"data": "data-2"},
        {"seed": 1235},
    ],
)
def test_what_is_drawn_in_another_way_are_other_samples(tmp_path, change):
    fill(kept(tmp_path), WHOLE)
    other = kept(tmp_path, **change)
    assert other.generations() == {}
    fill(other, {"p0": "00", "p1": "00"})
    assert verdicts(tmp_path) == {"p0": "ww", "p1": "ww"}
    kept(tmp_path)
    assert verdicts(tmp_path) == {"p0": "cw", "p1": "nc"}


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
    pq.write_table(table.drop_columns(["problem"]), path)


def retyped(path: Path) -> None:
    table = pq.ParquetFile(path).read()
    pq.write_table(table.cast(table.schema.set(0, pa.field("problem", pa.binary()))), path)


@pytest.mark.parametrize("damage", [cut, empty, foreign, retyped])
@pytest.mark.parametrize("kind", ["generations", "grades"])
def test_a_damaged_file_is_named_with_the_remedy_and_never_written_over(tmp_path, kind, damage):
    one = kept(tmp_path)
    fill(one, WHOLE)
    path = the_file(tmp_path, kind)
    damage(path)
    content = path.read_bytes()
    with pytest.raises(DataError, match=rf"{path.name}.*move the file away and evaluate again"):
        read_samples(tmp_path)
    if kind == "generations":
        with pytest.raises(DataError, match=path.name):
            one.add_generations(many({"p2": "1"}))
    assert path.read_bytes() == content


def test_no_flipped_bit_is_read_as_other_samples(tmp_path):
    fill(kept(tmp_path), WHOLE)
    samples = read_samples(tmp_path)
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
    one = kept(tmp_path)
    fill(one, WHOLE)
    with pytest.raises(DataError, match="a sample cannot be stored"):
        one.add_generations([drawn("p2", **value)])
    assert verdicts(tmp_path) == {"p0": "cw", "p1": "nc"}


def test_a_sample_without_a_name_for_its_checkpoint_is_refused(tmp_path):
    with pytest.raises(DataError, match="without the name of its checkpoint"):
        kept(tmp_path, "")


def random_text(length: int, seed: int = 0) -> str:
    return "".join(random.Random(seed).choices("0123456789abcdef", k=length))


def test_a_write_that_fails_half_way_leaves_what_was_there(tmp_path):
    """RLIMIT_FSIZE makes the kernel refuse the bytes past a limit, as a full disk does."""
    fill(kept(tmp_path), WHOLE)
    script = f"""
        import resource, signal, sys
        sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(__file__).parents[1])!r}]
        from opdlab.errors import StorageError
        from test_store import random_text, drawn, kept
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        try:
            kept({str(tmp_path)!r}).add_generations([drawn("p2", completion=random_text(1_000_000))])
        except StorageError as error:
            sys.exit(0 if "What was there before is whole" in str(error) else str(error))
        sys.exit("nothing failed")
    """
    run_python(script)
    assert verdicts(tmp_path) == {"p0": "cw", "p1": "nc"}
    assert list(tmp_path.rglob("*.tmp")) == []


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
        sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(__file__).parents[1])!r}]
        from pathlib import Path
        from opdlab.errors import StorageError
        from test_store import WHOLE, drawn, fill, kept, random_text, verdicts
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "none", {str(tmp_path)!r}], check=True)
        one = kept({str(tmp_path)!r})
        fill(one, WHOLE)
        try:
            one.add_generations([drawn("p2", completion=random_text(1_000_000))])
        except StorageError as error:
            assert "No space left on device" in str(error), error
        else:
            sys.exit("nothing failed")
        assert verdicts(Path({str(tmp_path)!r})) == {{"p0": "cw", "p1": "nc"}}
        one.add_generations([drawn("p2")])
        assert len(one.generations()) == 5
    """
    run_python(script, "unshare", "--user", "--map-root-user", "--mount")


def run_python(script: str, *prefix: str) -> None:
    command = [*prefix, sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


def append_many(folder: str, started, writes: int, length: int) -> None:
    one = kept(folder)
    for number in range(writes):
        one.add_generations([drawn(f"p{number:06d}", completion=random_text(length, number))])
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
    one = kept(tmp_path)
    process = writer(writes=100_000, length=300_000)
    stop = time.monotonic() + 0.5
    while time.monotonic() < stop:
        assert one.generations()
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    found = one.generations()
    assert [name for name, _ in found] == [f"p{i:06d}" for i in range(len(found))]
    one.add_generations([drawn("after")])
    assert len(one.generations()) == len(found) + 1


def test_two_writers_lose_nothing(tmp_path, writer):
    process = writer(writes=40, length=10)
    one = kept(tmp_path)
    for number in range(40):
        one.add_generations([drawn(f"here-{number}")])
    process.join()
    assert process.exitcode == 0
    assert len(one.generations()) == 80


@pytest.mark.parametrize(
    "change",
    [
        {"template": "chat"},
        {"temperature": 0.6},
        {"top_p": 0.95},
        {"max_new_tokens": 81},
        {"samples": 16},
        {"grader": "grader-2"},
        {"data": "data-2"},
    ],
)
def test_the_protocol_changes_with_everything_that_makes_scores_comparable(change):
    assert asked(**change).protocol != asked().protocol


def test_the_protocol_does_not_change_with_seed_software_or_the_type_of_a_number():
    same = asked(temperature=1, seed=5, software={"torch": "1"})
    assert same.protocol == asked().protocol
    assert len(same.protocol) == 16


PROBLEMS = [Problem("math", "p0", "1+1=", {"value": "2"}), Problem("math", "p1", "2+2=", "4")]


@pytest.mark.parametrize("change", [{"id": "p2"}, {"prompt": "2+2= "}, {"gold": "5"}])
def test_the_data_hash_changes_with_every_part_of_a_problem(change):
    assert data_hash([PROBLEMS[0], replace(PROBLEMS[1], **change)]) != data_hash(PROBLEMS)
    assert data_hash(PROBLEMS[:1]) != data_hash(PROBLEMS)
    assert data_hash(PROBLEMS[::-1]) == data_hash(PROBLEMS)


def test_problems_that_cannot_be_told_apart_or_stored_have_no_hash():
    with pytest.raises(DataError, match="the problem id 'p0' is used twice"):
        data_hash([PROBLEMS[0], PROBLEMS[0]])
    with pytest.raises(DataError, match="a reference answer of math cannot be stored"):
        data_hash([replace(PROBLEMS[0], gold={1, 2})])
