"""`opdlab train`: the runs of an experiment one after the other, measured and compared."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter, time
from typing import Any

from mlflow import MlflowClient
from transformers import PreTrainedModel

from opdlab import tracking
from opdlab.configuration import Experiment, Repeat, loader, repeats
from opdlab.console import (
    ALARM,
    BOLD,
    DIM,
    END,
    YELLOW,
    Stopped,
    StopRequest,
    console,
    die_with,
    quieten,
)
from opdlab.errors import (
    AwayError,
    ConfigError,
    NonFiniteError,
    OtherDrawsError,
    PeerError,
    Terminated,
)
from opdlab.evaluation import (
    comparison,
    measure,
    over_seeds,
    record_withdrawn,
    require,
    withdraw_unproven,
)
from opdlab.files import begin_metrics, claimed, held_here, whole_folder
from opdlab.identity import EXECUTION, Execution, Owner
from opdlab.modelling import models
from opdlab.plugins import METHODS, Evaluator, type_name
from opdlab.prompts import open_prompts
from opdlab.tracking import Tracker, mlflow_page, mlflow_store
from opdlab.training import evaluating, manifest, ranks, teachers
from opdlab.training.fit import fit, require_accelerator
from opdlab.training.group import CONFIG, REFERENCES, Group, last_group, open_group
from opdlab.training.pace import Follow
from opdlab.training.pair import (
    Kept,
    Pair,
    by_prompts,
    load_module,
    load_pair,
    pair_to_train,
    require_prompts,
    working,
)
from opdlab.training.results import Trained
from opdlab.training.watch import Watch


@dataclass
class Session:
    """One execution of `opdlab train`: where it writes and how long its phases took."""

    group: Group
    client: MlflowClient
    experiment: str
    parent: str
    stop: StopRequest
    resumed: bool = False
    trial: Mapping[str, Any] = field(default_factory=dict)
    """Of a sweep: the study, number and parameters of the trial."""
    seconds: dict[str, float] = field(default_factory=dict)
    kept: Kept = field(default_factory=dict)
    """Models that no training has changed."""

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure the wall time of a phase."""
        started = perf_counter()
        yield
        self.seconds[name] = perf_counter() - started

    def schedule(self, name: str, tags: dict[str, str]) -> None:
        """Create a run in MLflow now, so that a server which goes away later cannot prevent it."""
        if self.group.finished(name):
            return
        known = self.group.run(name).get("run_id")
        run_id = tracking.run_for(self.client, self.experiment, name, self.parent, tags, known)
        if run_id != known:
            with mlflow_store.answering(str(self.client.tracking_uri)):
                self.client.update_run(run_id, "SCHEDULED")
            self.group.update(name, run_id=run_id, status="scheduled")

    def abandon(self) -> None:
        """End the runs in MLflow that were never begun; `--resume` takes them up again."""
        runs = self.group.state()["runs"].values()
        scheduled = [one["run_id"] for one in runs if one.get("status") == "scheduled"]
        tracking.abandon(self.client, scheduled)

    def withdraw(self, error: BaseException | None = None) -> list[Path]:
        """Withdraw what a server drew otherwise than asked, of a sweep's references as well.

        Args:
            error: what ended a run; None for what an earlier process has not finished.

        Returns:
            The marks of what is withdrawn, for `take_back`.
        """
        folder = self.group.folder
        groups = (folder, folder.parent / REFERENCES) if self.trial else (folder,)
        runs = [group / name for group in groups for name in Group(group).state()["runs"]]
        stores = [run / "samples" for run in runs]
        return withdraw_unproven(stores, error if isinstance(error, OtherDrawsError) else None)

    def take_back(self, marks: Sequence[Path]) -> None:
        """Take what is withdrawn out of MLflow and the curves; `--resume` does what is left of it."""
        for folder in dict.fromkeys(mark.parents[2] for mark in marks):
            group = Group(folder.parent)
            tracker = Tracker(self.client, group.run(folder.name)["run_id"], folder)
            record_withdrawn(tracker, [mark.parent for mark in marks])
            tracker.close("FINISHED" if group.finished(folder.name) else "FAILED")
        for mark in marks:
            mark.unlink(missing_ok=True)

    @contextmanager
    def tracked(self, name: str) -> Iterator[Tracker]:
        """A scheduled run, ended with the status that fits how the block ended."""
        run_id = self.group.run(name)["run_id"]
        tracker = Tracker(self.client, run_id, self.group.folder / name)
        self.group.update(name, status="running", run_id=tracker.run_id)
        tracker.begin()
        try:
            yield tracker
        except BaseException as error:
            interrupted = isinstance(error, (Stopped, Terminated))
            self.group.update(name, status="stopped" if interrupted else "failed")
            withdrawn: list[Path] = []
            try:
                withdrawn = self.withdraw(error)
            finally:
                tracker.close("KILLED" if interrupted else "FAILED")
            self.take_back(withdrawn)
            raise
        tracker.close("FINISHED")
        self.group.update(name, status="finished", run_id=tracker.run_id)


