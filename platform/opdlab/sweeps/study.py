"""The Optuna study of a sweep: opened or made, asked by one worker at a time, patient with its database."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, final

import optuna
from filelock import FileLock
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from opdlab import credentials
from opdlab.configuration import Experiment, loader
from opdlab.errors import ConfigError, DataError, OpdlabError
from opdlab.files import is_there, read_json, write_whole
from opdlab.identity import new_id
from opdlab.modelling import models
from opdlab.prompts import open_prompts
from opdlab.sweeps.pruning import Lagging, by_first_number, first_number
from opdlab.sweeps.settings import Sweep, sweep_of
from opdlab.sweeps.space import (
    Choice,
    Dimension,
    FloatRange,
    applies,
    chosen_values,
    identity,
    points,
)
from opdlab.tracking import mlflow_store
from opdlab.training import differences

GRACE = 3  # missing signs of life before a trial counts as dead
OUTAGE_S = 900  # a database that is away for longer ends a worker
MAX_RETRY = (
    20  # stops on request count, too; what ends a poisonous trial is the count of dead workers
)
SAME_AS = "same_as"
REASON = (
    "reason"  # why a trial did not complete; one that failed without it was not given up by anyone
)
ID, CONTENTS = "id", "contents"
"""Of a study: what tells it from another of its name, and what its trials are made of."""
MADE_OF = ("student", "teacher", "specialists", "prompts")
"""Sections whose values may name files."""
STUDY = "study.json"
"""In a sweep's folder: whose trials it holds."""
MOST_POINTS = 1000  # of a space that are listed to see which were tried
ASK_LOCK = 0x6F70646C  # key of PostgreSQL's advisory lock
T = TypeVar("T")
DATABASE_ERRORS = (StorageInternalError, SQLAlchemyError)


@final
class SweepError(OpdlabError, RuntimeError):
    """A sweep cannot begin or go on; the message says what to change."""


@final
class SuspendedTrialError(OpdlabError, RuntimeError):
    """A trial was taken away from its worker: the database held it for dead and queued it again."""


def folder_of(config: Experiment) -> Path:
    """Where a sweep keeps its trials on this machine."""
    return Path(config.output) / f"{config.name}-sweep"


def storage_url(config: Experiment, sweep: Sweep) -> str:
    """Optuna's database: the one named, or an SQLite file in the sweep's folder."""
    return sweep.storage or mlflow_store.sqlite_uri(folder_of(config) / "optuna.db")


def open_storage(config: Experiment, sweep: Sweep) -> RDBStorage:
    """The database with signs of life and a second try for trials that died.

    Raises:
        SweepError: it does not answer, or its driver is not installed.
    """
    url = storage_url(config, sweep)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return RDBStorage(
                credentials.whole(url),
                # A connection that a restarted server closed is noticed and replaced.
                engine_kwargs={"pool_pre_ping": True},
                heartbeat_interval=sweep.heartbeat_s,
                grace_period=GRACE * sweep.heartbeat_s,
                heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(MAX_RETRY),
            )
    except (*DATABASE_ERRORS, ImportError) as error:
        raise unusable(url, error) from error


def unusable(url: str, error: Exception) -> SweepError:
    """What to do about a database that does not answer, does not exist, or lacks its driver."""
    cause = credentials.hide(str(error.__cause__ or error)).strip().splitlines()[0]
    if "malformed" in cause or "not a database" in cause:
        return SweepError(
            f"the database {url} is damaged ({cause}): restore it from a copy, or move the folder of the "
            "sweep away and begin again"
        )
    if "disk" in cause:
        return SweepError(
            f"the database {url} cannot be used ({cause}). Free space there, and run the same command again"
        )
    return SweepError(
        f"the database {url} cannot be used ({cause}). Start it, correct sweep.storage (such as "
        "postgresql+psycopg://user@host/name), or for PostgreSQL install the extra: pip install "
        "'opdlab[postgres]'"
    )


