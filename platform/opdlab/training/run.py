"""`opdlab train`: the runs of an experiment one after the other, measured and compared."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import lightning as L
from mlflow import MlflowClient
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from opdlab import comparison, loader, mlflow_page, models, tracking
from opdlab.config import Experiment, Model
from opdlab.evaluation import Subject, require
from opdlab.evaluator import Evaluator
from opdlab.interrupt import Stopped, StopRequest, die_with
from opdlab.measuring import measure
from opdlab.plugins import METHODS, type_name
from opdlab.prompts import open_prompts
from opdlab.quiet import quieten
from opdlab.serving.engine import OpenAIEngine
from opdlab.specialists import Specialist, chosen
from opdlab.teacher import Teacher
from opdlab.terminal import console
from opdlab.tracking import Tracker
from opdlab.training import manifest, ranks
from opdlab.training.checkpoint import AtomicCheckpointIO, read_checkpoint
from opdlab.training.group import CONFIG, Group, open_group
from opdlab.training.module import Distillation
from opdlab.training.pace import Follow, Pace, checkpoint_path
from opdlab.training.watch import Watch


@dataclass
class Session:
    """One execution of `opdlab train`: where it writes and how long its phases took."""

    group: Group
    client: MlflowClient
    experiment: str
    parent: str
    stop: StopRequest
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure the wall time of a phase."""
        started = perf_counter()
        yield
        self.seconds[name] = perf_counter() - started

    def schedule(self, name: str, tags: dict[str, str]) -> None:
        """Create a run in MLflow now, so that a server which goes away later cannot prevent it."""
        if not self.group.run(name):
            run_id = tracking.start_run(self.client, self.experiment, name, self.parent, tags)
            self.client.update_run(run_id, "SCHEDULED")
            self.group.update(name, run_id=run_id, status="scheduled")

    @contextmanager
    def tracked(self, name: str) -> Iterator[Tracker]:
        """A scheduled run, ended with the status that fits how the block ended."""
        self.group.update(name, status="running")
        run_id = self.group.run(name)["run_id"]
        tracker = Tracker(self.client, run_id, self.group.folder / name)
        tracker.begin()
        try:
            yield tracker
        except BaseException as error:
            interrupted = isinstance(error, (Stopped, KeyboardInterrupt))
            self.group.update(name, status="stopped" if interrupted else "failed")
            tracker.close("KILLED" if interrupted else "FAILED")
            raise
        tracker.close("FINISHED")
        self.group.update(name, status="finished")


def train(name: str, overrides: list[str], resume: bool = False) -> None:
    """Train and evaluate every run of an experiment, then compare them.

    Args:
        name: path or shipped name of the experiment.
        overrides: `key.path=value` settings.
        resume: go on with the newest execution of this experiment.

    Raises:
        SystemExit: a signal stopped the run (code 128 + signal); `resume` goes on.
    """
    started = perf_counter()
    quieten()
    config = loader.load_experiment(name, overrides)
    models.use_threads(config.training.threads)
    if ranks.rank(config.training):
        follow(config, resume)
        return
    for _, variant in loader.variants(config):
        require(variant.evaluation.benchmarks)
    client = tracking.open_client(tracking.store_uri(Path(config.output), config.tracking.uri))
    experiment = tracking.experiment_id(client, config.tracking.experiment, Path(config.output))
    for run_id in tracking.reap(client, experiment):
        console.print(
            f"[yellow]run {run_id} was left running by a process that died: now marked killed"
        )
    pair = load_pair(config)
    group = open_group(config, resume)
    parent = group.state()["parent"] or tracking.start_run(
        client, experiment, group.folder.name, None, {}
    )
    group.update(parent=parent)
    record = Tracker(client, parent, group.folder)
    record.begin()
    console.print(f"[bold]{config.name}[/] -> {group.folder}\n[dim]{config.description}[/]")
    status = "FAILED"
    with StopRequest() as stop:
        session = Session(group, client, experiment, parent, stop)
        session.seconds["start"] = perf_counter() - started
        try:
            run_all(session, config, pair)
            status = "FINISHED"
        except Stopped as stopped:
            status = "KILLED"
            console.print(f"[yellow]{stopped}; `opdlab train {name} --resume` goes on from here.")
            raise SystemExit(stopped.exit_code) from stopped
        finally:
            record.close(status)


