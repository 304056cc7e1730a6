"""Where the time of a training step goes, by part, for every run of an experiment in turn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

import lightning as L
from rich import box
from rich.table import Table
from typing_extensions import override

from opdlab import tracking
from opdlab.bench.operators import operator_table, operators
from opdlab.bench.race import Timing, machine, show, show_machine, timed, write
from opdlab.bench.whole import Cost, evaluation_seconds, show_sweep, show_whole, times_evaluated
from opdlab.configuration import Experiment, loader
from opdlab.console import StopRequest, console, progress_bar, quieten
from opdlab.evaluation import require
from opdlab.modelling import models
from opdlab.tracking import Tracker, mlflow_store
from opdlab.training import (
    Distillation,
    Pace,
    Pair,
    checkpoint_path,
    keep_copy,
    load_module,
    pair_to_train,
    rollout_table,
    trainer_of,
)

OVERLAPPED = "at once with the rollout"


class _Steps(Pace):
    """Keeps and sends the record of every step, but of the first of a fit, which warms up."""

    def __init__(self, tracker: Tracker, stop: StopRequest) -> None:
        super().__init__(tracker.folder, stop)
        self.tracker = tracker
        self.records: list[dict[str, float]] = []
        self.done = 0
        self.now_and_then: dict[str, float] = {}
        self.last = False
        """Whether this fit is to measure what is done now and then, too."""

    @override
    def record(self, module: Distillation, metrics: dict[str, float]) -> None:
        self.done += 1
        metrics["seconds/logging"] = seconds(lambda: self.tracker.log(metrics, self.done))
        if self.step > 1:
            self.records.append(metrics)

    @override
    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, Distillation)
        if self.last:
            self.now_and_then = self.shares(trainer, pl_module)

    def shares(self, trainer: L.Trainer, module: Distillation) -> dict[str, float]:
        """Seconds of what is done every so many steps, as a share of each of them."""
        settings, rollout, scores = module.config.training, module.rollout, module.scores
        assert rollout is not None
        assert scores is not None

        def table() -> None:
            self.tracker.table(rollout_table(rollout, scores, module), "rollouts.json")

        def save() -> None:
            trainer.save_checkpoint(checkpoint_path(self.folder))

        found = {"checkpoints": seconds(save) / settings.checkpoint_every}
        if every := module.config.tracking.samples_every:
            found["tables of samples"] = seconds(table) / every
        if every := settings.keep_every:
            copy = self.folder / "copy"
            found["copies of the student"] = seconds(lambda: keep_copy(module, copy)) / every
        return found


def seconds(work: Callable[[], object]) -> float:
    """Wall time of some work."""
    started = perf_counter()
    work()
    return perf_counter() - started


@dataclass
class Contender:
    """A run that is trained a few steps at a time."""

    name: str
    config: Experiment
    pair: Pair
    pace: _Steps
    module: Distillation = field(init=False)
    evaluation: float = 0.0
    """Seconds of one evaluation; 0 where none is wanted or none was measured."""

    def __post_init__(self) -> None:
        self.module = load_module(self.pair, self.config)
        self.module.own_trainer = False

    def block(self, steps: int) -> None:
        """A fit of so many steps; the first one, which warms up, is not counted."""
        once = {"steps": steps + 1, "devices": 1, "nodes": 1}
        settings = self.config.training.model_copy(update=once)
        trainer = trainer_of(settings, self.pace)
        self.module.turn = 0
        timed(lambda: trainer.fit(self.module, range(settings.steps)), self.module.device)  # pyright: ignore[reportArgumentType]

    @property
    def constant(self) -> dict[str, float]:
        """Seconds of a step's share of what is done now and then."""
        on_the_way = self.evaluation * (times_evaluated(self.config) - 1)
        share = {"evaluations": on_the_way / self.config.training.steps} if on_the_way else {}
        return self.pace.now_and_then | share

    def medians(self) -> dict[str, float]:
        """Median seconds of each part of a step."""
        parts = [part(record) for record in self.pace.records]
        found = {name: median(each[name] for each in parts) for name in parts[0]}
        return found | self.constant

    def cost(self) -> Cost:
        """Of the whole run; its evaluations on the way count as evaluations."""
        settings = self.config.training
        step = median(sum(part(record).values()) for record in self.pace.records)
        step += sum(self.pace.now_and_then.values())
        return Cost(settings.steps * step, self.evaluation * times_evaluated(self.config))

    def operators(self, steps: int, folder: Path) -> dict[str, dict[str, float]]:
        """A block under torch's profiler; prints its operators and writes a trace."""
        trace = folder / f"{self.name}.json"
        found = operators(lambda: self.block(steps), self.module.device, trace)
        console.print(operator_table(f"operators of {self.name}; trace: {trace}", found, steps + 1))
        return found

    def timing(self) -> Timing:
        """Whole steps."""
        often = sum(self.constant.values())
        return Timing(tuple(often + sum(part(record).values()) for record in self.pace.records))