def open_study(config: Experiment, sweep: Sweep) -> optuna.Study:
    """The study of this experiment's name, made where it does not exist.

    Raises:
        SweepError: a study of this name was begun with other settings.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    folder_of(config).mkdir(parents=True, exist_ok=True)
    with locked(config, sweep):
        storage = open_storage(config, sweep)
        study = optuna.create_study(
            storage=storage,
            study_name=config.name,
            directions=[objective.direction for objective in sweep.objectives],
            load_if_exists=True,
        )
        wanted = fixed(config)
        before = study.user_attrs.get("config")
        if before is None:
            study.set_user_attr("config", wanted)
            study.set_user_attr(ID, new_id())
        elif before != wanted:
            changed = ", ".join(sorted(differences(before, wanted)))
            raise SweepError(
                f"the sweep {config.name} already exists with different values of: {changed}. Use "
                f"the same values to continue, or another name for a new sweep"
            )
        _same_contents(config, study)
        _own(folder_of(config), study)
    return study


def id_of(study: optuna.Study) -> str:
    """What tells a study from another one of its name.

    Raises:
        SweepError: an earlier version of opdlab began it.
    """
    known = study.user_attrs.get(ID)
    if known is None:
        raise SweepError(
            f"the sweep {study.study_name} was started by an earlier opdlab: give it another name"
        )
    return known


def _same_contents(config: Experiment, study: optuna.Study) -> None:
    """Refuse models and prompts with other contents than the sweep began with."""
    now, before = contents(config), study.user_attrs.get(CONTENTS)
    if before is None:
        study.set_user_attr(CONTENTS, now)
        return
    for what in sorted(now.keys() | before.keys()):
        if before.get(what) != now.get(what):
            raise SweepError(
                f"the {what} of the sweep {study.study_name} changed since it began (then "
                f"{before.get(what)}, now {now.get(what)}). Put the old one back, or begin a new sweep "
                "under another name"
            )


def _own(folder: Path, study: optuna.Study) -> None:
    """Take the folder for this study; trials of another one of the same name must not count as its own."""
    mark, mine = folder / STUDY, id_of(study)
    remedy = f"move {folder} away"
    theirs = str(read_json(mark, "study", remedy=remedy)["study"]) if is_there(mark) else None
    if theirs is None and any(folder.glob("trial-*")):
        theirs = "an unknown one"
    if theirs not in (None, mine):
        raise SweepError(
            f"{folder} holds trials of another study (there {theirs}, in sweep.storage {mine}): move the "
            "folder away, or give the sweep.storage that it was started with"
        )
    write_whole(mark, json.dumps({"study": mine}) + "\n")


def contents(config: Experiment) -> dict[str, str]:
    """Hashes of the models' files and of the prompts that trials are made of: the shared and the chosen."""
    hashed = cache(models.files_sha256)
    found = _contents(config, hashed)
    sweep = sweep_of(config)
    space = sweep.space if sweep else {}
    for name, one in space.items():
        if name.partition(".")[0] not in MADE_OF or not isinstance(one, Choice):
            continue
        for value in one.values:
            # Of several keys that vary, a value may go with some values of the others alone.
            with suppress(ConfigError, DataError):
                varied = loader.with_values(config, chosen_values({name: one}, {name: value}))
                of_value = _contents(varied, hashed).items()
                found |= {f"{what} with {name}={value}": each for what, each in of_value}
    return found


def _contents(config: Experiment, hashed: Callable[[str, str | None], str]) -> dict[str, str]:
    """What the trials of an experiment without a space are made of."""
    found = {
        "student": hashed(config.student.path, config.student.revision),
        "teacher": hashed(config.teacher.path, config.teacher.revision),
    }
    for number, one in enumerate(config.specialists):
        found[f"specialist {number}"] = hashed(one.path, one.revision)
    tokenizer = models.load_tokenizer(config.student.path, config.student.revision)
    prompts = open_prompts(
        config.prompts, tokenizer, config.seed, config.evaluation.benchmarks
    ).manifest()
    return {**found, "prompts": str(prompts["sha256"])}


