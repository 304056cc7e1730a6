"""One trial of a sweep, in a process of its own: train and measure every seed, leave an outcome.

Run as `python -m opdlab.sweeps.trial FOLDER SWEEP_RUN`; the folder holds `config.yaml`. Started again it
goes on from the checkpoints of the one before. Exit codes: 0 the outcome is written; 128 + signal
stopped or killed; 75 the tracking server does not answer, try later; 65 a file, the disk or a model's
server must be put right.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path

from opdlab import tracking
from opdlab.configuration import Experiment, loader, repeats
from opdlab.console import Stopped, StopRequest, quieten, shown
from opdlab.errors import (
    AwayError,
    DamagedError,
    DataError,
    NonFiniteError,
    OpdlabError,
    PeerError,
    ResumeError,
    ServerError,
    StorageError,
    TrackingError,
    UngradedError,
    of_the_disk,
)
from opdlab.files import claimed, metrics_file
from opdlab.modelling import models
from opdlab.sweeps.outcome import Outcome, Part, read_stop, run_metrics
from opdlab.tracking import mlflow_store
from opdlab.training import (
    CONFIG,
    REFERENCES,
    Group,
    Session,
    follow_group,
    give_up,
    measure_reference,
    rank,
    train_one,
)

TRY_LATER = os.EX_TEMPFAIL
LOST = 128 + signal.SIGKILL
"""Exit code where a process that trained with this one was killed: as if this one had been."""


def run_trial(config: Experiment, folder: Path, sweep_run: str) -> Outcome:
    """Train the seeds of a trial that are not finished yet.

    Raises:
        Stopped: a signal came; the trial can go on later.
        TrackingError: the tracking server does not answer.
    """
    client, experiment = mlflow_store.open_experiment(
        Path(config.output), config.tracking.uri, config.tracking.experiment
    )
    group = Group(folder)
    known, tags = group.state()["parent"], {"opdlab.role": "trial"}
    parent = tracking.run_for(client, experiment, folder.name, sweep_run, tags, known)
    if parent != known:
        group.update(parent=parent)
    record = tracking.Tracker(client, parent, folder)
    record.begin()
    record.params(_params(config, folder))
    status = "KILLED"
    try:
        with StopRequest() as stop:
            trial = asdict(Part.read(folder))
            session = Session(group, client, experiment, parent, stop, trial=trial)
            try:
                outcome = _run(session, config)
            finally:
                session.abandon()
        status = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}[outcome.state]
        if outcome.state == "complete":
            record.set(outcome.means())
        outcome.write(folder)
        return outcome
    finally:
        record.tags({"opdlab.ended": read_stop(folder) or status.lower()})
        record.close(status)


def _params(config: Experiment, folder: Path) -> dict[str, str]:
    """The configuration, and the names that sections were chosen by, such as `method`."""
    flat = dict(tracking.flatten(config.model_dump(mode="json", exclude={"runs", "seed"})))
    chosen = Part.read(folder).parameters
    names = {key: str(value) for key, value in chosen.items() if key not in flat}
    return flat | names


def _run(session: Session, config: Experiment) -> Outcome:
    variants = loader.variants(config)
    for name, _ in variants:
        state = session.group.run(name)
        own = state.get("run_id") == session.parent or session.group.finished(name)
        if len(variants) == 1 and not own:
            # A single seed is the trial: no run of its own below it.
            session.group.update(name, run_id=session.parent, status="scheduled")
        session.schedule(name, {"opdlab.role": "run"})
    session.take_back(session.withdraw())
    seeds = []
    for name, variant in variants:
        if not session.group.finished(name):
            try:
                train_one(session, name, variant)
            except OpdlabError as error:
                return _ended_by(error, name, session.group.folder, seeds)
        if reason := ended_early(session.group.folder / name, variant):
            return Outcome("pruned", f"{name}: {reason}", seeds)
        try:
            seeds.append(run_metrics(session.group.folder / name, variant))
        except UngradedError as error:
            return Outcome("failed", f"{name}: {error}", seeds)
        (session.group.folder / name / "finished").touch()
    return Outcome("complete", "", seeds)


def _ended_by(
    error: OpdlabError, name: str, folder: Path, seeds: list[dict[str, float]]
) -> Outcome:
    """What becomes of a trial whose run `name` ended by an error; one that it can outlive is raised."""
    if isinstance(error, Stopped) and (reason := read_stop(folder)):
        return Outcome("pruned", reason, seeds)
    if isinstance(error, NonFiniteError):
        return Outcome("pruned", f"{name}: {error}", seeds)
    if isinstance(error, (Stopped, DamagedError, PeerError, ResumeError, StorageError, AwayError)):
        # The trial is none the worse: it goes on when the server, the disk or the file is put right, or
        # with new processes where one of several was killed.
        raise error
    return Outcome("failed", f"{name}: {type(error).__name__}: {error}", seeds)


def ended_early(folder: Path, config: Experiment) -> str:
    """Why a run has fewer steps than were asked for; empty where it has them all."""
    last = max((row["step"] for row in metrics_file.read_metrics(folder)), default=0)
    steps = config.training.steps
    if last == steps:
        return ""
    return f"an alarm ended it at step {last:.0f} of {steps} (training.hacking.stop)"


def run_references(config: Experiment, folder: Path, sweep_run: str) -> None:
    """Measure the student before training, and the teacher, once for the whole sweep."""
    client, experiment = mlflow_store.open_experiment(
        Path(config.output), config.tracking.uri, config.tracking.experiment
    )
    with StopRequest() as stop:
        session = Session(Group(folder), client, experiment, sweep_run, stop)
        for reference in config.evaluation.references:
            session.schedule(reference, {"opdlab.role": "reference"})
        session.take_back(session.withdraw())
        for reference in config.evaluation.references:
            measure_reference(session, config, reference)


def main() -> None:
    """Entry of the process."""
    folder, sweep_run = Path(sys.argv[1]), sys.argv[2]
    quieten()
    try:
        config = loader.load_experiment(folder / CONFIG)
        models.use_threads(config.training.threads)
        if rank(config.training):
            follow_group(Group(folder), repeats(loader.variants(config)))
            return
        # The process of a worker that died may need a moment to die as well.
        with claimed(folder, patient=True):
            if folder.name == REFERENCES:
                run_references(config, folder, sweep_run)
            else:
                run_trial(config, folder, sweep_run)
    except Stopped as stopped:
        raise SystemExit(stopped.exit_code) from stopped
    except PeerError as error:
        print(shown(str(error)), file=sys.stderr)
        raise SystemExit(LOST) from error
    except TrackingError as error:
        print(shown(str(error)), file=sys.stderr)
        raise SystemExit(TRY_LATER) from error
    except (DataError, ResumeError, ServerError, StorageError) as error:
        give_up(str(error), error)
    except OSError as error:
        if not error.filename:
            raise
        give_up(of_the_disk(error), error)


if __name__ == "__main__":
    main()