def train(
    config: Experiment,
    resume: bool = False,
    again: str = "the same call",
    began: float | None = None,
    side_by_side: SideBySide | None = None,
) -> Trained:
    """Train and evaluate every run of an experiment, then compare them.

    Args:
        resume: go on with the newest execution that has this configuration.
        side_by_side: trains several runs at once; None for one after the other.
        again: how to continue after a signal, for the message.
        began: when it was asked for, in seconds since 1970: imports take some; None for now.

    Raises:
        ResumeError: another process trains in the folder that `resume` would take up.
        SystemExit: a signal stopped the run (code 128 + signal); `resume` goes on.
    """
    began = began or time()
    quieten()
    models.use_threads(config.training.threads)
    if ranks.rank(config.training):
        follow(config, resume)
        return Trained.of(last_group(config).folder)
    for _, variant in loader.variants(config):
        require_all(variant)
    group = last_group(config) if resume else None
    client, experiment = mlflow_store.open_experiment(
        Path(config.output), config.tracking.uri, config.tracking.experiment
    )
    for run_id in tracking.reap(client, experiment):
        console.print(
            f"{YELLOW}run {run_id} was left running by a process that died: now marked killed"
        )
    kept: Kept = {}
    require_prompts(config, load_pair(config, kept=kept))
    group = group or open_group(config)
    with claimed(group.folder):
        known = group.state()["parent"]
        parent = tracking.run_for(client, experiment, group.folder.name, None, {}, known)
        group.update(parent=parent)
        record = Tracker(client, parent, group.folder)
        record.begin()
        record.describe(config.description)
        console.print(f"{BOLD}{config.name}{END} -> {group.folder}\n{DIM}{config.description}{END}")
        status = "FAILED"
        with StopRequest() as stop:
            session = Session(group, client, experiment, parent, stop, resume, kept=kept)
            session.seconds["start"] = time() - began
            try:
                run_all(session, config, side_by_side)
                status = "FINISHED"
            except Stopped as stopped:
                status = "KILLED"
                console.print(f"{YELLOW}{stopped}; {again} continues from here.", soft_wrap=True)
                raise SystemExit(stopped.exit_code) from stopped
            finally:
                session.abandon()
                record.close(status)
    return Trained.of(group.folder)


def _require_weights_sent(config: Experiment) -> None:
    """Refuse a server that would be asked for answers of weights that it does not get.

    Raises:
        ConfigError: the student is sampled after a step of training.
    """
    later = config.training.rollouts > 1 or bool(config.evaluation.benchmarks)
    if later and not config.rollout.keeps_up:
        raise ConfigError(
            f"{config.name}: rollout.weights_folder is missing: the student is sampled after its weights "
            "have changed, and the server would have the old ones. Set it to a folder that the server sees "
            "under the same name"
        )


def require_all(config: Experiment) -> None:
    """Refuse to begin where what a run needs only later is not there.

    Raises:
        OpdlabError: a benchmark's data, the prompts or the accelerator are missing, or the student could
            not read the prompts.
    """
    require(config.evaluation.benchmarks)
    require_accelerator(config.training)
    _require_weights_sent(config)
    tokenizer = models.load_tokenizer(config.student.path, config.student.revision)
    for runs in by_prompts(config):
        one = runs[0]
        prompts = open_prompts(one.prompts, tokenizer, one.seed, one.evaluation.benchmarks)
        prompts.prompt(0)
        prompts.require_known()
        graded = any(run.method.graded or run.training.hacking.grade_every for run in runs)
        if prompts.graded and graded:
            prompts.require_graders()
    for server, size in teachers.contexts([config]).items():
        if config.rollout.max_new_tokens >= size:
            raise ConfigError(
                f"{config.name}: rollout.max_new_tokens ({config.rollout.max_new_tokens}) leaves a prompt "
                f"no room: the {server} takes {size} tokens of prompt and answer together; set it lower, "
                "or start the server with a larger --max-model-len (`opdlab teach`: --tokens)"
            )


