"""Where the time of a training step goes, by part, for every run of an experiment in turn."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import lightning as L
from rich import box
from rich.table import Table
from typing_extensions import override

from opdlab import loader, models
from opdlab.bench.operators import operator_table, operators
from opdlab.bench.race import Timing, machine, show, show_machine, timed, write
from opdlab.config import Experiment
from opdlab.prompts import open_prompts
from opdlab.quiet import quieten
from opdlab.teacher import Teacher
from opdlab.terminal import console, progress_bar
from opdlab.training.module import Distillation
from opdlab.training.run import load_pair

PARTS = {
    "rollout": "seconds/rollout",
    "teacher: trunk": "seconds/trunk",
    "teacher: leaves": "seconds/leaves",
    "update": "seconds/update",
}
OVERLAPPED = "at once with the rollout"


class _Steps(L.Callback):
    """Keeps the record of every step."""

    def __init__(self) -> None:
        self.records: list[dict[str, float]] = []

    @override
    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        assert isinstance(pl_module, Distillation)
        pl_module.end_micro_batch()
        if trainer.global_step > len(self.records):
            self.records.append(pl_module.step_record())


@dataclass
class Contender:
    """A run that is trained a few steps at a time."""

    name: str
    config: Experiment
    seconds: list[float] = field(default_factory=list)
    records: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        L.seed_everything(self.config.seed, verbose=False)
        pair = load_pair(self.config)
        subject = pair.subject(pair.student, self.config)
        prompts = open_prompts(self.config.prompts, pair.tokenizer, self.config.seed)
        teacher = Teacher(pair.teacher, pair.vocabulary)
        self.module = Distillation(self.config, subject, teacher, prompts)

    def block(self, steps: int) -> None:
        """A fit of so many steps; the first one, which warms up, is not counted."""
        watch = _Steps()
        settings = self.config.training
        trainer = L.Trainer(
            max_steps=steps + 1,
            accumulate_grad_batches=settings.accumulate,
            gradient_clip_val=settings.gradient_clip or None,
            precision=settings.precision,
            accelerator=settings.accelerator,
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            callbacks=[watch],
        )
        self.module.turn = 0
        batches = range((steps + 1) * settings.accumulate)
        timed(lambda: trainer.fit(self.module, batches), self.module.device)  # pyright: ignore[reportArgumentType]
        self.records += watch.records[1:]

    def operators(self, steps: int, folder: Path) -> dict[str, dict[str, float]]:
        """A block under torch's profiler; prints its operators and writes a trace."""
        trace = folder / f"{self.name}.json"
        found = operators(lambda: self.block(steps), self.module.device, trace)
        console.print(operator_table(f"operators of {self.name}; trace: {trace}", found, steps + 1))
        return found

    def timing(self) -> Timing:
        """Whole steps."""
        return Timing(tuple(sum(part(record).values()) for record in self.records))


def part(record: dict[str, float]) -> dict[str, float]:
    """Seconds of each part of one step; what scoring takes beside trunk and leaves is `teacher: rest`.

    What ran beside the rollout is taken off again, so that the parts add up to the step.
    """
    found = {name: record.get(key, 0.0) for name, key in PARTS.items()}
    known = found["teacher: trunk"] + found["teacher: leaves"]
    found["teacher: rest"] = max(0.0, record.get("seconds/teacher", 0.0) - known)
    found[OVERLAPPED] = 0.0 - record.get("seconds/overlapped", 0.0)
    return found


def bench_step(
    experiment: str,
    overrides: list[str],
    steps: int,
    rounds: int,
    profile: str | None,
    json_file: str | None,
) -> None:
    """Train every run a few steps in turn; print shares of the parts and ratios of whole steps.

    Args:
        profile: folder for traces of a few more steps under torch's profiler, whose table of operators is
            printed too.
    """
    quieten()
    config = loader.load_experiment(experiment, overrides)
    models.use_threads(config.training.threads)
    contenders = [Contender(name, variant) for name, variant in loader.variants(config)]
    with progress_bar() as progress:
        task = progress.add_task("steps", total=rounds * len(contenders))
        for _ in range(rounds):
            for contender in contenders:
                progress.update(task, description=f"steps of {contender.name}")
                contender.block(steps)
                progress.advance(task)
    found = {
        # A run's own records of its parts are by the clock on the wall.
        "machine": machine(contenders[0].module.device) | {"clock": "wall"},
        "experiment": config.name,
        "runs": {one.name: {"parts": medians(one), "steps": one.timing()} for one in contenders},
    }
    show_machine(found["machine"])
    console.print(shares(contenders))
    timings = {one.name: one.timing() for one in contenders}
    show(f"whole steps of {config.name}", contenders[0].name, timings)
    if profile is not None:
        found["operators"] = {one.name: one.operators(steps, Path(profile)) for one in contenders}
    write(json_file, found)


def medians(contender: Contender) -> dict[str, float]:
    """Median seconds of each part."""
    parts = [part(record) for record in contender.records]
    return {name: median(each[name] for each in parts) for name in parts[0]}


def shares(contenders: list[Contender]) -> Table:
    """Share of the step that each part takes."""
    table = Table(
        title="share of a step", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
    )
    table.add_column("part")
    for one in contenders:
        table.add_column(one.name, justify="right")
    found = [medians(one) for one in contenders]
    for name in found[0]:
        if name == OVERLAPPED and not any(each[name] for each in found):
            continue
        cells = [f"{each[name] / sum(each.values()):.1%}" for each in found]
        table.add_row(name, *cells)
    return table
