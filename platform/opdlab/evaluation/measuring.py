"""Evaluation with a progress bar, and `opdlab eval`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from math import ceil
from pathlib import Path
from time import perf_counter

from rich.progress import TaskID

from opdlab import credentials, tracking
from opdlab.configuration import Evaluation, Experiment
from opdlab.console import Stopped, StopRequest, progress_bar, quieten
from opdlab.errors import ConfigError
from opdlab.evaluation import measured as evaluation, store
from opdlab.evaluation.comparison import RESULTS
from opdlab.evaluation.measured import ALONE, Share
from opdlab.evaluation.results import Scores
from opdlab.evaluation.served import open_served
from opdlab.evaluation.subjects import Measured, Subject
from opdlab.files import claimed, replace_metrics
from opdlab.identity import Owner
from opdlab.modelling import models
from opdlab.plugins import posed
from opdlab.records import Sample
from opdlab.serving import OpenAIEngine, same_way, unreadable
from opdlab.tracking import DataSet, Tracker, mlflow_store

TABLE_ROWS, TRACES = 500, 2
"""Answers of a benchmark in a table of MLflow's page, and as traces; all lie in the run's folder."""
COLUMNS = (
    "problem",
    "index",
    "prompt",
    "completion",
    "answer",
    "status",
    "reason",
    "tokens",
    "stop",
)


def evaluate_with_progress(
    subject: Measured,
    settings: Evaluation,
    owner: Owner,
    folder: Path,
    check: Callable[[], None],
    share: Share,
) -> list[Sample]:
    """`evaluation.evaluate` with bars of responses and verdicts; `check` may raise to stop it."""
    label = owner.model
    count = sum(len(posed.problems(b)) for b in settings.benchmarks) * settings.samples
    with progress_bar() as progress:
        # The time left is that of this process's share; what others have drawn is counted at its end.
        totals = {"sample": ceil(count / share.size), "grade": count}
        tasks = [progress.add_task(f"{what} {label}", total=n) for what, n in totals.items()]

        def advance(task: TaskID, rows: int) -> None:
            done = progress.tasks[task].completed + rows
            progress.update(task, completed=done, total=max(done, progress.tasks[task].total or 0))
            progress.figures = subject.notice()
            check()

        callbacks = [partial(advance, task) for task in tasks]
        return evaluation.evaluate(subject, settings, owner, folder, *callbacks, share=share)


def measure(
    subject: Measured,
    settings: Evaluation,
    tracker: Tracker,
    owner: Owner,
    check: Callable[[], None],
    share: Share = ALONE,
) -> list[Sample]:
    """Evaluate a model and record the results of its run."""
    folder = tracker.folder / "samples"
    started = perf_counter()
    samples = evaluate_with_progress(subject, settings, owner, folder, check, share)
    if samples:
        seconds = {"seconds/evaluation": perf_counter() - started}
        tracker.set(evaluation.headline(samples, every=True) | seconds)
        tracker.artifact(folder, "samples")
        _show(samples, tracker)
    return samples


def record_withdrawn(tracker: Tracker, draws: Collection[Path]) -> None:
    """Record what is left of evaluations whose samples were withdrawn: bounds, in the place of scores.

    Args:
        tracker: of the run that they were measured in.
        draws: folders of what was withdrawn; those of other runs are passed over.
    """
    folder = tracker.folder / "samples"
    for kept in store.sample_sets(folder):
        asked, samples = kept.asked, kept.samples(partial=True)
        # What was not finished is not recorded.
        if kept.path in draws and len(samples) == asked.problems * asked.samples:
            tracker.set(evaluation.headline(samples, every=True), asked.step)
            if asked.step is None:
                (tracker.folder.parent / RESULTS).unlink(missing_ok=True)
                tracker.artifact(folder, "samples")
                _tables(samples, tracker)
            else:
                known = evaluation.headline(samples)
                replace_metrics(tracker.folder, asked.step, f"{asked.benchmark}/", known)


def _show(samples: Sequence[Sample], tracker: Tracker) -> None:
    """A table of answers for each benchmark, some of them as traces, and the problems as data sets."""
    kept = store.sample_sets(tracker.folder / "samples")
    sets = {one.asked.benchmark: one.asked for one in kept}
    found = _tables(samples, tracker)
    traces = []
    for name, own in found.items():
        traces += [
            {
                "name": f"{name} {one.problem}",
                "inputs": {"prompt": one.prompt},
                "outputs": {"completion": one.completion, "answer": one.answer},
                "attributes": {"status": one.status, "tokens": one.tokens, "stop": one.stop},
                "seconds": one.seconds,
            }
            for one in [each for each in own if each.index == 0][:TRACES]
        ]
    tracker.inputs(
        [
            DataSet(name, one.data, "evaluation", name, one.problems)
            for name, one in sets.items()
            if name in found
        ]
    )
    tracker.traces(traces)


def _tables(samples: Sequence[Sample], tracker: Tracker) -> dict[str, list[Sample]]:
    """A table of answers for each benchmark; returns its answers by benchmark."""
    found: dict[str, list[Sample]] = {}
    for sample in samples:
        found.setdefault(sample.benchmark, []).append(sample)
    for name, own in found.items():
        some = own[:TABLE_ROWS]
        rows = {column: [getattr(one, column) for one in some] for column in COLUMNS}
        tracker.table(rows, f"evaluation-{name.replace('/', '-')}.json")
    return found


def evaluate_alone(
    config: Experiment,
    model: str,
    server: str | None = None,
    share: Share = ALONE,
) -> Scores:
    """Measure a model on the benchmarks of an experiment.

    Args:
        config: whose benchmarks, sampling and prompt template are used.
        model: folder of a model, `embedded:NAME`, or the folder of a run with a `model` in it.
        server: base URL of the OpenAI API that serves the model; only the tokenizer is then read here.
        share: of this process, where others draw theirs by `draw_share`.

    What is measured lies in `OUTPUT/evaluations/LABEL`; the same call again goes on where it was
    stopped.

    Raises:
        ConfigError: there are no benchmarks, or the server's url is none.
        Stopped: a signal came.
    """
    quieten()
    if not config.evaluation.benchmarks:
        raise ConfigError(
            f"{config.name} has no evaluation.benchmarks, so there is nothing to measure"
        )
    if server is not None and (fault := unreadable(credentials.cut(server))):
        raise ConfigError(f"--server {credentials.cut(server)}: the url {fault}")
    evaluation.require(config.evaluation.benchmarks)
    models.use_threads(config.training.threads)
    subject, owner, folder = _opened(config, model, server)
    with claimed(folder):
        return Scores(owner.model, _recorded(config, subject, owner, folder, share), folder)


def draw_share(config: Experiment, model: str, share: Share) -> None:
    """Draw what `evaluate_alone` in another process leaves to this one."""
    subject, owner, folder = _opened(config, model, None)
    with StopRequest() as stop:
        evaluation.evaluate(
            subject, config.evaluation, owner, folder / "samples", stop.check, share=share
        )


def _opened(config: Experiment, model: str, server: str | None) -> tuple[Measured, Owner, Path]:
    """What is to be measured, under which name, and where."""
    path = str(Path(model) / "model") if (Path(model) / "model").is_dir() else model
    subject, label = open_subject(config, path, model, server)
    folder = Path(config.output) / "evaluations" / label
    mlflow_store.make_output(folder)
    return subject, Owner(label, label=f"evaluations/{label}"), folder


def _recorded(
    config: Experiment, subject: Measured, owner: Owner, folder: Path, share: Share
) -> list[Sample]:
    """Measure into a folder and record it in MLflow."""
    client, experiment = mlflow_store.open_experiment(
        Path(config.output), config.tracking.uri, config.tracking.experiment
    )
    tracking.reap(client, experiment)
    run = tracking.start_run(
        client, experiment, f"eval {owner.model}", None, {"opdlab.role": "evaluation"}
    )
    tracker = Tracker(client, run, folder)
    status = "FAILED"
    try:
        with StopRequest() as stop:
            samples = measure(subject, config.evaluation, tracker, owner, stop.check, share)
        status = "FINISHED"
    except Stopped:
        status = "KILLED"
        raise
    finally:
        tracker.close(status)
    return samples


def open_subject(
    config: Experiment, path: str, model: str, server: str | None
) -> tuple[Measured, str]:
    """What is to be measured, in this process or behind a server, and its label."""
    engine = config.rollout
    if server is not None:
        known = engine if isinstance(engine, OpenAIEngine) else OpenAIEngine(url=server)
        engine = same_way(config.rollout, replace(known, url=server))
        served = open_served(engine, path, config.prompts.wording, Path(config.output))
        return served, served.label()
    # The file's rollouts may be served: what serves a student says nothing of this model.
    engine = engine.in_process()
    source = config.student
    device = models.device(config.training.accelerator)
    loaded = models.load_model(path, dtype=source.dtype, device=device)
    tokenizer = models.load_tokenizer(path)
    subject = Subject(
        model=loaded,
        tokenizer=tokenizer,
        engine=engine,
        eos_ids=models.eos_ids(loaded, tokenizer),
        pad_id=models.pad_id(loaded, tokenizer),
        template=config.prompts.wording,
    )
    return subject, label_of(model, subject.identity().key)


def label_of(model: str, key: str) -> str:
    """Name of what is measured: where it lies, and the beginning of a hash of its contents."""
    parts = [part for part in Path(model.replace(":", "-")).parts if part not in ("/", "..", ".")]
    return "-".join([*parts[-3:], key[:8]])