def fixed(config: Experiment) -> dict[str, Any]:
    """What may not change while a sweep goes on: all but its size, its place and its patience."""
    data = config.model_dump(mode="json", exclude={"output", "tracking", "description"})
    for key in ("trials", "time_budget_s", "storage", "heartbeat_s"):
        (data["sweep"] or {}).pop(key, None)
    return data


def _lock_file(url: str) -> Path:
    """Beside an SQLite file, for commands with other output folders share it as well."""
    file = Path(url.partition("///")[2].partition("?")[0])
    return file.with_name(f".{file.name}.ask.lock")


@contextmanager
def locked(config: Experiment, sweep: Sweep) -> Iterator[Callable[[], None]]:
    """Only one worker at a time asks for a trial, on all machines; yields what ends this early."""
    if sweep.storage is None or sweep.storage.startswith("sqlite"):
        lock = FileLock(_lock_file(storage_url(config, sweep)))
        lock.acquire()
        try:
            yield lambda: lock.release(force=True)
        finally:
            lock.release(force=True)
        return
    from sqlalchemy import NullPool, create_engine

    # The server frees the lock of a connection that is gone, so a killed worker holds up nobody. A pool
    # would keep the connection, and with it the lock, when it is closed here.
    try:
        connection = create_engine(credentials.whole(sweep.storage), poolclass=NullPool).connect()
    except (*DATABASE_ERRORS, ImportError) as error:
        raise unusable(sweep.storage, error) from error
    try:
        connection.execute(text("select pg_advisory_lock(:key)"), {"key": ASK_LOCK})
        yield connection.close
    finally:
        connection.close()


def make_sampler(sweep: Sweep, number: int) -> optuna.samplers.BaseSampler:
    """The sampler for the trial of this number; its own seed makes workers and restarts no difference."""
    # NumPy takes no larger seed.
    seed = ((sweep.sampler_seed or 0) * 100_003 + number) % 2**32
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        if sweep.sampler == "gp":
            return optuna.samplers.GPSampler(seed=seed, n_startup_trials=sweep.startup_trials)
        if sweep.sampler == "cmaes":
            return optuna.samplers.CmaEsSampler(
                seed=seed, n_startup_trials=sweep.startup_trials, warn_independent_sampling=False
            )
        if sweep.sampler == "grid":
            grid = {name: one.listed() for name, one in sweep.space.items()}
            return optuna.samplers.GridSampler(grid, seed=(sweep.sampler_seed or 0) % 2**32)
        if sweep.sampler == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=sweep.startup_trials)


def make_pruner(sweep: Sweep) -> optuna.pruners.BasePruner:
    """The pruner."""
    if sweep.pruner == "none":
        return optuna.pruners.NopPruner()
    return Lagging(sweep.pruner, sweep.startup_trials)


def suggest(sweep: Sweep, trial: optuna.Trial) -> dict[str, Any]:
    """What the sampler chooses for a trial: names of choices and numbers, by key."""
    chosen: dict[str, Any] = {}
    for name, dimension in sweep.space.items():
        if not applies(sweep.space, dimension, chosen):
            continue
        if isinstance(dimension, Choice):
            chosen[name] = trial.suggest_categorical(name, list(dimension.values))
        elif isinstance(dimension, FloatRange):
            chosen[name] = trial.suggest_float(
                name, dimension.low, dimension.last, step=dimension.step, log=dimension.log
            )
        else:
            chosen[name] = trial.suggest_int(
                name, dimension.low, dimension.last, step=dimension.step, log=dimension.log
            )
    return chosen


