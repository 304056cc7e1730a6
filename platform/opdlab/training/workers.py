"""Runs of an experiment side by side: a process each, on cards of its own where there are enough."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import final

from rich.progress import TaskID

from opdlab.configuration import Experiment, Repeat, loader, repeats
from opdlab.console import END, RED, WatchedProgress, console, progress_bar
from opdlab.errors import ConfigError, DataError, WorkersError
from opdlab.files import read_live
from opdlab.tracking import mlflow_store
from opdlab.training import cards
from opdlab.training.group import CONFIG
from opdlab.training.processes import (
    HOPELESS,
    LOG,
    STOP_S,
    Process,
    Zygote,
    dismiss,
    last_words,
    may_fork,
    starter,
)
from opdlab.training.results import Trained
from opdlab.training.run import Session, train

POLL_S = 0.2
"""Between two looks at who has ended."""


def train_with_workers(
    config: Experiment,
    workers: int,
    resume: bool = False,
    again: str = "the same call",
    began: float | None = None,
) -> Trained:
    """As `train`, with up to `workers` runs at a time; results are those of one after the other.

    Raises:
        ConfigError: a training takes more cards than there are, or is started on several machines, or
            several would send their weights to one server.
        WorkersError: runs failed, and all others are done.
    """
    if config.training.nodes > 1 or ("RANK" in os.environ and config.training.devices > 1):
        raise ConfigError(
            f"{config.name}: --workers starts the processes of its trainings itself, on this machine: "
            "leave out torchrun and training.nodes, or --workers"
        )
    trainings = repeats(loader.variants(config))
    free = places(trainings, workers)
    # Its children have all of it.
    mlflow_store.import_store(mlflow_store.store_uri(Path(config.output), config.tracking.uri))
    forks = any(may_fork(one.config.training) for one in trainings)
    with Zygote() if forks else nullcontext() as zygote:
        together = partial(train_side_by_side, free=free, zygote=zygote)
        return train(config, resume, again, began, together)


def places(trainings: Sequence[Repeat], workers: int) -> list[str]:
    """The cards of each worker, as `CUDA_VISIBLE_DEVICES` names them; "" for whatever there is.

    Raises:
        ConfigError: a training takes more cards than there are, or several would send their weights to one
            server.
    """
    for one in trainings:
        cards.require_server_each(one.config, workers)
    largest = max((one.config.training for one in trainings), key=cards.taken)
    return cards.shared_out(cards.here(largest), min(workers, len(trainings)), None, largest)


@final
@dataclass
class Working:
    """A training that goes on in a process."""

    one: Repeat
    place: str
    process: Process
    folder: Path
    bar: WatchedProgress
    task: TaskID
    taken: float = 0

    def show(self) -> float:
        """Draw how far it is; the steps that it has taken."""
        with suppress(DataError):
            told = read_live(self.folder)
            evaluates = told.get("phase") == "evaluating"
            said = f"{self.one.name}: evaluating" if evaluates else self.one.name
            self.taken = told.get("step", 0)
            self.bar.update(self.task, description=said, completed=self.taken)
        return self.taken

    def fault(self) -> str:
        """Why it failed, where it did."""
        code, log = self.process.returncode, self.folder / LOG
        if not code:
            return ""
        if code == HOPELESS:
            return last_words(log)
        number = -code if code < 0 else code - 128
        if number in {*signal.Signals}:
            return f"ended by {signal.Signals(number).name}"
        return f"ended with code {code}: see {log}"


def train_side_by_side(
    session: Session,
    config: Experiment,
    waiting: Sequence[Repeat],
    free: Sequence[str],
    zygote: Zygote | None,
) -> None:
    """Train runs in processes of their own, as many at a time as there are places.

    A run that fails ends no other.

    Args:
        config: the whole experiment, as it is now.
        free: the cards of each place, see `places`.

    Raises:
        Stopped: a signal came; each has written a checkpoint.
        WorkersError: runs failed, and all others are done.
    """
    queue, unused = deque(waiting), deque(free)
    working: list[Working] = []
    failed: dict[str, str] = {}
    ended, past = 0, 0
    with tempfile.TemporaryDirectory(prefix="opdlab-") as scratch, progress_bar() as bar:
        settings = Path(scratch) / CONFIG
        loader.save_resolved(config, settings)
        # Steps of all: runs end in groups, and the time left would jump.
        steps = {one.name: one.config.training.steps for one in waiting}
        whole = bar.add_task(f"0 of {len(waiting)} runs", total=sum(steps.values()))
        try:
            while queue or working:
                while queue and unused:
                    one, place = queue.popleft(), unused.popleft()
                    working.append(_start(session, one, place, settings, zygote, bar))
                time.sleep(POLL_S)
                session.stop.check()
                for each in [each for each in working if each.process.poll() is not None]:
                    working.remove(each)
                    unused.append(each.place)
                    bar.remove_task(each.task)
                    ended += 1
                    past += steps[each.one.name]
                    if fault := each.fault():
                        failed[each.one.name] = fault
                        console.print(f"{RED}{each.one.name}: {fault}{END}", soft_wrap=True)
                taken = past + sum(each.show() for each in working)
                said = f"{ended} of {len(waiting)} runs"
                bar.update(whole, description=said, completed=taken)
        finally:
            dismiss((each.process for each in working), STOP_S)
    if failed:
        raise WorkersError(failed, len(waiting))


def _start(
    session: Session,
    one: Repeat,
    place: str,
    settings: Path,
    zygote: Zygote | None,
    bar: WatchedProgress,
) -> Working:
    folder = session.group.folder / one.name
    folder.mkdir(exist_ok=True)
    start = starter(zygote, one.config.training)
    arguments = [str(settings), str(session.group.folder), one.name, place]
    # Ctrl-C reaches the command alone, which then asks its workers; so does its death.
    process = start("opdlab.training.worker", arguments, folder / LOG, signal.SIGTERM)
    task = bar.add_task(one.name, total=one.config.training.steps)
    return Working(one, place, process, folder, bar, task)
