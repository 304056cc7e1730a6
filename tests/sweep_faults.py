"""A sweep of 60 trials by four workers through kills of everything it has: `python tests/sweep_faults.py`.

Arguments: `sqlite` or `postgres`, how many trials. Prints a row for each kill, then what was counted.
"""

from __future__ import annotations

import collections
import contextlib
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from end_to_end.laboratory import Laboratory
from end_to_end.servers import MlflowServer, Postgres
from end_to_end.sweeps import (
    assert_tracked,
    assert_whole,
    at_once,
    first_number,
    processes,
    sweep_file,
    training,
    trials_of,
    wait_until,
)
from mlflow import MlflowClient
from optuna.trial import TrialState

WORKERS = 4
AWAY_S = 5  # for a server before it comes again


@dataclass
class Faults:
    """Kills, one after the other, and what was seen of each."""

    laboratory: Laboratory
    command: list[str]
    server: MlflowServer
    database: Postgres | None
    rows: list[tuple[str, int, str]] = field(default_factory=list)
    chance: random.Random = field(default_factory=lambda: random.Random(0))

    def begin(self) -> None:
        self.sweep = self.laboratory.start(*self.command)

    def complete(self) -> int:
        return len(list((self.laboratory.output / "small-sweep").glob("trial-*/outcome.json")))

    def a_process(self, role: str) -> str:
        wait_until(lambda: training(self.laboratory), "a trial in training")
        victim = self.chance.choice(wait_until(lambda: processes(self.laboratory, role), role))
        family = [victim, *victim.children(recursive=True)]
        victim.kill()
        wait_until(lambda: not any(map(alive, family)), "the end of its family", 20)
        return f"{len(family) - 1} of its processes went with it"

    def a_server(self, server: MlflowServer | Postgres) -> str:
        wait_until(lambda: training(self.laboratory), "a trial in training")
        server.kill()
        time.sleep(AWAY_S)
        server.start()
        assert self.sweep.poll() is None
        return f"away for {AWAY_S} s; the same processes went on"

    def the_command(self, kill: bool) -> str:
        wait_until(lambda: training(self.laboratory), "a trial in training")
        (self.sweep.kill if kill else self.sweep.terminate)()
        self.sweep.communicate(timeout=120)
        assert self.sweep.returncode == (-9 if kill else 143)
        living = len(processes(self.laboratory))
        wait_until(lambda: not processes(self.laboratory), "the end of all processes", 120)
        self.begin()
        return f"{living} processes left at its end, soon none; the same command went on"

    def all(self) -> dict[str, Callable[[], str]]:
        database = self.database
        return {
            "trial": lambda: self.a_process("opdlab-trial"),
            "worker": lambda: self.a_process("opdlab-worker"),
            "MLflow server": lambda: self.a_server(self.server),
            **({"database server": lambda: self.a_server(database)} if database else {}),
            "the command, kill -9": lambda: self.the_command(kill=True),
            "zygote": lambda: self.a_process("opdlab-zygote"),
            "another trial": lambda: self.a_process("opdlab-trial"),
            "the command, SIGTERM": lambda: self.the_command(kill=False),
            **({"database server again": lambda: self.a_server(database)} if database else {}),
            "another worker": lambda: self.a_process("opdlab-worker"),
        }

    def run(self, trials: int) -> None:
        self.begin()
        faults = self.all()
        for index, (name, fault) in enumerate(faults.items()):
            due = (index + 1) * trials // (len(faults) + 1)
            wait_until(lambda due=due: self.complete() >= due, f"{due} trials", 1200)
            done = self.complete()
            self.rows.append((name, done, fault()))
            print(*self.rows[-1], sep=" | ", flush=True)
        text, _ = self.sweep.communicate(timeout=1200)
        assert self.sweep.returncode == 0, text


def alive(process: object) -> bool:
    return process.is_running() and process.status() != "zombie"  # pyright: ignore[reportAttributeAccessIssue]


def check(laboratory: Laboratory, server: MlflowServer, trials: int, storage: str | None) -> str:
    """Every trial complete, once, with the parameters it was first given; in MLflow, too."""
    assert_whole(laboratory, trials, storage)
    laboratory.run("sync", "--output", laboratory.output)
    assert_tracked(MlflowClient(server.uri), trials)
    tries = collections.defaultdict(list)
    for trial in trials_of(laboratory, storage):
        tries[first_number(trial)].append(trial)
    again = [group for group in tries.values() if len(group) > 1]
    for group in again:
        asked = [trial.params for trial in group if trial.params]
        assert all(params == asked[0] for params in asked)
    states = collections.Counter(t.state.name for group in tries.values() for t in group)
    assert states[TrialState.COMPLETE.name] == trials
    most = max(map(len, tries.values()))
    together = at_once(trials_of(laboratory, storage))
    assert together >= 2
    counted = f"{trials} complete, {together} at once, {len(again)} tried again"
    return f"{counted}, at most {most} tries; {dict(states)}"


def main(kind: str = "sqlite", trials: str = "60") -> None:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        store = folder / "store.db"
        MlflowClient(f"sqlite:///{store}").search_experiments()
        laboratory = Laboratory(folder / "laboratory", store)
        database = stack.enter_context(Postgres()) if kind == "postgres" else None
        storage = database.url if database else None
        server = stack.enter_context(MlflowServer(laboratory.output / "mlflow.db"))
        file = sweep_file(laboratory, trials=int(trials), storage=storage, sampler="random")
        command = ["sweep", str(file), f"tracking.uri={server.uri}", "--workers", str(WORKERS)]
        faults = Faults(laboratory, command, server, database)
        try:
            faults.run(int(trials))
        finally:
            if faults.sweep.poll() is None:
                faults.sweep.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    faults.sweep.communicate(timeout=60)
        print(check(laboratory, server, int(trials), storage))


if __name__ == "__main__":
    main(*sys.argv[1:])
