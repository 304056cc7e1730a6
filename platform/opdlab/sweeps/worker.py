"""A worker of a sweep: asks for a trial, runs it in a process of its own, reports, tells, asks again.

Run as `python -m opdlab.sweeps.worker FOLDER DEADLINE CARDS`. Whatever dies - a trial's process, a worker,
the database, the tracking server - the trial goes on from its checkpoints, once.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, final

import optuna
from optuna.exceptions import TrialPruned, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from opdlab.configuration import Experiment, Variant, loader
from opdlab.console import Stopped, StopRequest, shown
from opdlab.errors import ConfigError, DataError, of_the_disk
from opdlab.sweeps import study as studies
from opdlab.sweeps.outcome import OUTCOME, STOP, Outcome, Part, write_stop
from opdlab.sweeps.settings import Sweep, sweep_of
from opdlab.sweeps.space import chosen_values
from opdlab.sweeps.study import SuspendedTrialError, SweepError, patiently
from opdlab.sweeps.trial import TRY_LATER
from opdlab.sweeps.unfit import unfit_trials
from opdlab.sweeps.watch import Watch, broken
from opdlab.training import (
    CONFIG,
    HOPELESS,
    LOG,
    STOP_S,
    VISIBLE,
    Zygote,
    end,
    give_up,
    last_words,
    starter,
    state_of,
)

POLL_S = 0.5
REPETITIONS = 20  # of earlier parameters, one after the other, before a point is drawn at random
MISSES = 3  # trials without a metric that is judged by, before the sweep ends
RESTARTS = 2  # of a process that was killed, before its trial counts as failed


@final
class FailedTrialError(Exception):
    """A trial ended with an error of its own; the sweep goes on without it."""


def trial_config(config: Experiment, sweep: Sweep, chosen: Mapping[str, Any]) -> Experiment:
    """The experiment of one trial: a run a seed, references left to the sweep."""
    varied = loader.with_values(config, chosen_values(sweep.space, chosen))
    return varied.model_copy(
        update={
            "runs": [Variant(name=f"seed-{seed}", set={"seed": seed}) for seed in sweep.seeds],
            "evaluation": varied.evaluation.model_copy(update={"references": []}),
        }
    )


@final
@dataclass
class Worker:
    """One process that works on the trials of a sweep.

    Attributes:
        deadline: no trial begins later than this; seconds on the clock of `time.time`.
        zygote: begins the processes of trials.
    """

    config: Experiment
    sweep: Sweep
    study: optuna.Study
    storage: RDBStorage
    stop: StopRequest
    deadline: float
    zygote: Zygote
    said: str = field(default="", init=False)

    def say(self, message: str) -> None:
        """A line in the worker's log, once; a wait ends here where a stop is asked for."""
        if message != self.said:
            print(shown(message), flush=True)
        self.said = message
        self.stop.check()

    def work(self) -> None:
        """Run trials until all are done, those that died elsewhere included."""
        while patiently(self._next, self.say):
            self.stop.check()

    def _next(self) -> bool:
        """Run one trial, or wait for others; False when nothing is left to do."""
        with studies.locked(self.config, self.sweep) as free:
            # A stop that came while this one waited must not take a trial out of the queue.
            self.stop.check()
            studies.recover(self.study, self.storage)
            state = studies.progress(self.study)
            late = time.time() > self.deadline
            more = state.begun < self.sweep.trials and not late
            if state.waiting or (more and not studies.exhausted(self.study, self.sweep)):
                self._ask(free)
                return True
        if state.running == 0:
            return False
        time.sleep(POLL_S)
        return True

    def _ask(self, free: Callable[[], None]) -> None:
        self._queue_another()
        number = len(self.study.get_trials(deepcopy=False))
        self.study.sampler = studies.make_sampler(self.sweep, number)
        numbers: list[int] = []

        def objective(trial: optuna.Trial) -> Sequence[float]:
            numbers.append(trial.number)
            try:
                self.storage.record_heartbeat(trial._trial_id)
                chosen = studies.suggest(self.sweep, trial)
                self._refuse_repetition(trial)
            finally:
                free()
            return self._run(trial, chosen)

        try:
            self.study.optimize(objective, n_trials=1, catch=(FailedTrialError,))
        except Stopped:
            with studies.locked(self.config, self.sweep):
                studies.recover(self.study, self.storage)
            raise
        except (SuspendedTrialError, UpdateFinishedTrialError) as error:
            self.say(f"trial {numbers[0]}: {error}")
        except studies.DATABASE_ERRORS as error:
            # The trial stays open; its signs of life end, and a worker takes it up where it was.
            self.say(f"the database went away ({type(error).__name__})")

    def _refuse_repetition(self, trial: optuna.Trial) -> None:
        """Take back a trial whose parameters another has had: it would only come out the same."""
        if self.sweep.sampler == "grid":
            return
        trials = self.study.get_trials(deepcopy=False)
        earlier = studies.twin(self.sweep.space, trials, trials[trial.number])
        if earlier is not None:
            trial.set_user_attr(studies.SAME_AS, studies.first_number(earlier))
            raise FailedTrialError(f"its parameters are those of trial {earlier.number}")

    def _queue_another(self) -> None:
        """Where the sampler only repeats itself, queue a point that no trial has had, drawn at random."""
        trials = self.study.get_trials(deepcopy=False)
        last = trials[-REPETITIONS:]
        stuck = len(last) == REPETITIONS and all(map(studies.is_repetition, last))
        if stuck and (left := studies.untried(self.study, self.sweep)):
            chance = random.Random((self.sweep.sampler_seed or 0) + len(trials))
            self.study.enqueue_trial(chance.choice(left))

    def _run(self, trial: optuna.Trial, chosen: Mapping[str, Any]) -> Sequence[float]:
        frozen = self.study.get_trials(deepcopy=False)[trial.number]
        number = studies.first_number(frozen)
        folder = studies.folder_of(self.config) / f"trial-{number:04d}"
        experiment = self._experiment(trial, chosen)
        folder.mkdir(parents=True, exist_ok=True)
        Part(studies.id_of(self.study), number, chosen).claim(folder)
        loader.save_resolved(experiment, folder / CONFIG)
        self.say(f"trial {trial.number} in {folder.name}: {dict(chosen)}")
        outcome = self._left(folder) or self._supervise(trial, folder, experiment)
        if outcome.state == "complete" and (reason := broken(folder, experiment, self.sweep)):
            # It ended before anyone had looked.
            outcome = replace(outcome, state="pruned", reason=reason)
        return patiently(lambda: self._judge(trial, outcome, folder), self.say)

    def _left(self, folder: Path) -> Outcome | None:
        """What an earlier process of a trial left; a damaged one is made again from what was measured."""
        try:
            return Outcome.read(folder)
        except DataError as error:
            self.say(f"{folder.name}: {error}")
            (folder / OUTCOME).unlink()
            return None

    def _experiment(self, trial: optuna.Trial, chosen: Mapping[str, Any]) -> Experiment:
        """The trial's experiment; a combination that the configuration refuses fails with its reason."""
        try:
            experiment = trial_config(self.config, self.sweep, chosen)
            if faults := unfit_trials(self.config, experiment):
                raise ConfigError("; ".join(faults))
        except ConfigError as error:
            reason = " ".join(str(error).split("\n"))
            trial.set_user_attr(studies.REASON, f"this combination cannot be used: {reason}")
            raise FailedTrialError(reason) from error
        return experiment

    def _judge(self, trial: optuna.Trial, outcome: Outcome, folder: Path) -> Sequence[float]:
        """Tell Optuna what came out."""
        trial.set_user_attr("folder", folder.name)
        # Whoever reports may be on another machine, without this folder.
        if parent := state_of(folder).get("parent"):
            trial.set_user_attr("mlflow_run", parent)
        if outcome.state == "failed":
            trial.set_user_attr(studies.REASON, outcome.reason)
            raise FailedTrialError(outcome.reason)
        if outcome.state == "pruned":
            trial.set_user_attr(studies.REASON, outcome.reason)
            raise TrialPruned(outcome.reason)
        for name, value in outcome.means().items():
            trial.set_user_attr(name, value)
        try:
            for limit in self.sweep.constraints:
                trial.set_constraint(str(limit), limit.excess(outcome.mean(limit.metric)))
            return [outcome.number(objective.metric) for objective in self.sweep.objectives]
        except DataError as error:
            trial.set_user_attr(studies.REASON, str(error))
            if self._never_complete():
                raise
            raise FailedTrialError(str(error)) from error

    def _never_complete(self) -> bool:
        """Whether so many trials have failed, and none was completed, that this is no matter of a few."""
        ended = [trial.state for trial in studies.progress(self.study).finished.values()]
        return TrialState.COMPLETE not in ended and ended.count(TrialState.FAIL) + 1 >= MISSES

    def _supervise(self, trial: optuna.Trial, folder: Path, experiment: Experiment) -> Outcome:
        """Run the process of a trial to its end, again where it was killed."""
        killed = 0
        watch = Watch(trial, folder, experiment, self.sweep)
        while True:
            code, reason = self._process(trial, folder, watch)
            outcome = Outcome.read(folder)
            if outcome is not None:
                return outcome
            if reason:
                # Stopped before it could write down why.
                outcome = Outcome("pruned", reason)
                outcome.write(folder)
                return outcome
            if code == TRY_LATER:
                self.say(f"{folder.name}: the tracking server does not answer; waiting")
                time.sleep(5)
                self._sign_of_life(trial)
                continue
            if code == HOPELESS:
                # What it met lies on the disk: another try, or another trial, would meet it, too.
                raise DataError(last_words(folder / LOG))
            if code >= 0 and code <= 128:
                outcome = Outcome(
                    "failed", f"its process ended with code {code}: see {folder / LOG}"
                )
            elif killed == RESTARTS:
                outcome = Outcome("failed", f"its process was killed {killed + 1} times ({code})")
            else:
                killed += 1
                self.say(
                    f"{folder.name}: its process was killed ({code}); continuing from its checkpoint"
                )
                continue
            outcome.write(folder)
            return outcome

    def _process(self, trial: optuna.Trial, folder: Path, watch: Watch) -> tuple[int, str]:
        """One process of a trial; returns its exit code, and why it was stopped, if it was."""
        if reason := patiently(watch.look, self.say):
            return 0, reason
        # Ids of processes come again: what an earlier worker wrote may name the one that begins now.
        (folder / STOP).unlink(missing_ok=True)
        start = starter(self.zygote, watch.experiment.training)
        arguments = [str(folder), mlflow_run(self.study)]
        process = start("opdlab.sweeps.trial", arguments, folder / LOG, signal.SIGKILL)
        try:
            while process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(POLL_S)
                self._sign_of_life(trial)
                if reason := patiently(watch.look, self.say):
                    write_stop(folder, reason, process.pid)
                    end(process, STOP_S)
        finally:
            if process.poll() is None:
                end(process, STOP_S)
        assert process.returncode is not None
        return process.returncode, reason

    def _sign_of_life(self, trial: optuna.Trial) -> None:
        """Tell the database that the trial lives; stop where that is asked for."""
        self.stop.check()
        patiently(lambda: self._beat(trial), self.say)

    def _beat(self, trial: optuna.Trial) -> None:
        # Optuna's own thread of signs of life ends with the first that the database does not take.
        self.storage.record_heartbeat(trial._trial_id)
        if self.storage.get_trial(trial._trial_id).state != TrialState.RUNNING:
            raise SuspendedTrialError("held for dead by the database and queued again")


