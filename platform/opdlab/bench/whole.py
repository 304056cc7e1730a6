"""What a whole experiment would take on this machine, by the speed of a few of its steps and answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import ceil
from tempfile import TemporaryDirectory
from time import perf_counter

from rich import box
from rich.table import Table
from transformers import PreTrainedModel

from opdlab.configuration import Evaluation, Experiment
from opdlab.console import BOLD, END, console, duration, progress_bar
from opdlab.evaluation import SampleSet, Subject, all_answers, asked_of, draw_missing, grade_missing
from opdlab.identity import Owner
from opdlab.planning import behind_servers
from opdlab.plugins import Evaluator
from opdlab.sweeps import sweep_of
from opdlab.training import Pair, working

REMARK = (
    "By the speed of what was measured: later answers may be longer or shorter. Start-up is not in it, "
    "nor what a tracking server that is far away takes."
)


@dataclass(frozen=True)
class Cost:
    """Seconds that a run, or a model that is evaluated for comparison, takes in all."""

    training: float
    evaluation: float

    @property
    def whole(self) -> float:
        return self.training + self.evaluation


def times_evaluated(config: Experiment) -> int:
    """Evaluations of a run: those on the way, and the last one."""
    every, steps = config.evaluation.every, config.training.steps
    return 1 + ((steps - 1) // every if every else 0)


def evaluation_seconds(pair: Pair, who: str, config: Experiment) -> float:
    """Time of a whole evaluation of `student` or `teacher`, in which each benchmark draws one batch.

    A benchmark of more answers than a batch has is measured on as many, taken evenly from all of its
    problems.
    """
    seconds, settings = 0.0, config.evaluation
    with progress_bar() as progress:
        task = progress.add_task("", total=len(settings.benchmarks))
        for model, benchmark in answerers(pair, who, settings):
            progress.update(task, description=f"answers of {who}: {benchmark.benchmark}")
            with working(model, config):
                seconds += benchmark_seconds(pair.subject(model, config), benchmark, settings)
            progress.advance(task)
    return seconds


def answerers(
    pair: Pair, who: str, settings: Evaluation
) -> Iterator[tuple[PreTrainedModel, Evaluator]]:
    """Every benchmark, and the model that answers it."""
    for benchmark in settings.benchmarks:
        teacher = pair.teacher_of(benchmark.benchmark)
        yield (pair.student if who == "student" else teacher), benchmark


def benchmark_seconds(subject: Subject, benchmark: Evaluator, settings: Evaluation) -> float:
    """Time to sample, grade and store all answers of a benchmark."""
    answers = all_answers(benchmark, settings)
    some = answers[:: ceil(len(answers) / settings.batch_rows)]
    with TemporaryDirectory() as folder:
        asked = asked_of(benchmark, subject, settings, Owner("bench"), subject.identity())
        kept = SampleSet(folder, asked)
        started = perf_counter()
        draw_missing(kept, subject, settings, some)
        grade_missing(kept, benchmark)
        return (perf_counter() - started) * len(answers) / len(some)


def show_whole(config: Experiment, costs: Mapping[str, Cost]) -> float:
    """Print what everything takes, one after the other; returns the seconds of all of it."""
    table = Table(
        title="the whole experiment, about",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("", no_wrap=True)
    for name in ("training", "evaluation", "in all"):
        table.add_column(name, justify="right")
    for name, cost in costs.items():
        parts = (cost.training, cost.evaluation, cost.whole)
        table.add_row(name, *(duration(part) if part else "-" for part in parts))
    whole = sum(cost.whole for cost in costs.values())
    table.add_row(f"{BOLD}all{END}", "", "", f"{BOLD}{duration(whole)}{END}")
    console.print(table)
    devices = config.training.devices * config.training.nodes
    alone = f" One of {devices} devices was timed, without their exchange of gradients."
    servers = ", ".join(behind_servers(config))
    theirs = f" The teacher's share is that of {servers} with the load that it had meanwhile."
    said = REMARK + (alone if devices > 1 else "") + (theirs if servers else "")
    console.print(said, style="dim")
    return whole


def show_sweep(config: Experiment, run: Cost) -> float:
    """Print what the sweep of an experiment takes at most; returns its seconds by one worker."""
    sweep = sweep_of(config)
    assert sweep is not None
    trials, seeds = sweep.trials, len(sweep.seeds)
    seconds = trials * seeds * run.whole
    console.print(
        f"{BOLD}The sweep{END}, {trials} trials of {seeds} seeds, none of them pruned: about "
        f"{BOLD}{duration(seconds)}{END} by one worker, less by several that have cores or a device of "
        "their own."
    )
    return seconds