def follow(config: Experiment, resume: bool) -> None:
    """Take part in every training of the leader's, in another process and on another device."""
    follow_group(last_group(config) if resume else None, repeats(loader.variants(config)))


def follow_group(group: Group | None, trainings: Sequence[Repeat]) -> None:
    """Take part in those trainings of a group that are not finished; None for those of a new one."""
    die_with(os.getppid(), signal.SIGKILL)
    kept: Kept = {}
    with StopRequest() as stop:
        for one in trainings:
            if group and group.finished(one.name):
                continue
            # Without a group all runs begin at the beginning, and only the leader writes.
            folder = group.folder / one.name if group else Path(os.devnull)
            module = load_module(pair_to_train(one.config, kept), one.config)
            try:
                fit(module, one.config.training, Follow(folder, stop))
                if one.config.evaluation.benchmarks:
                    opened = partial(evaluating.trained, module, one.config)
                    with ranks.naming_the_lost(several=True):
                        evaluating.follow(one.config, opened, stop.check)
            except (Stopped, PeerError, NonFiniteError, AwayError):
                # The leader meets the same and says why. It would be killed if a process that it started
                # ended with an error.
                return
            except Exception as error:
                # The leader finds the connection closed.
                number = ranks.rank(one.config.training)
                console.print(
                    f"{ALARM}training process {number}: {type(error).__name__}: {error}{END}"
                )
                raise


SideBySide = Callable[[Session, Experiment, Sequence[Repeat]], None]
"""Trains runs at once; see `workers.train_side_by_side`."""


def run_all(session: Session, config: Experiment, side_by_side: SideBySide | None) -> None:
    """References, then every run, then the comparison."""
    trainings = repeats(loader.variants(config))
    references = config.evaluation.references if config.evaluation.benchmarks else []
    for reference in references:
        session.schedule(reference, {"opdlab.role": "reference"})
    for one in trainings:
        method = type_name(METHODS, one.config.method)
        seed = str(one.config.seed)
        tags = {"opdlab.role": "run", "opdlab.method": method, "opdlab.seed": seed}
        session.schedule(one.name, tags)
        session.group.update(one.name, repeats=one.run)
    session.take_back(session.withdraw())
    for reference in references:
        with session.phase(f"evaluate {reference}"):
            measure_reference(session, config, reference)
    waiting = [one for one in trainings if not session.group.finished(one.name)]
    if side_by_side is not None:
        with session.phase("train side by side"):
            side_by_side(session, config, waiting)
    else:
        for one in waiting:
            train_one(session, one.name, one.config)
    runs = [one.name for one in trainings]
    if config.evaluation.benchmarks:
        with session.phase("compare"):
            compare_runs(session, list(config.evaluation.references), trainings)
    table = comparison.phase_table(session.seconds)
    if session.resumed:
        table.caption = "without what was done before --resume"
    console.print(table)
    ids = [session.group.run(name)["run_id"] for name in runs]
    mlflow_page.show_link(config.output, config.tracking.uri, session.experiment, ids)


def compare_runs(session: Session, references: list[str], trainings: list[Repeat]) -> None:
    """Each run against the student before it, and against the first run; of several seeds, methods."""
    runs = [one.name for one in trainings]
    folders = {name: session.group.folder / name for name in [*references, *runs]}
    if trainings[0].name != trainings[0].run:
        methods: dict[str, dict[str, Path]] = {}
        for one in trainings:
            methods.setdefault(one.run, {})[one.name] = folders[one.name]
        fixed = {name: folders[name] for name in references}
        over_seeds.report(fixed, methods, session.group.folder)
        return
    pairs = [("student", run) for run in runs if "student" in references]
    pairs += [(runs[0], run) for run in runs[1:]]
    comparison.report(folders, pairs, session.group.folder)


def measure_reference(session: Session, config: Experiment, name: str) -> None:
    """Evaluate the student before training, or the teacher; what is stored is not sampled again."""
    if session.group.finished(name):
        return
    pair = load_pair(config, kept=session.kept)
    settings = config.evaluation
    benchmarks: dict[PreTrainedModel, list[Evaluator]] = {}
    for one in settings.benchmarks:
        model = pair.student if name == "student" else pair.teacher_of(one.benchmark)
        benchmarks.setdefault(model, []).append(one)
    sources = dict(pair.sources(config))
    label = session.group.label(name, config.output)
    owner = Owner(name, role=name, execution=session.group.id, label=label)  # type: ignore[arg-type]
    with session.tracked(name) as tracker:
        for model, mine in benchmarks.items():
            part = settings.model_copy(update={"benchmarks": mine})
            source = sources.get(model)
            if source is not None and source.server is not None:
                subject = teachers.measured(source, config)
                measure(subject, part, tracker, owner, session.stop.check)
                continue
            with working(model, config):
                measure(pair.subject(model, config), part, tracker, owner, session.stop.check)


