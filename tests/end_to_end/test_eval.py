"""`opdlab eval` and `opdlab regrade`: nothing is drawn twice or lost, and no completion changes."""

from __future__ import annotations

import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from end_to_end.laboratory import Laboratory

from opdlab.evaluation.store import SampleSet, ask, sample_sets
from opdlab.records import Generation

PROBLEMS, SAMPLES = 60, 8
LONG = {
    "evaluation__benchmarks": [{"type": "math", "level": "long", "limit": PROBLEMS}],
    "evaluation__samples": SAMPLES,
    "evaluation__batch_rows": 16,
    "rollout__max_new_tokens": 200,
}


def the_set(laboratory: Laboratory) -> SampleSet:
    (folder,) = laboratory.output.glob("evaluations/*")
    (found,) = sample_sets(folder / "samples")
    return found


def content(laboratory: Laboratory) -> dict[tuple[str, int], tuple]:
    return {key: row.drawn for key, row in the_set(laboratory).generations().items()}


def files(laboratory: Laboratory) -> dict[Path, bytes]:
    parts = laboratory.output.glob("evaluations/*/samples/*/generations-*.parquet")
    return {path: path.read_bytes() for path in parts}


def start_and_wait(laboratory: Laboratory, file: Path) -> subprocess.Popen[str]:
    """An evaluation that has stored some of its completions."""
    process = laboratory.start("eval", file, "--model", laboratory.student)
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and process.poll() is None and not files(laboratory):
        time.sleep(0.005)
    assert process.poll() is None, process.communicate()[0]
    return process


def test_an_evaluation_killed_in_the_middle_goes_on_without_repeating_or_losing_a_sample(
    laboratory: Laboratory, make_laboratory
) -> None:
    undisturbed = make_laboratory("undisturbed")
    undisturbed.run("eval", undisturbed.write(**LONG), "--model", undisturbed.student)
    file = laboratory.write(**LONG)

    process = start_and_wait(laboratory, file)
    process.kill()
    process.communicate()
    before = files(laboratory)
    assert 0 < len(content(laboratory)) < PROBLEMS * SAMPLES
    half, whole = (next(one.output.glob("evaluations/*")) for one in (laboratory, undisturbed))
    assert "not finished" in laboratory.run("compare", half, whole, code=1)

    said = laboratory.run("eval", file, "--model", laboratory.student, "--workers", "2")
    assert "ended with code" not in said
    assert content(laboratory) == content(undisturbed)
    rows: list[Generation] = list(the_set(laboratory).generations().values())
    assert len(rows) == PROBLEMS * SAMPLES
    stored = sum(len(part) for part in parts(laboratory))
    assert stored == PROBLEMS * SAMPLES
    assert {path: data for path, data in files(laboratory).items() if path in before} == before
    assert [replace(s, seconds=0.0) for s in the_set(laboratory).samples()] == [
        replace(s, seconds=0.0, checkpoint=the_set(laboratory).checkpoint)
        for s in the_set(undisturbed).samples()
    ]


def parts(laboratory: Laboratory) -> list:
    return [pq.ParquetFile(path).read() for path in files(laboratory)]


def test_ctrl_c_keeps_what_was_drawn(laboratory: Laboratory) -> None:
    file = laboratory.write(**LONG)
    process = start_and_wait(laboratory, file)
    process.send_signal(signal.SIGINT)
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 130, text
    command = f"opdlab eval {file} --model {laboratory.student}"
    assert f"`{command}` continues from here" in text, text
    kept = content(laboratory)
    assert 0 < len(kept) < PROBLEMS * SAMPLES
    laboratory.run("eval", file, "--model", laboratory.student)
    after = content(laboratory)
    assert len(after) == PROBLEMS * SAMPLES
    assert kept.items() <= after.items()


def test_more_samples_are_drawn_beside_those_that_are_there(laboratory: Laboratory) -> None:
    laboratory.run("eval", laboratory.write(), "--model", laboratory.student)
    before = files(laboratory)
    file = laboratory.write(evaluation__samples=5)
    laboratory.run("eval", file, "--model", laboratory.student)
    assert len(content(laboratory)) == 15
    assert before.items() <= files(laboratory).items()


def test_a_new_grader_changes_verdicts_shows_them_and_no_completion(laboratory: Laboratory) -> None:
    laboratory.run("eval", laboratory.write(), "--model", laboratory.student)
    now = the_set(laboratory)
    grades = now.grades(now.asked.grader)
    # As if these samples had been graded by an older grader that let everything pass.
    older = ask(now.folder, replace(now.asked, grader="0"))
    older.add_grades([replace(grade, grader="0", status="correct") for grade in grades.values()])
    before = files(laboratory)
    (folder,) = laboratory.output.glob("evaluations/*")

    text = laboratory.run("regrade", folder)

    assert "6 of 6" in text
    assert " correct to " in text
    assert files(laboratory) == before
    assert the_set(laboratory).samples() == now.samples()
    assert {s.status for s in older.samples()} == {"correct"}
    assert "0 of 6" in laboratory.run("regrade", folder)


@pytest.mark.parametrize("command", ["regrade", "compare"])
def test_a_run_that_is_not_there_is_named(laboratory: Laboratory, command: str) -> None:
    runs = ["gone"] if command == "regrade" else ["gone", "other"]
    assert "no run 'gone'" in laboratory.run(command, *runs, "--output", laboratory.output, code=1)
