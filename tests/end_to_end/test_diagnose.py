"""`opdlab diagnose`: one command from a file, a run's folder or models to a page; stopped, it goes on."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from end_to_end.laboratory import Laboratory, save_model

from opdlab.diagnosis import bootstrap
from opdlab.diagnosis.run import diagnose
from opdlab.diagnosis.work import ROWS, Settings
from opdlab.errors import ConfigError, ModelError

COUNT = ROWS + 6
SMALL = Settings(problems=6, samples=1, cuts=2, bins=8, least=0.8)
WHOLE = {"evaluation__benchmarks": [{"type": "math", "level": "short", "limit": COUNT}]}


@pytest.fixture(autouse=True)
def _few_replicates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "REPLICATES", 40)


def found_in(findings: Path) -> dict[str, Any]:
    return json.loads(findings.read_text())


def test_an_experiment_is_diagnosed_and_what_is_not_there_is_not_identified(
    laboratory: Laboratory, capsys: pytest.CaptureFixture[str]
) -> None:
    # The file's rollouts may be served: a diagnosis samples here, and asks no server.
    away = {"rollout__type": "openai", "rollout__url": "http://127.0.0.1:9/v1"}
    diagnosis = diagnose(str(laboratory.write(**WHOLE, **away)), [], [], None, SMALL)
    diagnosis.show()
    findings = diagnosis.findings
    said = capsys.readouterr().out
    assert "n = 6 problems" in said
    assert "not identified (n = 6 problems" in said
    student, control = found_in(findings)["models"].values()
    assert student["responses"] == control["responses"] == 6
    assert (student["own"], control["own"]) == (False, True)
    assert {row["cut"] for row in student["hand_over"]} >= {0}
    run = laboratory.mlflow_runs()["diagnose small"]
    assert run.info.status == "FINISHED"
    assert run.data.tags["opdlab.role"] == "diagnosis"
    assert run.data.metrics["own/fall"] == control["fall"]["value"]
    sent = {each.path for each in laboratory.client().list_artifacts(run.info.run_id)}
    assert sent == {findings.name, findings.with_suffix(".html").name}


def test_a_stopped_diagnosis_goes_on_and_finds_the_same(laboratory: Laboratory) -> None:
    file = laboratory.write(**WHOLE, rollout__max_new_tokens=60)
    process = laboratory.start("diagnose", file, "--cuts", "2")
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and process.poll() is None:
        if list(laboratory.output.glob("diagnoses/*/seen/*/responses-000000.npz")):
            break
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 130, text
    assert "continues from here" in text
    (folder,) = laboratory.output.glob("diagnoses/*")
    assert not list(folder.glob("*.json"))
    files = {path: path.stat().st_mtime_ns for path in folder.rglob("*.npz")}
    assert files

    settings = Settings(problems=None, samples=1, cuts=2, bins=8, least=0.8)
    findings = diagnose(str(file), [], [], None, settings).findings
    assert findings.parent == folder
    assert {path: path.stat().st_mtime_ns for path in files} == files
    resumed = found_in(findings)
    (folder / "seen").rename(laboratory.folder / "away")
    assert found_in(diagnose(str(file), [], [], None, settings).findings) == resumed


def test_a_run_is_looked_at_before_during_and_after_its_training(
    laboratory: Laboratory, capsys: pytest.CaptureFixture[str]
) -> None:
    laboratory.run("train", laboratory.write(training__steps=4, training__keep_every=2))
    run = laboratory.output / "small-001" / "lgr"
    assert [path.name for path in (run / "students").iterdir()] == ["step-000002"]
    diagnosis = diagnose(str(run), [], [], None, SMALL)
    diagnosis.show()
    found = found_in(diagnosis.findings)
    assert found["students"] == ["student", "step-000002", "lgr"]
    assert list(found["shifts"]) == found["students"][1:]
    assert "the shift is not identified" in " ".join(capsys.readouterr().out.split())
    before, during, after = (found["models"][name]["pair"]["r"] for name in found["students"])
    assert len({before, during, after}) == 3
    with pytest.raises(ConfigError, match=f"folder of several; name one: .*{run}"):
        diagnose(str(run.parent), [], [], None, SMALL)


def test_diagnoses_of_other_students_stand_side_by_side_and_share_what_was_seen(
    laboratory: Laboratory, capsys: pytest.CaptureFixture[str]
) -> None:
    file, other = str(laboratory.write(**WHOLE)), str(laboratory.teacher)
    both = [diagnose(file, [], chosen, None, SMALL) for chosen in ([], [other])]
    for one in both:
        one.show()
    first, second = (one.findings for one in both)
    assert first != second
    assert first.parent == second.parent
    said = capsys.readouterr().out
    for findings, students in ((first, ["student"]), (second, ["teacher"])):
        assert found_in(findings)["students"] == students
        assert findings.with_suffix(".html").is_file()
        assert str(findings) in said


def test_models_may_be_named_and_one_that_does_not_fit_is_refused(laboratory: Laboratory) -> None:
    file, itself = str(laboratory.write(**WHOLE)), str(laboratory.student)
    found = found_in(diagnose(file, [], [itself], itself, SMALL).findings)
    (student,) = found["students"]
    assert found["models"][student]["pair"]["r"] > 0.9999  # its own teacher
    foreign = save_model(laboratory.folder / "foreign", 16, characters="abcdefgh0123456789+-*=;#M")
    with pytest.raises(ModelError, match="do not share a vocabulary"):
        diagnose(file, [], [str(foreign)], None, SMALL)
    with pytest.raises(ConfigError, match="no problems that an answer can be graded on"):
        diagnose(file, ["evaluation.benchmarks=[]"], [], None, SMALL)