def train_one(session: Session, name: str, config: Experiment) -> None:
    """Train one run, from its newest checkpoint where there is one, and evaluate it."""
    folder = session.group.folder / name
    folder.mkdir(exist_ok=True)
    pair = pair_to_train(config, session.kept)
    if held_here(folder):
        # A worker whose command was killed may need a moment to stop.
        console.print(f"{YELLOW}waiting for the process that still works in {folder}{END}")
    with claimed(folder, patient=True), session.tracked(name) as tracker:
        contents = contents_of(pair, config)
        module = load_module(pair, config)
        execution = describe(session, name, config, contents, module.prompts.manifest())
        teachers.expect(module.teachers(), [execution.teacher, *execution.specialists])
        begin_metrics(tracker.folder, execution.id)
        module.execution = execution.id
        tracker.artifact(tracker.folder / EXECUTION)
        tracker.artifact(tracker.folder / CONFIG)
        tracker.params(config.model_dump(mode="json"))
        tracker.tags({"opdlab.commit": str(execution.code["commit"])})
        tracker.describe(config.description)
        tracker.inputs([_prompts(config, execution)])
        owner = Owner(name, "run", execution=execution.id, label=execution.label)
        watch = Watch(tracker, session.stop, config.training, owner)
        with session.phase(f"train {name}"):
            fit(module, config.training, watch)
        folder = tracker.folder / "model"
        with whole_folder(folder) as partial:
            module.save(partial)
            pair.tokenizer.save_pretrained(partial)
            models.sign(partial, execution.id)
        if config.tracking.weights:
            tracker.artifact(folder, "model")
            if config.tracking.register:
                tracker.register(config.tracking.register, "model", execution.label)
        if config.evaluation.benchmarks:
            watch.onlookers.phase("evaluating")
            with (
                session.phase(f"evaluate {name}"),
                ranks.naming_the_lost(config.training.world > 1) as over,
            ):
                ranks.give_time(over)
                share = evaluating.lead(config, owner, tracker.folder)
                with evaluating.trained(module, config, tracker.folder) as subject:
                    measure(subject, config.evaluation, tracker, owner, session.stop.check, share)
        watch.onlookers.phase("ended")


def _prompts(config: Experiment, execution: Execution) -> tracking.DataSet:
    """The prompts of a training as a data set of MLflow."""
    told = execution.prompts
    sha256, count = str(told.get("sha256")), told.get("count")
    return tracking.DataSet(config.prompts.type, sha256, "training", config.name, count)


def contents_of(pair: Pair, config: Experiment) -> dict[str, Any]:
    """What identifies the models of a training, before it gives the student adapters."""

    student, template = config.student, config.prompts.template
    general, *others = (
        teachers.contents(source, model, template) for model, source in pair.sources(config)
    )
    return {
        "student": models.manifest(pair.student, student.path, student.revision, template),
        "teacher": general,
        "specialists": others,
    }


def describe(
    session: Session,
    name: str,
    config: Experiment,
    contents: dict[str, Any],
    prompts: dict[str, Any],
) -> Execution:
    """Write down what a training is made of, or check that it still is what it was begun with.

    Args:
        contents: of its models, see `contents_of`.

    Raises:
        ResumeError: a model or the prompts changed since.
    """
    folder = session.group.folder / name
    wanted = Execution(
        group=session.group.id,
        label=session.group.label(name, config.output),
        experiment=config.name,
        run=session.group.run(name).get("repeats", name),
        method=type_name(METHODS, config.method),
        seed=config.seed,
        settings=config.model_dump(mode="json"),
        **contents,
        prompts=prompts,
        code=manifest.code_version(),
        environment=manifest.environment(),
        trial=session.trial,
    )
    begun = wanted.begun_in(folder)
    if changed := wanted.other_code(begun):
        console.print(f"{YELLOW}{folder!s}: {changed}{END}")
    loader.save_resolved(config, folder / CONFIG)
    return begun