def follow(config: Experiment, resume: bool) -> None:
    """Take part in every training of the leader's, in another process and on another device."""
    die_with(os.getppid(), signal.SIGKILL)
    group = open_group(config, resume=True) if resume else None
    with StopRequest() as stop:
        for name, variant in loader.variants(config):
            if group and group.run(name).get("status") == "finished":
                continue
            # Without a group all runs begin at the beginning, and only the leader writes.
            folder = group.folder / name if group else Path(os.devnull)
            try:
                fit(load_module(load_pair(variant), variant), variant, Follow(folder, stop))
            except Stopped:
                return


def run_all(session: Session, config: Experiment, pair: Pair) -> None:
    """References, then every run, then the comparison."""
    variants = loader.variants(config)
    references = config.evaluation.references if config.evaluation.benchmarks else []
    for reference in references:
        session.schedule(reference, {"opdlab.role": "reference"})
    for name, variant in variants:
        method = type_name(METHODS, variant.method)
        session.schedule(name, {"opdlab.role": "run", "opdlab.method": method})
    for reference in references:
        with session.phase(f"evaluate {reference}"):
            measure_reference(session, config, pair, reference)
    for name, variant in variants:
        if session.group.run(name).get("status") != "finished":
            train_one(session, name, variant)
    runs = [name for name, _ in variants]
    if config.evaluation.benchmarks:
        compare_runs(session, list(config.evaluation.references), runs)
    console.print(comparison.phase_table(session.seconds))
    ids = [session.group.run(name)["run_id"] for name in runs]
    mlflow_page.show_link(config.output, config.tracking.uri, session.experiment, ids)


def compare_runs(session: Session, references: list[str], runs: list[str]) -> None:
    """Each run against the student before it, and against the first run."""
    folders = {name: session.group.folder / name for name in [*references, *runs]}
    pairs = [("student", run) for run in runs if "student" in references]
    pairs += [(runs[0], run) for run in runs[1:]]
    comparison.report(folders, pairs, session.group.folder)


@dataclass(frozen=True)
class Pair:
    """Student and teacher as loaded, checked to speak the same vocabulary."""

    student: PreTrainedModel
    teacher: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    teacher_tokenizer: PreTrainedTokenizerBase
    vocabulary: int
    specialists: tuple[tuple[tuple[str, ...], PreTrainedModel], ...] = ()
    """Teachers of single domains, by patterns."""

    def scorers(self) -> tuple[Teacher, list[Specialist]]:
        """The teachers as scorers, the general one first."""
        return Teacher(self.teacher, self.vocabulary), [
            Specialist(domains, Teacher(model, self.vocabulary))
            for domains, model in self.specialists
        ]

    def teacher_of(self, benchmark: str) -> PreTrainedModel:
        """Who teaches a benchmark."""
        number = chosen(benchmark, [domains for domains, _ in self.specialists])
        return self.teacher if number is None else self.specialists[number][1]

    def subject(self, model: PreTrainedModel, config: Experiment) -> Subject:
        """A model of the pair with the sampling that the experiment uses."""
        engine = config.rollout
        # A server serves the student alone.
        if isinstance(engine, OpenAIEngine) and model is not self.student:
            engine = engine.in_process()
        return Subject(
            model=model,
            tokenizer=self.tokenizer,
            engine=engine,
            eos_ids=models.eos_ids(self.student, self.tokenizer),
            pad_id=models.pad_id(self.student, self.tokenizer),
            vocabulary=self.vocabulary,
            template=config.prompts.template,
        )


def load_pair(config: Experiment) -> Pair:
    """Load all models and refuse teachers whose vocabulary differs from the student's.

    Raises:
        ModelError: a model cannot be loaded, or the pair does not fit together.
    """
    student, tokenizer = load(config.student)
    teacher, teacher_tokenizer = load(config.teacher)
    shared = models.shared_vocabulary(tokenizer, teacher_tokenizer, student, teacher)
    specialists = []
    for one in config.specialists:
        model, theirs = load(one)
        shared = min(shared, models.shared_vocabulary(tokenizer, theirs, student, model))
        specialists.append((tuple(one.domains), model))
    return Pair(student, teacher, tokenizer, teacher_tokenizer, shared, tuple(specialists))