def twin(
    space: Mapping[str, Dimension], trials: Sequence[FrozenTrial], mine: FrozenTrial
) -> FrozenTrial | None:
    """An earlier trial with the same parameters, which would come out the same; None without one."""
    for trial in trials:
        if trial.number >= mine.number:
            return None
        another = first_number(trial) != first_number(mine) and not is_repetition(trial)
        if another and identity(space, trial.params) == identity(space, mine.params):
            return trial
    return None


def is_repetition(trial: FrozenTrial) -> bool:
    """Whether a trial was given the parameters of an earlier one, and so was not run."""
    return SAME_AS in trial.user_attrs


def untried(study: optuna.Study, sweep: Sweep) -> list[dict[str, Any]] | None:
    """The points of the space that no trial has had; None where there are too many to list."""
    every = points(sweep.space, MOST_POINTS)
    if every is None:
        return None
    trials = study.get_trials(deepcopy=False)
    tried = {identity(sweep.space, trial.params) for trial in trials}
    return [point for point in every if identity(sweep.space, point) not in tried]


def exhausted(study: optuna.Study, sweep: Sweep) -> bool:
    """Whether every point of the space has been tried."""
    return sweep.sampler != "grid" and untried(study, sweep) == []


def recover(study: optuna.Study, storage: RDBStorage) -> None:
    """Queue again what died without a word, at whichever point of its life; call it within `locked`.

    Optuna revives trials whose signs of life have ended. A worker that was killed before the first sign, or
    after its trial was given up and before it was queued again, would leave a trial that nobody waits for.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if not _gave_a_sign(storage, trial):
                storage.record_heartbeat(trial._trial_id)
        fail_stale_trials(study)
        for tries in by_first_number(study.get_trials(deepcopy=False)).values():
            last = tries[-1]
            told = REASON in last.user_attrs or is_repetition(last)
            if last.state == TrialState.FAIL and not told:
                RetryHeartbeatStaleTrialCallback(MAX_RETRY)(study, last)


def _gave_a_sign(storage: RDBStorage, trial: FrozenTrial) -> bool:
    asked = text("select count(*) from trial_heartbeats where trial_id = :trial")
    with storage.engine.connect() as connection:
        return bool(connection.execute(asked, {"trial": trial._trial_id}).scalar())


@dataclass(frozen=True)
class Progress:
    """Where a sweep stands, trials that were tried again counted once, and repetitions not at all.

    Attributes:
        begun: trials that have been asked for.
        finished: the last try of each trial that has ended, by its first number.
        running, waiting: trials in work; trials queued to be tried again.
    """

    begun: int
    finished: dict[int, FrozenTrial]
    running: int
    waiting: int


def progress(study: optuna.Study) -> Progress:
    """Read where a sweep stands."""
    trials = [trial for trial in study.get_trials(deepcopy=False) if not is_repetition(trial)]
    tries = by_first_number(trials)
    ended = {first: last_try(group) for first, group in tries.items()}
    states = [trial.state for trial in trials]
    return Progress(
        begun=len(tries),
        finished={first: trial for first, trial in sorted(ended.items()) if trial is not None},
        running=states.count(TrialState.RUNNING),
        waiting=states.count(TrialState.WAITING),
    )


def last_try(tries: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """The try that counts, once none is open any more."""
    if any(not trial.state.is_finished() for trial in tries):
        return None
    good = [t for t in tries if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    return good[0] if good else tries[-1]


def patiently(call: Callable[[], T], say: Callable[[str], object]) -> T:
    """Call the database; where it is away, wait for it.

    Raises:
        SweepError: it stays away.
    """
    deadline = time.monotonic() + OUTAGE_S
    pause = 0.5
    while True:
        try:
            return call()
        except DATABASE_ERRORS as error:
            if time.monotonic() > deadline:
                raise SweepError(
                    f"the sweep's database has not answered for {OUTAGE_S} s; start it and give the same "
                    "command again, nothing is lost"
                ) from error
            say(f"the database does not answer ({type(error).__name__}); waiting")
            time.sleep(pause)
            pause = min(2 * pause, 10)
