"""`opdlab diagnose`: look at students and their teacher, find, and write a page."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from opdlab import loader, models, plugins, store, tracking
from opdlab.comparison import short_names
from opdlab.config import Experiment, Model
from opdlab.diagnosis import page, report
from opdlab.diagnosis.findings import Observed, find
from opdlab.diagnosis.observation import HandOvers, Tokens, load, save
from opdlab.diagnosis.observe import WINDOW, Asked, Bench, hand_over, respond
from opdlab.errors import ConfigError, DataError
from opdlab.interrupt import Stopped, StopRequest
from opdlab.measuring import label_of
from opdlab.quiet import quieten
from opdlab.serving.engine import OpenAIEngine
from opdlab.teacher import Teacher
from opdlab.terminal import console, progress_bar
from opdlab.tracking import Tracker
from opdlab.training.group import CONFIG
from opdlab.training.watch import STUDENTS

TOP_K = 8
ROWS = 64
"""Responses looked at before what was seen is written."""
LOOKED_AT = 4000
"""Positions at which D_ahead is measured, of each model."""
CUTS_UP_TO = 0.9
"""The last cut is this quantile of the first student's lengths."""
SEED = 4321
CONTROL = "teacher, own prefixes"
RESULTS, PAGE = "diagnosis.json", "diagnosis.html"


@dataclass(frozen=True)
class Settings:
    """What is looked at.

    Attributes:
        problems: test problems of each benchmark, at most; None for all.
        samples: answers to each.
        cuts: places of hand-over, the empty prefix among them.
        bins: of the position.
        least: fidelity that counts for the effective horizon.
    """

    problems: int | None
    samples: int
    cuts: int
    bins: int
    least: float


def diagnose(
    name: str,
    overrides: list[str],
    students: Sequence[str],
    teacher: str | None,
    settings: Settings,
) -> Path:
    """Measure, write page and findings, print them; returns the folder.

    Args:
        name: an experiment, or the folder of a run: then its student before and after training, and the
            copies kept in between.
        students: models or folders of runs to take instead, in the order of their training.
        teacher: a model to take instead of the experiment's.

    Raises:
        SystemExit: a signal stopped it; the same command goes on.
    """
    quieten()
    config, sources = what_to_look_at(name, overrides, students, teacher)
    models.use_threads(config.training.threads)
    work = Work.begin(config, settings)
    console.print(
        f"[bold]{config.name}[/]: {len(work.bench.asked)} answers a model -> {work.folder}"
    )
    client = tracking.open_client(tracking.store_uri(Path(config.output), config.tracking.uri))
    experiment = tracking.experiment_id(client, config.tracking.experiment, Path(config.output))
    tracking.reap(client, experiment)
    tags = {"opdlab.role": "diagnosis"}
    run = tracking.start_run(client, experiment, f"diagnose {config.name}", None, tags)
    tracker, status = Tracker(client, run, work.folder), "FAILED"
    try:
        with StopRequest() as stop:
            observed = work.look(sources, stop.check)
        found = find(observed, work.problems, settings.bins, settings.least, SEED)
        found |= {"experiment": config.name, "teacher": config.teacher.path}
        found |= {"window": WINDOW, "top_k": work.bench.top_k}
        keep(found, work.folder, tracker)
        status = "FINISHED"
    except Stopped as stopped:
        status = "KILLED"
        console.print(f"[yellow]{stopped}; the same command goes on from here.")
        raise SystemExit(stopped.exit_code) from stopped
    finally:
        tracker.close(status)
    return work.folder


def what_to_look_at(
    name: str, overrides: list[str], students: Sequence[str], teacher: str | None
) -> tuple[Experiment, list[tuple[str, Model]]]:
    """The experiment, and students by name in the order of their training.

    Raises:
        ConfigError: no benchmarks to take problems from.
    """
    folder = Path(name)
    is_run = (folder / CONFIG).is_file()
    config = loader.load_experiment(folder / CONFIG if is_run else name, overrides)
    if teacher is not None:
        config = config.model_copy(
            update={"teacher": Model(path=teacher, dtype=config.teacher.dtype)}
        )
    if not config.evaluation.benchmarks:
        raise ConfigError(
            f"{name}: evaluation.benchmarks is empty, so there are no problems that an answer can be "
            "graded on; add one, such as 'evaluation.benchmarks=[{type: math}]'"
        )
    during = [str(path) for path in trained(folder)] if is_run else []
    chosen = {path: source(path, config) for path in [*students] or during}
    before = {} if students else {config.student.path: config.student}
    names = short_names([*before, *chosen])
    return config, [(names[path], one) for path, one in {**before, **chosen}.items()]