def load(source: Model) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model and its tokenizer."""
    model = models.load_model(source.path, source.revision, source.dtype)
    return model, models.load_tokenizer(source.path, source.revision)


def measure_reference(session: Session, config: Experiment, pair: Pair, name: str) -> None:
    """Evaluate the student before training, or the teacher; what is stored is not sampled again."""
    if session.group.run(name).get("status") == "finished":
        return
    settings = config.evaluation
    benchmarks: dict[PreTrainedModel, list[Evaluator]] = {}
    for one in settings.benchmarks:
        model = pair.student if name == "student" else pair.teacher_of(one.benchmark)
        benchmarks.setdefault(model, []).append(one)
    with session.tracked(name) as tracker:
        for model, mine in benchmarks.items():
            part = settings.model_copy(update={"benchmarks": mine})
            with working(model, config):
                measure(pair.subject(model, config), part, tracker, name, session.stop.check)


@contextmanager
def working(model: PreTrainedModel, config: Experiment) -> Iterator[None]:
    """Put a model on the accelerator for a while; training, and other models, need the room later."""
    model.to(models.device(config.training.accelerator))  # pyright: ignore[reportArgumentType]
    try:
        yield
    finally:
        model.cpu()


def train_one(session: Session, name: str, config: Experiment) -> None:
    """Train one run, from its newest checkpoint where there is one, and evaluate it."""
    # Models of the run before would be kept on their device by cycles that nobody collects in time.
    gc.collect()
    pair = load_pair(config)
    with session.tracked(name) as tracker:
        describe(tracker, config, pair)
        module = load_module(pair, config)
        with session.phase(f"train {name}"):
            fit(module, config, Watch(tracker, session.stop, config.training.hacking))
        folder = tracker.folder / "model"
        pair.student.save_pretrained(folder)
        pair.tokenizer.save_pretrained(folder)
        if config.tracking.weights:
            tracker.artifact(folder, "model")
        if not config.evaluation.benchmarks:
            return
        with session.phase(f"evaluate {name}"), working(pair.student, config):
            measure(module.subject, config.evaluation, tracker, name, session.stop.check)


def load_module(pair: Pair, config: Experiment) -> Distillation:
    """What is trained, with its teachers and prompts."""
    L.seed_everything(config.seed, verbose=False)
    teacher, specialists = pair.scorers()
    prompts = open_prompts(config.prompts, pair.tokenizer, config.seed)
    return Distillation(config, pair.subject(pair.student, config), teacher, prompts, specialists)


def fit(module: Distillation, config: Experiment, pace: Pace) -> None:
    """Lightning's loop, from the newest checkpoint where there is one; on every rank."""
    settings = config.training
    trainer = L.Trainer(
        max_steps=settings.steps,
        accumulate_grad_batches=settings.accumulate,
        gradient_clip_val=settings.gradient_clip or None,
        precision=settings.precision,
        accelerator=settings.accelerator,
        devices=settings.devices,
        num_nodes=settings.nodes,
        strategy=ranks.strategy(settings),
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        callbacks=[pace],
        plugins=[AtomicCheckpointIO()],
    )
    path = checkpoint_path(pace.folder)
    if path.exists():
        read_checkpoint(path)
        if not ranks.rank(settings):
            console.print(f"going on from {path}")
    steps = range(settings.steps * settings.accumulate)
    trainer.fit(module, steps, ckpt_path=path if path.exists() else None)  # pyright: ignore[reportArgumentType]
    # A signal in the moment before ours replaced Lightning's handlers makes `fit` return early.
    if signum := ranks.agreed(trainer, pace.stop.signum or 0):
        raise Stopped(signum)
    trainer.save_checkpoint(path)


def describe(tracker: Tracker, config: Experiment, pair: Pair) -> None:
    """Store what the run is made of, or check that it is still the same."""
    teacher = models.manifest(pair.teacher, config.teacher.path, config.teacher.revision)
    others = [
        models.manifest(model, one.path, one.revision)
        for one, (_, model) in zip(config.specialists, pair.specialists, strict=True)
    ]
    manifest.check_same_teacher(tracker.folder, [teacher, *others])
    content: dict[str, Any] = {
        "teacher": teacher,
        "specialists": others,
        "student": models.manifest(pair.student, config.student.path, config.student.revision),
        "code": manifest.code_version(),
        "environment": manifest.environment(),
        "seeds": {"training": config.seed, "evaluation": config.evaluation.seed},
    }
    path = manifest.write(tracker.folder, content)
    loader.save_resolved(config, tracker.folder / CONFIG)
    tracker.artifact(path)
    tracker.artifact(tracker.folder / CONFIG)
    tracker.params(config.model_dump(mode="json"))
    tracker.tags({"opdlab.commit": str(content["code"]["commit"])})