def part(record: dict[str, float]) -> dict[str, float]:
    """Seconds of each part of one step.

    What ran beside the rollout is taken off again, so that the parts add up to the step.
    """
    scoring = {name: record.get(f"seconds/{name}", 0.0) for name in ("trunk", "leaves")}
    rest = record.get("seconds/teacher", 0.0) - sum(scoring.values())
    return {
        "rollout": record["seconds/rollout"],
        **{f"teacher: {name}": taken for name, taken in scoring.items()},
        "teacher: rest": max(0.0, rest),
        "update": record["seconds/update"],
        "logging": record["seconds/logging"],
        OVERLAPPED: 0.0 - record.get("seconds/overlapped", 0.0),
    }


def bench_step(
    experiment: str,
    overrides: list[str],
    steps: int,
    rounds: int,
    evaluation: bool,
    profile: str | None,
    json_file: str | None,
) -> None:
    """Train every run a few steps in turn; print shares of the parts and ratios of whole steps.

    Args:
        evaluation: also measure evaluations, and tell what the whole experiment would take.
        profile: folder for traces of a few more steps under torch's profiler, whose table of operators is
            printed too.
    """
    quieten()
    config = loader.load_experiment(experiment, overrides)
    models.use_threads(config.training.threads)
    measured = evaluation and bool(config.evaluation.benchmarks)
    if measured:
        require(config.evaluation.benchmarks)
    # Records and checkpoints go where those of a real run would, for the speed of that disk.
    output = Path(config.output)
    output.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".bench-", dir=output) as folder, StopRequest() as stop:
        contenders = open_contenders(config, Path(folder), stop)
        take_turns(contenders, steps, rounds)
        costs = evaluated(config, contenders) if measured else {}
        costs |= {one.name: one.cost() for one in contenders}
        found = {
            # A run's own records of its parts are by the clock on the wall.
            "machine": machine(contenders[0].module.device) | {"clock": "wall"},
            "experiment": config.name,
            "runs": {
                one.name: {"parts": one.medians(), "steps": one.timing()} for one in contenders
            },
        }
        show_machine(found["machine"])
        console.print(shares(contenders))
        timings = {one.name: one.timing() for one in contenders}
        show(f"whole steps of {config.name}", contenders[0].name, timings)
        found["seconds"] = {"experiment": show_whole(config, costs)}
        if config.sweep is not None:
            found["seconds"]["sweep"] = show_sweep(config, contenders[0].cost())
        if profile is not None:
            found["operators"] = {
                one.name: one.operators(steps, Path(profile)) for one in contenders
            }
    write(json_file, found)


def open_contenders(
    config: Experiment,
    folder: Path,
    stop: StopRequest,
    load: Callable[[Experiment], Pair] | None = None,
) -> list[Contender]:
    """Every run, ready to take steps, with a tracking store in a folder."""
    client = mlflow_store.open_client(mlflow_store.store_uri(folder, None))
    experiment = mlflow_store.experiment_id(client, "bench", folder)
    contenders = []
    load = load or partial(pair_to_train, kept={})
    for name, variant in loader.variants(config):
        run = tracking.start_run(client, experiment, name, None, {})
        pace = _Steps(Tracker(client, run, folder / name), stop)
        contenders.append(Contender(name, variant, load(variant), pace))
    return contenders


def take_turns(contenders: list[Contender], steps: int, rounds: int) -> None:
    """So many rounds of so many steps of every run."""
    with progress_bar() as progress:
        task = progress.add_task("steps", total=rounds * len(contenders))
        for number in range(rounds):
            for contender in contenders:
                progress.update(task, description=f"steps of {contender.name}")
                contender.pace.last = number == rounds - 1
                contender.block(steps)
                progress.advance(task)


def evaluated(config: Experiment, contenders: list[Contender]) -> dict[str, Cost]:
    """Measure what evaluations take: of the references, whose cost is returned, and of every run.

    Students are of one size, so one answers for all that are asked the same.
    """
    known: dict[str, float] = {}

    def once(who: str, pair: Pair, variant: Experiment) -> float:
        asked = f"{who} {variant.evaluation.model_dump_json()} {variant.rollout}"
        if asked not in known:
            known[asked] = evaluation_seconds(pair, who, variant)
        return known[asked]

    first = contenders[0].pair
    costs = {who: Cost(0.0, once(who, first, config)) for who in config.evaluation.references}
    for one in contenders:
        one.evaluation = once("student", one.pair, one.config)
    return costs


def shares(contenders: list[Contender]) -> Table:
    """Share of the step that each part takes."""
    table = Table(
        title="share of a step", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
    )
    table.add_column("part")
    for one in contenders:
        table.add_column(one.name, justify="right")
    found = [one.medians() for one in contenders]
    for name in dict.fromkeys(name for each in found for name in each):
        if name == OVERLAPPED and not any(each[name] for each in found):
            continue
        cells = [f"{each.get(name, 0.0) / sum(each.values()):.1%}" for each in found]
        table.add_row(name, *cells)
    return table
