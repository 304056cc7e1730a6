"""`opdlab sweep`: workers on one study, watched until every trial is done, then the findings."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

import optuna
from mlflow import MlflowClient

from opdlab import tracking
from opdlab.configuration import Experiment, loader
from opdlab.console import (
    BOLD,
    END,
    RED,
    YELLOW,
    Stopped,
    StopRequest,
    console,
    progress_bar,
    quieten,
)
from opdlab.errors import ConfigError, DataError, TrackingError
from opdlab.files import natural
from opdlab.sweeps import report, study as studies
from opdlab.sweeps.settings import Sweep, sweep_of
from opdlab.sweeps.study import SweepError, patiently
from opdlab.sweeps.view import sweep_view
from opdlab.sweeps.worker import work
from opdlab.tracking import mlflow_page, mlflow_store, unsent
from opdlab.training import (
    CONFIG,
    HOPELESS,
    REFERENCES,
    STOP_S,
    Group,
    Process,
    Zygote,
    cards,
    dismiss,
    last_words,
    starter,
)

POLL_S = 0.5
REBIRTHS = 3  # of a worker that died


def sweep(
    name: str,
    overrides: list[str],
    workers: int,
    cluster: str | None = None,
    devices: int | None = None,
) -> None:
    """Search over an experiment's space; the same command again, here or elsewhere, joins or goes on.

    Args:
        workers: processes on this machine, or tasks of an array on a cluster.
        cluster: `slurm` sends the workers there by submitit, `local` runs them through submitit here.
        devices: GPUs of each worker that no other has; None for as many as a trial trains on, shared where
            there are fewer.

    Raises:
        ConfigError: the experiment has no `sweep` section, there are too few devices, or the workers would
            train at one rollout server.
        SweepError: the database does not answer, the sweep was begun with other settings, or no trial was
            completed.
        Stopped: a signal came; run the same command again to continue.
    """
    quieten()
    config = loader.load_experiment(name, overrides)
    settings = sweep_of(config)
    if settings is None:
        raise ConfigError(f"{name} has no `sweep` section, so there is nothing to search")
    if cluster and config.training.devices > 1:
        raise ConfigError(
            "training.devices: on a cluster a trial trains on one device; set it to 1, or start `opdlab "
            "sweep` on each machine without --cluster"
        )
    cards.require_server_each(config, workers)
    mlflow_store.import_store(mlflow_store.store_uri(Path(config.output), config.tracking.uri))
    with Zygote() as zygote:
        _sweep(config, settings, workers, cluster, devices, zygote)


def _sweep(
    config: Experiment,
    settings: Sweep,
    workers: int,
    cluster: str | None,
    devices: int | None,
    zygote: Zygote,
) -> None:
    here = [] if cluster else cards.here(config.training)
    places = cards.shared_out(here, workers, devices, config.training)
    folder = studies.folder_of(config)
    client, experiment = mlflow_store.open_experiment(
        Path(config.output), config.tracking.uri, config.tracking.experiment
    )
    tracking.reap(client, experiment)
    study = studies.open_study(config, settings)
    loader.save_resolved(config, folder / CONFIG)
    run_id = _sweep_run(config, settings, study, client, experiment)
    record = tracking.Tracker(client, run_id, folder)
    record.begin()
    mlflow_page.save_view(client, experiment, run_id, sweep_view(settings, run_id))
    console.print(f"{BOLD}{config.name}{END}: {settings.trials} trials -> {folder}")
    deadline = time.time() + (settings.time_budget_s or 10**9)
    status = "FAILED"
    with StopRequest() as stop:
        crew = Crew(folder, deadline, stop, study, settings, zygote)
        try:
            crew.references(config, run_id)
            if cluster:
                crew.submit(workers, cluster, devices)
            else:
                crew.work(places)
            report.write(config, settings, study, record, experiment)
            status = "FINISHED"
        except Stopped:
            status = "KILLED"
            raise
        finally:
            send_all(sorted(folder.glob("trial-*"), key=natural))
            record.close(status)


def send_all(trials: Sequence[Path]) -> None:
    """Send what trials could not; what a store does not take now `opdlab sync` sends later."""
    for trial in trials:
        try:
            unsent.send_unsent(trial)
        except DataError as error:
            console.print(f"{YELLOW}{error}{END}", soft_wrap=True)
        except TrackingError:
            return


def _sweep_run(
    config: Experiment, settings: Sweep, study: optuna.Study, client: MlflowClient, experiment: str
) -> str:
    """The run in MLflow that all trials stand under, on whichever machine they run."""
    with studies.locked(config, settings):
        known, tags = study.user_attrs.get("mlflow_run"), {"opdlab.role": "sweep"}
        name = f"{config.name}-sweep"
        found = tracking.run_for(client, experiment, name, None, tags, known)
        if found != known:
            study.set_user_attr("mlflow_run", found)
        return found


@final
@dataclass
class Crew:
    """The processes of a sweep on this machine."""

    folder: Path
    deadline: float
    stop: StopRequest
    study: optuna.Study
    settings: Sweep
    zygote: Zygote
    places: list[str] = field(default_factory=list)
    workers: dict[int, Process] = field(default_factory=dict)
    deaths: int = 0
    said: str = ""

    def references(self, config: Experiment, run_id: str) -> None:
        """Measure student and teacher once, before the first trial."""
        folder = self.folder / REFERENCES
        if all(map(Group(folder).finished, config.evaluation.references)):
            return
        folder.mkdir(exist_ok=True)
        loader.save_resolved(config.model_copy(update={"sweep": None}), folder / CONFIG)
        with console.status("measuring student and teacher"):
            process = starter(self.zygote, config.training)(
                "opdlab.sweeps.trial", [str(folder), run_id], folder / "log.txt", signal.SIGTERM
            )
            while process.poll() is None:
                time.sleep(POLL_S)
                if self.stop.signum is not None:
                    process.terminate()
                    process.wait()
            self.stop.check()
        if process.returncode:
            raise SweepError(f"measuring student and teacher failed: see {folder}/log.txt")

    def work(self, places: list[str]) -> None:
        """Run workers here until all trials of the sweep have ended, on this machine and others.

        Args:
            places: cards of each, see `cards.shared_out`.
        """
        self.places = places[: self.settings.trials]
        for index in range(len(self.places)):
            self._hire(index)
        try:
            with progress_bar() as bar:
                task = bar.add_task("trials", total=self.settings.trials)
                while any(process.poll() is None for process in self.workers.values()):
                    time.sleep(POLL_S)
                    self.stop.check()
                    self._rehire()
                    state = patiently(lambda: studies.progress(self.study), self._say)
                    bar.update(task, completed=len(state.finished))
                    bar.figures = report.standing(self.study, self.settings, state)
        finally:
            # They ask their trials.
            dismiss(self.workers.values(), 2 * STOP_S)

    def submit(self, workers: int, cluster: str, devices: int | None) -> None:
        """Send workers to a cluster as one array, and wait for them."""
        try:
            import submitit
        except ImportError as error:
            raise SweepError(
                "workers on a cluster need submitit: pip install 'opdlab[cluster]'"
            ) from error
        executor = submitit.AutoExecutor(folder=self.folder / "cluster", cluster=cluster)
        minutes = int((self.settings.time_budget_s or 24 * 3600) // 60) + 1
        executor.update_parameters(timeout_min=minutes, name=self.folder.name)
        if devices is not None:
            executor.update_parameters(gpus_per_node=devices)
        jobs = executor.map_array(work, [str(self.folder)] * workers, [self.deadline] * workers)
        console.print(f"workers: {', '.join(job.job_id for job in jobs)}")
        try:
            while not all(job.done() for job in jobs):
                time.sleep(POLL_S)
                self.stop.check()
        except Stopped:
            for job in jobs:
                job.cancel()
            raise
        for job in jobs:
            if (error := job.exception()) is not None:
                console.print(f"{RED}worker {job.job_id}: {error}")

    def _say(self, message: str) -> None:
        """A line on the screen, once; a wait ends here where a stop is asked for."""
        if message != self.said:
            console.print(f"{YELLOW}{message}")
        self.said = message
        self.stop.check()

    def _hire(self, index: int) -> None:
        log = self._log(index)
        log.parent.mkdir(exist_ok=True)
        # Ctrl-C reaches the command alone, which then asks the workers; so does its death.
        self.workers[index] = self.zygote.start(
            "opdlab.sweeps.worker",
            [str(self.folder), str(self.deadline), self.places[index]],
            log,
            signal.SIGTERM,
        )

    def _log(self, index: int) -> Path:
        """Where a worker writes; commands on several machines may share the folder."""
        return self.folder / "workers" / f"{socket.gethostname()}-{os.getpid()}-{index}.txt"

    def _rehire(self) -> None:
        """Put a new worker in the place of one that died."""
        for index, process in list(self.workers.items()):
            if process.poll() not in (None, 0):
                self.deaths += 1
                log = self._log(index)
                if process.returncode == HOPELESS:
                    raise SweepError(last_words(log))
                if self.deaths > REBIRTHS * len(self.workers):
                    raise SweepError(f"workers keep dying; the last words of this one are in {log}")
                console.print(
                    f"{YELLOW}worker {index} died (exit code {process.returncode}); a new one continues"
                )
                self._hire(index)
