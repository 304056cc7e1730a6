"""Small JSON files are read in one way: what is damaged is named, and no error of Python is shown."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_folders import draws, write_run

from opdlab.configuration import loader
from opdlab.diagnosis import observation
from opdlab.diagnosis.observation import HandOvers
from opdlab.errors import ConfigError, DataError, ModelError
from opdlab.evaluation import comparison
from opdlab.files import metrics_file
from opdlab.files.whole_files import read_json, whole_folder, write_whole
from opdlab.identity import EXECUTION, MEASUREMENTS, Execution, read
from opdlab.modelling import models
from opdlab.sweeps.outcome import CHOSEN, OUTCOME, STOP, Outcome, Part, read_stop
from opdlab.tracking import unsent
from opdlab.training.group import STATE, Group, last_group, open_group
from opdlab.training.processes import Zygote, start_afresh
from opdlab_dashboards.results.measured import find

READERS: dict[str, Callable[[Path], Any]] = {
    EXECUTION: Execution.read,
    OUTCOME: Outcome.read,
    CHOSEN: Part.read,
    STOP: read_stop,
    STATE: lambda folder: Group(folder).state(),
    unsent.UNSENT: unsent.read_unsent,
    models.TRAINED_BY: lambda folder: models.trained_by(str(folder)),
}
DAMAGE = (b"", b"{", b"null", b"[]", b"3", b'"x"', b"\x00\xff", b'{"odd": 1}', b"[" * 99_999)


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_named_by_whoever_reads_it(tmp_path: Path, name: str) -> None:
    for content in DAMAGE:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError) as caught:
            READERS[name](tmp_path)
        assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize("name", [*READERS, MEASUREMENTS, metrics_file.METRICS])
def test_a_folder_a_pipe_or_a_link_that_leads_round_in_place_of_a_file_is_named(
    tmp_path: Path, name: str
) -> None:
    more = {MEASUREMENTS: read, metrics_file.METRICS: metrics_file.read_metrics}
    path = tmp_path / name
    makers = (path.mkdir, lambda: os.mkfifo(path), lambda: path.symlink_to(name))
    for make, remove in zip(makers, (path.rmdir, path.unlink, path.unlink), strict=True):
        make()
        with pytest.raises(DataError) as caught:
            {**READERS, **more}[name](tmp_path)
        assert str(path) in str(caught.value)
        remove()


def test_a_configuration_that_was_cut_at_the_end_of_a_line_is_named(tmp_path: Path) -> None:
    config = loader.load_experiment("quickstart")
    loader.save_resolved(config, tmp_path / "config.yaml")
    lines = (tmp_path / "config.yaml").read_text().splitlines(keepends=True)
    for count in range(1, len(lines)):
        (tmp_path / "config.yaml").write_text("".join(lines[:count]))
        with pytest.raises(ConfigError, match=r"config.yaml: damaged: it was cut.*restore it"):
            loader.load_experiment(tmp_path / "config.yaml")


def test_a_damaged_newest_execution_is_told_and_an_older_one_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = loader.load_experiment("quickstart", [f"output={tmp_path}"])
    older, newest = (open_group(config) for _ in range(2))
    (newest.folder / "config.yaml").write_bytes((newest.folder / "config.yaml").read_bytes()[:300])
    assert last_group(config) == older
    assert f"left out {newest.folder}" in capsys.readouterr().out


def test_a_run_whose_manifest_is_damaged_is_told_beside_its_scores(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / "try-001" / name, {"math/short": draws(0.5)}) for name in "abc"]
    (runs[0] / EXECUTION).write_text("{")
    shutil.copy(runs[2] / EXECUTION, runs[1] / EXECUTION)
    told = list(comparison.unknown_trainings(runs))
    assert [str(run / EXECUTION) in text for run, text in zip(runs, told, strict=False)] == [
        True
    ] * 2
    assert "of another training" in told[1]


@pytest.mark.parametrize("kind", ["generations", "grades"])
def test_samples_of_another_run_in_place_of_its_own_are_refused(tmp_path: Path, kind: str) -> None:
    places = []
    for name in ("opd", "lgr"):
        run = write_run(tmp_path / "try-001" / name, {"math/short": draws(0.5)})
        places += (run / "samples").glob(f"*/{kind}-00000.parquet")
    shutil.copy(places[0], places[1])
    with pytest.raises(DataError, match=re.escape(f"{places[1]} holds samples of ")):
        comparison.read_run(places[1].parent.parent.parent)


def test_samples_whose_record_is_gone_are_told(tmp_path: Path) -> None:
    run = write_run(tmp_path / "try-001" / "opd", {"math/short": draws(0.5)})
    write_run(tmp_path / "try-001" / "lgr", {"math/short": draws(0.5)})
    (run / "samples" / MEASUREMENTS).unlink()
    (fault,) = (one.fault for one in find(tmp_path) if one.fault)
    assert f"{run / 'samples' / MEASUREMENTS} is damaged" in fault


def test_the_file_of_a_model_that_is_damaged_is_named(tmp_path: Path) -> None:
    for name in ("model.safetensors", "tokenizer.json", "tokenizer_config.json", "config.json"):
        folder = shutil.copytree(models.EMBEDDED / "student", tmp_path / name)
        (folder / name).write_bytes((folder / name).read_bytes()[:60])
        load = models.load_tokenizer if name.startswith("tok") else models.load_model
        with pytest.raises(ModelError, match=re.escape(f"{folder / name} is damaged")):
            load(str(folder))


def test_observations_that_changed_on_disk_are_named_and_never_others(tmp_path: Path) -> None:
    whole = HandOvers(*(np.arange(3) for _ in fields(HandOvers)))
    path, other = tmp_path / "student" / "handed-0.npz", tmp_path / "teacher" / "handed-0.npz"
    for place in (path, other):
        observation.save(whole, place)
    content = path.read_bytes()
    for place in range(len(content)):
        flipped = bytearray(content)
        flipped[place] ^= 0xFF
        path.write_bytes(flipped)
        with suppress(DataError):
            found = observation.load(HandOvers, path)
            assert all(map(np.array_equal, vars(found).values(), vars(whole).values()))
    shutil.copy(other, path)
    with pytest.raises(DataError, match=r"it is teacher/handed-0.npz"):
        observation.load(HandOvers, path)


def test_writers_at_once_each_leave_a_whole_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "best.yaml"
    texts = [str(n) * 1000 for n in range(8)]
    with ThreadPoolExecutor(8) as writers:
        list(writers.map(lambda text: [write_whole(path, text) for _ in range(20)], texts))
    assert path.read_text() in texts
    assert [file.name for file in tmp_path.iterdir()] == ["best.yaml"]


def test_a_file_behind_a_link_is_written_and_the_link_stays(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "page.html").symlink_to(tmp_path / "far" / "page.html")
    write_whole(tmp_path / "page.html", "1")
    assert (tmp_path / "page.html").is_symlink()
    assert (tmp_path / "far" / "page.html").read_text() == "1"


def test_a_folder_is_whole_or_as_it_was(tmp_path: Path) -> None:
    place = tmp_path / "model"
    with whole_folder(place) as partial:
        (partial / "a").write_text("1")
    with suppress(KeyboardInterrupt), whole_folder(place) as partial:
        (partial / "b").write_text("2")
        raise KeyboardInterrupt
    assert [path.name for path in place.iterdir()] == ["a"]
    with whole_folder(place) as partial:
        (partial / "c").write_text("3")
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "c"]


def test_metrics_of_another_run_in_place_of_its_own_are_named(tmp_path: Path) -> None:
    for name in ("opd", "lgr"):
        run = write_run(tmp_path / "try-001" / name, {"math/short": draws(0.5)})
        told = (run / metrics_file.METRICS).read_text()
        (run / metrics_file.METRICS).unlink()
        metrics_file.begin_metrics(run, Execution.read(run).id)
        with (run / metrics_file.METRICS).open("a") as file:
            file.write(told)
    run, other = (tmp_path / "try-001" / name for name in ("opd", "lgr"))
    assert not [one.fault for one in find(tmp_path) if one.fault]
    shutil.copy(other / metrics_file.METRICS, run / metrics_file.METRICS)
    (fault,) = (one.fault for one in find(tmp_path) if one.fault)
    assert f"{run / metrics_file.METRICS} is damaged" in fault
    assert f"of the training {Execution.read(other).id}" in fault
    with pytest.raises(DataError, match="delete it: the run then has no curves"):
        metrics_file.begin_metrics(run, Execution.read(run).id)


def test_an_outcome_of_another_trial_is_named(tmp_path: Path) -> None:
    for number in range(2):
        folder = tmp_path / f"trial-{number}"
        folder.mkdir()
        Part("study", number, {"k": number}).claim(folder)
        Outcome("complete", seeds=[{"loss": float(number)}]).write(folder)
        assert Outcome.read(folder) is not None
    shutil.copy(tmp_path / "trial-0" / OUTCOME, tmp_path / "trial-1" / OUTCOME)
    with pytest.raises(DataError, match=r"is of trial 0 of study study.*delete it, and it is made"):
        Outcome.read(tmp_path / "trial-1")


def test_a_folder_in_place_of_a_log_is_named_before_a_process_begins(tmp_path: Path) -> None:
    (tmp_path / "log.txt").mkdir()
    with Zygote() as zygote:
        for start in (zygote.start, start_afresh):
            with pytest.raises(IsADirectoryError, match=r"log\.txt"):
                start("none", [], tmp_path / "log.txt", signal.SIGKILL)


def test_a_field_of_another_type_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "try-001" / "opd", {})
    whole = json.loads((run / EXECUTION).read_text())
    for key in whole:
        (run / EXECUTION).write_text(json.dumps({**whole, key: 3.5}))
        with pytest.raises(DataError, match=f"{EXECUTION} is damaged.*{key} is 3.5"):
            Execution.read(run)


def test_what_a_file_lacks_and_the_remedy_are_said(tmp_path: Path) -> None:
    (tmp_path / "a").write_text('{"b": 1}')
    with pytest.raises(DataError, match=r"a is damaged.*it lacks c, d\): begin again"):
        read_json(tmp_path / "a", "b", "c", "d", remedy="begin again")


def test_what_one_run_cannot_tell_keeps_no_other_from_being_sent(tmp_path: Path) -> None:
    told = {"rows": [], "artifacts": [], "params": {}, "tags": {}, "status": "FINISHED"}
    told |= {"run_id": "x", "uri": f"sqlite:///{tmp_path / 'mlflow.db'}"}
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / unsent.UNSENT).write_text("{")
    with pytest.raises(DataError, match=r"a/unsent.json is damaged"):
        unsent.sync(str(tmp_path))
    assert unsent.read_unsent(tmp_path) is None
    (tmp_path / unsent.UNSENT).write_text(json.dumps(told))
    assert unsent.read_unsent(tmp_path) == told


def test_a_folder_that_is_not_there_is_no_folder_with_nothing_to_send(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="rnus is not a folder"):
        unsent.sync(str(tmp_path / "rnus"))


def test_lines_of_metrics_that_are_none_are_left_out(tmp_path: Path) -> None:
    lines = [
        '{"step": 1, "loss": 2.0}',
        "null",
        "[3]",
        "{",
        '{"loss": 1}',
        '{"step": 2, "loss": NaN}',
        '{"step": NaN}',
        '{"step": true}',
        '{"step": 3, "time": Infinity}',
        '{"step": 1' + "0" * 400 + "}",
        "[" * 99_999,
        '{"step": 4, "loss": "x", "entropy": null, "seconds": [1], "kl": 2}',
    ]
    (tmp_path / metrics_file.METRICS).write_text("\n".join(lines))
    rows = metrics_file.read_metrics(tmp_path)
    assert [row["step"] for row in rows] == [1, 2, 4]
    assert rows[-1] == {"step": 4, "kl": 2}


@pytest.mark.parametrize("content", [b"", b"{", b"null", b"\xff\xfe", b"[" * 99_999])
def test_a_damaged_record_of_measurements_is_named(tmp_path: Path, content: bytes) -> None:
    run = write_run(tmp_path / "try-001" / "opd", {"math/short": draws(0.5)})
    write_run(tmp_path / "try-001" / "lgr", {"math/short": draws(0.5)})
    (run / "samples" / MEASUREMENTS).write_bytes(content)
    (fault,) = (one.fault for one in find(tmp_path) if one.fault)
    assert str(run / "samples" / MEASUREMENTS) in fault


def test_a_run_whose_metrics_are_no_text_is_left_out_and_the_others_stay(tmp_path: Path) -> None:
    for name in ("opd", "lgr"):
        write_run(tmp_path / "try-001" / name, {"math/short": draws(0.5)})
    spoilt = tmp_path / "try-001" / "lgr" / metrics_file.METRICS
    spoilt.write_bytes(b"\xff\xfe\x00\x81" * 9)
    faults = [one.fault for one in find(tmp_path) if one.fault]
    spoilt.unlink()
    spoilt.mkdir()
    faults += [one.fault for one in find(tmp_path) if one.fault]
    assert len(faults) == 2
    assert all("metrics.jsonl is damaged" in fault for fault in faults)
