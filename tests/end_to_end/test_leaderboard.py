"""`opdlab leaderboard` as a command, on folders of runs and on a real MLflow server."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from end_to_end.servers import MlflowServer
from end_to_end.warm import start
from run_folders import draws, write_model, write_reference, write_run

from opdlab.errors import DataError, TrackingError
from opdlab.files import metrics_file
from opdlab.tracking import mlflow_store, session as tracking
from opdlab.tracking.mlflow_run import MlflowRun
from opdlab_dashboards.pages.leaderboard import leaderboard
from opdlab_dashboards.pages.report import report

BOTH = ("math/short", "code/long")


def opdlab(*arguments: str | Path, code: int = 0) -> str:
    command = start(*arguments, environment={**os.environ, "COLUMNS": "120"})
    text, _ = command.communicate(timeout=240)
    assert command.returncode == code, text
    return text


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("made-up") / "runs"
    group = place / "try-001"
    write_reference(group, "student", {name: draws(0.2) for name in BOTH})
    write_run(group / "opd", {name: draws(0.8, seed=1) for name in BOTH})
    return place


def track(uri: str, runs: Path) -> None:
    """Send runs to MLflow as training does."""
    client = mlflow_store.open_client(uri)
    experiment = mlflow_store.experiment_id(client, "opdlab", runs)
    parent = tracking.start_run(client, experiment, "try-001", None, {})
    for name in ("student", "opd"):
        folder = runs / "try-001" / name
        role = "reference" if name == "student" else "run"
        run = tracking.start_run(client, experiment, name, parent, {"opdlab.role": role})
        rows = [{**row, "time": 0.0} for row in metrics_file.read_metrics(folder)]
        MlflowRun(client, run, folder).metrics(rows)
        client.log_artifacts(run, str(folder / "samples"), "samples")
        for extra in ("manifest.json",):
            if (folder / extra).exists():
                client.log_artifact(run, str(folder / extra))
        client.set_terminated(run)
    client.set_terminated(parent)


def track_eval(uri: str, folder: Path) -> None:
    """Send what was evaluated to MLflow as `opdlab eval` does."""
    client = mlflow_store.open_client(uri)
    experiment = mlflow_store.experiment_id(client, "opdlab", folder)
    run = tracking.start_run(client, experiment, f"eval {folder.name}", None, {})
    client.log_artifacts(run, str(folder / "samples"), "samples")
    client.set_terminated(run)


def tables(runs: list[str], output: str | Path, place: Path) -> list[str]:
    """The tables of a report."""
    report(runs, str(output), str(place))
    return re.findall(r"<table.*?</table>", place.read_text(), re.DOTALL)


def scores(place: Path) -> dict[tuple[str, str], float]:
    content = json.loads((place / "leaderboard.json").read_text())
    return {(r["model"], r["benchmark"]): r["mean_at_k"] for r in content["records"]}


def test_mlflow_and_folders_give_one_leaderboard(runs: Path, tmp_path: Path, store: Path) -> None:
    copy, mine = tmp_path / "mlflow.db", tmp_path / "mine" / "evaluations" / "m"
    copy.write_bytes(store.read_bytes())
    track(f"sqlite:///{copy}", runs)
    # Evaluated twice, the second time with another seed and on more benchmarks: MLflow has two runs.
    write_model(mine, {BOTH[0]: draws(0.3)})
    track_eval(f"sqlite:///{copy}", mine)
    write_model(mine, {name: draws(0.4) for name in BOTH}, seed=5)
    track_eval(f"sqlite:///{copy}", mine)
    leaderboard([str(runs), str(mine)], str(tmp_path / "folder"), [])
    leaderboard([f"sqlite:///{copy}"], str(tmp_path / "file"), [])
    for name in ("leaderboard.csv", "leaderboard.md", "leaderboard.tex", "index.html"):
        found = (tmp_path / "file" / name).read_text()
        assert found == (tmp_path / "folder" / name).read_text()
    assert found.count('"best public"') == 1, "the student before training is not public"
    rows = {row for row, _ in scores(tmp_path / "file")}
    assert rows == {"hub/student", "try-001/opd", "m"}
    for named in ("try-001", "try-001/opd"):
        expected = tables([named], runs, tmp_path / "folder.html")
        assert len(expected) > 1
        assert tables([named], f"sqlite:///{copy}", tmp_path / "file.html") == expected
    with pytest.raises(DataError, match="no run named try-002"):
        report(["try-002"], f"sqlite:///{copy}", str(tmp_path / "none.html"))
    served = tmp_path / "served.db"
    served.write_bytes(store.read_bytes())
    with MlflowServer(served) as server:
        track(server.uri, runs)
        leaderboard([server.uri], str(tmp_path / "server"), [])
    expected = {one: score for one, score in scores(tmp_path / "folder").items() if one[0] != "m"}
    assert len(expected) == 2 * 3
    assert scores(tmp_path / "server") == expected
    records = json.loads((tmp_path / "server" / "leaderboard.json").read_text())["records"]
    costs = {record["model"]: record["teacher_tokens"] for record in records}
    assert costs == {"try-001/opd": 20 * 110, "hub/student": None}


def test_two_users_of_one_store_keep_their_executions_of_one_name_apart(
    tmp_path: Path, store: Path
) -> None:
    copy = tmp_path / "mlflow.db"
    copy.write_bytes(store.read_bytes())
    for number, user in enumerate(("one", "two")):
        group = tmp_path / user / "try-001"
        write_reference(group, "student", {BOTH[0]: draws(0.2)}, execution=user)
        method = {"type": "lgr", "top_k": 4 + number}
        write_run(
            group / "opd", {BOTH[0]: draws(0.8, seed=number)}, method=method, made={"group": user}
        )
        track(f"sqlite:///{copy}", tmp_path / user)
    leaderboard([str(tmp_path / "two"), str(tmp_path / "one")], str(tmp_path / "folder"), [])
    leaderboard([f"sqlite:///{copy}"], str(tmp_path / "file"), [])
    found = (tmp_path / "file" / "index.html").read_text()
    assert found == (tmp_path / "folder" / "index.html").read_text()
    assert '"best public"' not in found
    assert len({name for name, _ in scores(tmp_path / "file")}) == 3, "two runs and their student"
    with pytest.raises(DataError, match="2 executions are named 'try-001'") as refused:
        report(["try-001"], f"sqlite:///{copy}", str(tmp_path / "none.html"))
    seen = []
    for run in re.findall(r"[0-9a-f]{32}", str(refused.value)):
        seen.append(tables([run], f"sqlite:///{copy}", tmp_path / "mine.html"))
    own = [tables(["try-001"], tmp_path / user, tmp_path / "own.html") for user in ("one", "two")]
    assert sorted(map(str, seen)) == sorted(map(str, own))


def test_a_server_that_is_away_and_an_empty_folder_are_refused_with_a_remedy(
    tmp_path: Path,
) -> None:
    with pytest.raises(TrackingError, match="no MLflow server answers"):
        leaderboard(["http://127.0.0.1:9"], str(tmp_path), [])
    assert "opdlab eval" in opdlab("leaderboard", tmp_path, code=1)
