"""Real servers for tests: PostgreSQL and MLflow, started, killed and started again."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

import psutil
import requests
from end_to_end.warm import warm
from mlflow.server.constants import (
    ARTIFACT_ROOT_ENV_VAR,
    ARTIFACTS_DESTINATION_ENV_VAR,
    BACKEND_STORE_URI_ENV_VAR,
    REGISTRY_STORE_URI_ENV_VAR,
    SERVE_ARTIFACTS_ENV_VAR,
)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _programs() -> Path | None:
    """Folder of PostgreSQL's server programs; Debian keeps them off the path."""
    if found := shutil.which("initdb"):
        return Path(found).parent
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return places[-1].parent if places else None


def postgres_missing() -> str:
    """Why no PostgreSQL server can be started here; empty where one can."""
    if _programs() is None:
        return "PostgreSQL's server programs (initdb, pg_ctl) are not installed: apt install postgresql"
    return ""


class Postgres:
    """A PostgreSQL server of its own on a free port; as another user where the tests run as root."""

    def __init__(self) -> None:
        programs = _programs()
        assert programs is not None
        # Not below pytest's folder, which every pytest of this user closes to others when it starts.
        self.folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        self.programs, self.port = programs, free_port()
        self.user = "nobody" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
        self.url = f"postgresql+psycopg://{self.user}@127.0.0.1:{self.port}/postgres"

    def _run(self, *command: str | Path) -> None:
        options = {"user": self.user, "group": "nogroup", "extra_groups": []}
        subprocess.run(
            [self.programs / command[0], *map(str, command[1:])],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd="/",
            **(options if os.getuid() == 0 else {}),  # pyright: ignore[reportArgumentType]
        )

    def start(self) -> None:
        # Killed processes lose nothing that the system has; syncing a slow disk can take minutes.
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -k {self.folder} -c fsync=off"
        log = self.folder / "log"
        self._run(
            *("pg_ctl", "-D", self.folder / "data", "-o", options, "-l", log),
            *("-w", "-t", "180", "start"),
        )

    def kill(self) -> None:
        """`kill -9` of the server; its helpers see that and follow."""
        server = psutil.Process(
            int((self.folder / "data" / "postmaster.pid").read_text().split()[0])
        )
        helpers = server.children()
        server.kill()
        psutil.wait_procs(helpers, 30)

    def __enter__(self) -> Self:
        if os.getuid() == 0:
            shutil.chown(self.folder, self.user)
        self._run("initdb", "-D", self.folder / "data", "-A", "trust", "-U", self.user, "--no-sync")
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._run("pg_ctl", "-D", self.folder / "data", "-m", "immediate", "stop")
        shutil.rmtree(self.folder)


class MlflowServer:
    """An MLflow server on an SQLite file, with what `mlflow server` hands to uvicorn."""

    def __init__(self, store: Path) -> None:
        self.store, self.port = store, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        settings = {
            BACKEND_STORE_URI_ENV_VAR: f"sqlite:///{self.store}",
            REGISTRY_STORE_URI_ENV_VAR: f"sqlite:///{self.store}",
            ARTIFACT_ROOT_ENV_VAR: "mlflow-artifacts:/",
            ARTIFACTS_DESTINATION_ENV_VAR: "./mlartifacts",
            SERVE_ARTIFACTS_ENV_VAR: "true",
        }
        self.process = warm().start(
            ["mlflow.server.fastapi_app:app", "--port", str(self.port)],
            {**os.environ, **settings},
            "uvicorn:main",
            self.store.parent,
        )
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            try:
                if requests.get(f"{self.uri}/health", timeout=2).ok:
                    return
            except requests.RequestException:
                time.sleep(0.2)
        self.kill()
        raise AssertionError("the MLflow server did not start")

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