def mlflow_run(study: optuna.Study) -> str:
    """The run in MLflow that stands for the whole sweep."""
    return study.user_attrs["mlflow_run"]


def work(folder: str, deadline: float) -> None:
    """Work on the sweep in a folder until it is done; the entry for processes and for clusters."""
    config = loader.load_experiment(Path(folder) / CONFIG)
    sweep = sweep_of(config)
    assert sweep is not None
    with Zygote() as zygote, StopRequest() as stop:
        threading.excepthook = lambda args: print(
            f"heartbeat: {args.exc_type.__name__}", flush=True
        )
        storage = studies.open_storage(config, sweep)
        study = optuna.load_study(
            study_name=config.name, storage=storage, pruner=studies.make_pruner(sweep)
        )
        Worker(config, sweep, study, storage, stop, deadline, zygote).work()


def main() -> None:
    """Entry of the process."""
    if visible := sys.argv[3]:
        # Before anybody looks: of its cards alone, its trials are told.
        os.environ[VISIBLE] = visible
    try:
        work(sys.argv[1], float(sys.argv[2]))
    except Stopped as stopped:
        raise SystemExit(stopped.exit_code) from stopped
    except (SweepError, DataError) as error:
        give_up(str(error), error)
    except OSError as error:
        if not error.filename:
            raise
        give_up(of_the_disk(error), error)


if __name__ == "__main__":
    main()