def trained(run: Path) -> Iterator[Path]:
    """Copies of a run's student kept during training, and the last one."""
    yield from sorted((run / STUDENTS).glob("step-*"))
    if (run / "model").is_dir():
        yield run


def source(path: str, config: Experiment) -> Model:
    """The model at a path, which may be the folder of a run."""
    inside = Path(path) / "model"
    return Model(path=str(inside) if inside.is_dir() else path, dtype=config.student.dtype)


def keep(found: dict[str, Any], folder: Path, tracker: Tracker) -> None:
    """Write the findings as JSON and as a page, send both to MLflow, print the gist."""
    (folder / RESULTS).write_text(json.dumps(clean(found), indent=1) + "\n", encoding="utf-8")
    (folder / PAGE).write_text(page.html(found), encoding="utf-8")
    for name in (RESULTS, PAGE):
        tracker.artifact(folder / name)
    tracker.set(report.metrics(found))
    for part in report.tables(found):
        console.print(part)
    console.print(f"page: {folder / PAGE}\nfindings: {folder / RESULTS}", soft_wrap=True)


def clean(value: Any) -> Any:
    """JSON has no NaN: null in its place."""
    if isinstance(value, dict):
        return {key: clean(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True)
class Work:
    """One diagnosis: where it is kept, and what stays the same for all models.

    Attributes:
        folder: `OUTPUT/diagnoses/NAME-HASH`; the hash is of all that decides what is seen of a model.
        problems: how many.
    """

    folder: Path
    bench: Bench
    problems: int
    config: Experiment
    settings: Settings
    device: str

    @classmethod
    def begin(cls, config: Experiment, settings: Settings) -> Work:
        """Load the teacher, and list what is asked.

        Raises:
            ModelError: the teacher cannot be loaded.
            DataError: the problems cannot be read.
        """
        device = (
            "cuda" if config.training.accelerator != "cpu" and torch.cuda.is_available() else "cpu"
        )
        source, engine = config.teacher, config.rollout
        teacher = models.load_model(source.path, source.revision, source.dtype, device)
        tokenizer = models.load_tokenizer(source.path, source.revision)
        asked = list(what_is_asked(config, settings))
        bench = Bench(
            teacher=Teacher(teacher),
            # A server serves a training student alone.
            engine=engine.in_process() if isinstance(engine, OpenAIEngine) else engine,
            top_k=config.method.group or TOP_K,
            tokenizer=tokenizer,
            template=config.prompts.template,
            eos_ids=models.eos_ids(teacher, tokenizer),
            pad_id=models.pad_id(teacher, tokenizer),
            vocabulary=None,
            asked=asked,
            seed=SEED,
        )
        decisive = {
            "teacher": models.weights_sha256(teacher),
            "data": store.data_hash([one.problem for one in asked if one.sample == 0]),
            "rollout": plugins.describe(config.rollout),
            "template": config.prompts.template,
            "samples": settings.samples,
            "top_k": bench.top_k,
        }
        digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:8]
        folder = Path(config.output) / "diagnoses" / f"{config.name}-{digest}"
        folder.mkdir(parents=True, exist_ok=True)
        problems = max(one.number for one in asked) + 1
        return cls(folder, bench, problems, config, settings, device)

    def look(
        self, sources: Sequence[tuple[str, Model]], check: Callable[[], None]
    ) -> list[Observed]:
        """Everything that is seen of the students, then of the teacher on its own prefixes."""
        benches: dict[str, tuple[Bench, str]] = {}
        seen: dict[str, list[Tokens]] = {}
        for name, one in sources:
            model, bench, label = self.load(name, one)
            benches[name] = bench, label
            seen[name] = self.all_responses(bench, model, name, label, check)
        # The control speaks the vocabulary of the first student, as in training.
        bench = benches[sources[0][0]][0]
        benches[CONTROL] = bench, f"teacher-{bench.vocabulary}"
        teacher = self.bench.teacher.model
        seen[CONTROL] = self.all_responses(bench, teacher, CONTROL, benches[CONTROL][1], check)
        cuts = self.cuts(Tokens.join(seen[sources[0][0]]))
        observed = []
        for name, (bench, label) in benches.items():
            handed = self.all_handed(bench, seen[name], name, label, cuts, check)
            observed.append(Observed(name, name == CONTROL, Tokens.join(seen[name]), handed))
        return observed

    def all_responses(
        self,
        bench: Bench,
        model: PreTrainedModel,
        name: str,
        label: str,
        check: Callable[[], None],
    ) -> list[Tokens]:
        """The responses of a model, chunk by chunk, with a bar."""
        parts = []
        with progress_bar() as progress:
            task = progress.add_task(f"answers of {name}", total=len(bench.asked))
            for rows in chunks(len(bench.asked)):
                parts.append(self.responses(bench, model, label, rows))
                progress.advance(task, len(rows))
                check()
        return parts

    def all_handed(
        self,
        bench: Bench,
        seen: Sequence[Tokens],
        name: str,
        label: str,
        cuts: Sequence[int],
        check: Callable[[], None],
    ) -> HandOvers:
        """The hand-overs from a model's responses at every cut, with a bar."""
        parts = []
        with progress_bar() as progress:
            total = len(bench.asked) * len(cuts)
            task = progress.add_task(f"hand-over from {name}", total=total)
            for cut in cuts:
                for rows, tokens in zip(chunks(len(bench.asked)), seen, strict=True):
                    parts.append(self.handed(bench, tokens, label, rows, cut))
                    progress.advance(task, len(rows))
                    check()
        return HandOvers.join(parts)

    def load(self, name: str, source: Model) -> tuple[PreTrainedModel, Bench, str]:
        """A student, the bench with the vocabulary it shares with the teacher, and its name in files."""
        teacher = self.bench.teacher.model
        model = models.load_model(source.path, source.revision, source.dtype, self.device)
        tokenizer = models.load_tokenizer(source.path, source.revision)
        shared = models.shared_vocabulary(tokenizer, self.bench.tokenizer, model, teacher)
        bench = replace(
            self.bench,
            teacher=Teacher(teacher, shared),
            tokenizer=tokenizer,
            eos_ids=models.eos_ids(model, tokenizer),
            pad_id=models.pad_id(model, tokenizer),
            vocabulary=shared,
        )
        return model, bench, label_of(name, models.weights_sha256(model))

    def responses(self, bench: Bench, model: PreTrainedModel, label: str, rows: range) -> Tokens:
        """Some responses, from the disk where they are there."""
        path = self.folder / "seen" / label / f"responses-{rows.start:06d}.npz"
        if not path.exists():
            share = math.ceil(LOOKED_AT * len(rows) / len(bench.asked))
            save(respond(bench, model, rows, share), path)
        return load(Tokens, path)

    def handed(self, bench: Bench, tokens: Tokens, label: str, rows: range, cut: int) -> HandOvers:
        """Some hand-overs, from the disk where they are there."""
        path = self.folder / "seen" / label / f"handed-{cut:06d}-{rows.start:06d}.npz"
        if not path.exists():
            save(hand_over(bench, tokens.responses(), rows, cut), path)
        return load(HandOvers, path)

    def cuts(self, tokens: Tokens) -> list[int]:
        """Places of hand-over, evenly spread over most of the first student's lengths."""
        lengths = [len(one) for one in tokens.responses()]
        last = max(1, int(np.quantile(lengths, CUTS_UP_TO)) - 1)
        return sorted(
            {round(last * k / (self.settings.cuts - 1)) for k in range(self.settings.cuts)}
        )


def chunks(count: int) -> Iterator[range]:
    """Rows looked at together."""
    for first in range(0, count, ROWS):
        yield range(first, min(first + ROWS, count))


def what_is_asked(config: Experiment, settings: Settings) -> Iterator[Asked]:
    """Every problem as often as it is answered.

    Raises:
        DataError: fewer than two problems, of which no interval could be given.
    """
    number = 0
    for benchmark in config.evaluation.benchmarks:
        for problem in benchmark.problems()[: settings.problems]:
            for sample in range(settings.samples):
                yield Asked(number, sample, problem, benchmark)
            number += 1
    if number < 2:
        raise DataError(
            f"{number} problem is too few: intervals are over problems; take two or more"
        )
