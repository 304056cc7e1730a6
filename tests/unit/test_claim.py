"""Who is named as the holder of a folder."""

from __future__ import annotations

import json
import os
import socket
import threading
from pathlib import Path

import pytest
from filelock import FileLock

from opdlab.configuration.loader import load_experiment
from opdlab.errors import ModelError, ResumeError
from opdlab.evaluation.measuring import evaluate_alone, open_subject
from opdlab.evaluation.rating import rate
from opdlab.files.claim import LOCK, OWNER, claimed, unfinished
from opdlab.modelling import models


def refused(folder: Path) -> str:
    with pytest.raises(ResumeError) as caught, claimed(folder):
        pass
    return str(caught.value)


def test_a_folder_in_use_names_the_process_that_holds_it(tmp_path: Path) -> None:
    with claimed(tmp_path):
        assert f"process {os.getpid()} on {socket.gethostname()}" in refused(tmp_path)
    assert not (tmp_path / OWNER).exists()


@pytest.mark.parametrize("pid", [os.getpid(), 2**22 + 1], ids=["used_again", "ended"])
def test_the_name_that_a_killed_process_left_is_not_that_of_the_holder(
    tmp_path: Path, pid: int
) -> None:
    left = {"pid": pid, "host": socket.gethostname(), "started": 1.0}
    (tmp_path / OWNER).write_text(json.dumps(left))
    with FileLock(tmp_path / LOCK):
        assert "is in use by another process." in refused(tmp_path)
    with claimed(tmp_path):
        assert f"process {os.getpid()}" in refused(tmp_path)


def test_a_second_evaluation_of_a_model_waits_for_nothing_and_draws_nothing(tmp_path: Path) -> None:
    """It would draw the same answers, and record the same scores as another run."""
    changes = [f"output={tmp_path}", "evaluation.samples=1"]
    config = load_experiment("quickstart", changes)
    _, label = open_subject(config, "embedded:student", "embedded:student", None)
    folder = tmp_path / "evaluations" / label
    folder.mkdir(parents=True)
    with claimed(folder), pytest.raises(ResumeError, match="is in use by process"):
        evaluate_alone(config, "embedded:student")
    assert not (folder / "samples").exists()
    assert not (tmp_path / "mlflow.db").exists()


def test_a_second_rating_into_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"q": "12+3=", "a": "15"}\n')
    prompts = (
        f"{{type: dataset, path: {tmp_path}/p.jsonl, column: q, answer_column: a, grader: exact}}"
    )
    (tmp_path / "r.samples").mkdir()
    with claimed(tmp_path / "r.samples"), pytest.raises(ResumeError, match="is in use by process"):
        rate("quickstart", [f"prompts={prompts}", "runs=[]"], str(tmp_path / "r.jsonl"), 1)
    assert not (tmp_path / "r.jsonl").exists()


def test_a_run_without_its_model_says_who_trains_it(tmp_path: Path) -> None:
    run = tmp_path / "group" / "opd"
    run.mkdir(parents=True)
    assert unfinished(run) == ""
    (run / "config.yaml").write_text("name: x\n")
    with pytest.raises(ModelError, match=r"opd holds no trained model.*began it and --resume"):
        models.locate(str(run), None)
    left = {"pid": os.getpid(), "host": socket.gethostname(), "started": 1.0}
    (run.parent / OWNER).write_text(json.dumps(left))
    assert "--resume" in unfinished(run)
    with claimed(run.parent), pytest.raises(ModelError, match=f"process {os.getpid()} on .* has"):
        models.locate(str(run), None)
    (run.parent / "trial.json").write_text("{}")
    # A sweep has no such option.
    assert unfinished(run).endswith("continue with the command that began it")
    (run / "model").mkdir()
    assert unfinished(run) == ""


def test_a_patient_process_holds_a_folder_when_it_is_free(tmp_path: Path) -> None:
    held, entered = FileLock(tmp_path / LOCK), threading.Event()

    def wait() -> None:
        with claimed(tmp_path, patient=True):
            entered.set()

    held.acquire()
    waiting = threading.Thread(target=wait)
    waiting.start()
    assert not entered.is_set()
    held.release()
    waiting.join(30)
    assert entered.is_set()
