"""The commands as functions, for experiments in memory."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.text import Text

from opdlab.configuration import Experiment, loader
from opdlab.console import WIDTH, Result, SymbolConsole
from opdlab.errors import ConfigError, DataError
from opdlab.plugins import Evaluator, describe

if TYPE_CHECKING:
    from opdlab.diagnosis import Diagnosis
    from opdlab.evaluation import Comparison, Scores
    from opdlab.training import Trained

Place = str | os.PathLike[str]
"""A path or a name; or a run or scores, which know their folder."""
Benchmark = str | Mapping[str, Any] | Evaluator


def load(name_or_path: str | Path, *overrides: str) -> Experiment:
    """Load an experiment and validate it.

    Args:
        name_or_path: a YAML file, or the name of a shipped experiment (`quickstart`).
        overrides: `key.path=value`, the value in YAML.

    Returns:
        The validated experiment, which does not change any more.

    Raises:
        ConfigError: all mistakes, one per line: file, line, key, and the key that was probably meant.

    Examples:
        >>> load("quickstart", "training.steps=20").training.steps
        20
    """
    for word in (name_or_path, *overrides):
        if not isinstance(word, str | Path):
            raise ConfigError(
                f"load: {type(word).__name__} is not a text; give a name or file, and overrides as "
                '"key.path=value"'
            )
    return loader.load_experiment(name_or_path, overrides)


def as_experiment(experiment: Experiment | str | Path) -> Experiment:
    """An experiment, given or by its name.

    Returns:
        The validated experiment.

    Raises:
        ConfigError: it is neither, or the named file is invalid.
    """
    if isinstance(experiment, str | Path):
        return load(experiment)
    if not isinstance(experiment, Experiment):
        raise ConfigError(
            f"{type(experiment).__name__} is not an experiment; give what `load` returned, a name or a file"
        )
    return experiment


def as_path(what: str, given: Place) -> str:
    """The folder of a run, of scores or of a model.

    Returns:
        The path as text.

    Raises:
        DataError: it is neither a path nor an object with a folder.
    """
    try:
        return os.fspath(given)
    except TypeError:
        raise DataError(
            f"{what}: {type(given).__name__} has no folder; give a run, a folder or a name. A model in "
            "memory is written by its save_pretrained(folder)"
        ) from None


def train(
    experiment: Experiment | str | Path,
    *,
    resume: bool = False,
    workers: int = 1,
    anyway: bool = False,
    again: str = "the same call with resume=True",
) -> Trained:
    """Train, evaluate and compare the runs of an experiment.

    Args:
        experiment: a loaded experiment, a name or a file.
        resume: continue the newest execution of this experiment.
        workers: runs that are trained at a time, in processes of their own. Each takes GPUs that no other
            has where there are enough.
        anyway: train even if the plan says that memory does not suffice.
        again: how to continue after a signal, for the message.

    Returns:
        The runs by name, with their metrics, models and scores.

    Raises:
        ConfigError: it does not fit.
        ResumeError: there is nothing to continue, or another process trains there.
        SystemExit: a signal stopped it (128 + signal).
        WorkersError: with `workers`, runs failed, and all others are done.
    """
    began = time()
    config = as_experiment(experiment)

    from opdlab.planning import explaining, require_room
    from opdlab.training import train as run, train_with_workers

    if not anyway:
        require_room(config, workers)
    with explaining(config):
        if workers > 1:
            return train_with_workers(config, workers, resume, again, began)
        return run(config, resume, again, began)


def evaluate(
    model: Place,
    experiment: Experiment | str | Path | None = None,
    *,
    benchmarks: Benchmark | Sequence[Benchmark] = (),
    samples: int | None = None,
    max_new_tokens: int | None = None,
    server: str | None = None,
    workers: int = 1,
) -> Scores:
    """Measure a model: mean@k, pass@k, with intervals over problems.

    Samples are stored as they arrive: repeat the call to continue after an interruption.

    Args:
        model: a folder, a run or its folder, `embedded:NAME`, or `NAME@REVISION` on the hub.
        experiment: provides benchmarks, sampling and prompts; by default the quickstart.
        benchmarks: names (`"gsm8k"`), mappings as in an experiment, or evaluators, instead of the
            experiment's.
        samples: answers per problem, instead of the experiment's.
        max_new_tokens: longest answer in tokens; required without an experiment.
        server: base URL of the OpenAI API that serves the model; only the tokenizer is then read here.
        workers: number of processes that sample answers, each on its own GPU if there are enough.

    Returns:
        Scores by benchmark, as shares between 0 and 1, with their samples.

    Raises:
        ConfigError: there is no benchmark, or no longest answer; or several workers for a server.
        DataError: `model` is in memory, so that the record could not say what was measured.

    Examples:
        >>> benchmark = {"type": "math", "limit": 4}
        >>> scores = evaluate("embedded:teacher", benchmarks=benchmark, max_new_tokens=64)  # doctest: +SKIP
        >>> scores.to_dataframe()["mean.value"]  # doctest: +SKIP
    """
    from opdlab.evaluation import evaluate_alone
    from opdlab.training import evaluate_with_workers

    path = as_path("evaluate", model)
    if experiment is None and (not benchmarks or max_new_tokens is None):
        raise ConfigError(
            "evaluate: without an experiment, say benchmarks=[...] and max_new_tokens=...: a shorter limit "
            "than a model's answers would count them as cut"
        )
    values: dict[str, Any] = {}
    if benchmarks:
        alone = isinstance(benchmarks, str | Mapping | Evaluator)
        values["evaluation.benchmarks"] = [
            _described(one) for one in ([benchmarks] if alone else benchmarks)
        ]
    if samples is not None:
        values["evaluation.samples"] = samples
    if max_new_tokens is not None:
        values["rollout.max_new_tokens"] = max_new_tokens
        values["evaluation.max_new_tokens"] = None
    config = as_experiment("quickstart" if experiment is None else experiment)
    if experiment is None:
        values |= {"name": "evaluation", "runs": []}
    if values:
        config = loader.with_values(config, values)
    if workers > 1:
        if server is not None:
            raise ConfigError(
                "evaluate: a server samples rollout.concurrency answers at a time; leave out server or "
                "workers"
            )
        return evaluate_with_workers(config, path, workers)
    return evaluate_alone(config, path, server)


def _described(benchmark: Benchmark) -> dict[str, Any]:
    """A benchmark as an experiment names it."""
    if isinstance(benchmark, Evaluator):
        return describe(benchmark)
    return {"type": benchmark} if isinstance(benchmark, str) else dict(benchmark)


def compare(*runs: Place, output: str | Path = "runs") -> Comparison:
    """Compare runs with the first of them, problem by problem: paired differences, intervals, p-values.

    Args:
        runs: values of what `train` returned, scores, folders, or names below `output`; names joined by
            commas are training seeds of one method.
        output: folder in which names are looked up.

    Returns:
        Scores, and differences from the first run as shares between -1 and 1.

    Raises:
        DataError: fewer than two runs, one of them twice, or no benchmark that all measured by one
            protocol.

    Examples:
        >>> runs = train("quickstart")  # doctest: +SKIP
        >>> compare(runs["opd"], runs["lgr"]).to_dataframe()  # doctest: +SKIP
    """
    from opdlab.evaluation import compare as run

    return run([as_path("compare", one) for one in runs], str(output))


def diagnose(
    experiment: Experiment | Place,
    *overrides: str,
    students: Sequence[Place] = (),
    teacher: str | Path | None = None,
    problems: int | None = None,
    samples: int = 1,
    cuts: int = 7,
    bins: int = 24,
    least: float = 0.8,
) -> Diagnosis:
    """Measure how the teacher's supervision decays along a student's answers.

    Args:
        experiment: a loaded experiment, a name or a file; or a run or its folder, for its student
            before and after training.
        overrides: `key.path=value`, for a name or file.
        students: models, or runs in the order of training, instead of the experiment's student.
        teacher: a model instead of the experiment's teacher.
        problems: most problems per benchmark; None for all.
        samples: answers to each problem.
        cuts: number of prefix lengths from which the teacher completes answers.
        bins: most bins of the position.
        least: fidelity that counts for the effective horizon.

    Returns:
        The findings and the page on which they are shown.

    Raises:
        ConfigError: the experiment has no benchmarks, or overrides are given for a loaded experiment.
    """
    from opdlab.diagnosis import Settings, diagnose as run

    settings = Settings(problems, samples, cuts, bins, least)
    named = None if teacher is None else str(teacher)
    if isinstance(experiment, Experiment):
        if overrides:
            raise ConfigError("diagnose: this experiment is loaded; give the overrides to `load`")
        asked = experiment
    else:
        asked = as_path("diagnose", experiment)
    return run(asked, [*overrides], [as_path("students", one) for one in students], named, settings)


@dataclass(frozen=True)
class Plan(Result):
    """What an experiment would do.

    Attributes:
        text: as `opdlab plan` prints it.
        memory: bytes of a device by run, by what takes them; empty where a model is out of reach.
    """

    text: Text
    memory: Mapping[str, Mapping[str, int]]

    def rows(self) -> list[Mapping[str, Any]]:
        """One for each run: bytes by what takes them."""
        return [{"run": name, **one} for name, one in self.memory.items()]

    def shown(self) -> list[RenderableType]:
        return [self.text]


def plan(
    experiment: Experiment | str | Path,
    *,
    gpu: str | None = None,
    gpus: int | None = None,
    memory: str | None = None,
    price: float | None = None,
) -> Plan:
    """Plan an experiment: sizes, memory, teacher cost, folders; nothing is trained or written.

    Args:
        experiment: a loaded experiment, a name or a file.
        gpu: card to plan for (`h100`); None for this machine.
        gpus: number of cards; None for the experiment's devices.
        memory: memory of a card that is not listed, such as `24GB`.
        price: per card and hour.

    Returns:
        What `opdlab plan` prints, and bytes of a device by run.

    Raises:
        ConfigError: no such card.
        ModelError: a model's folder is missing.
    """
    from opdlab.errors import DataError, OutOfReachError
    from opdlab.planning import Asked, card_of, memory_of_runs, show, show_on

    config = as_experiment(experiment)
    told = SymbolConsole(file=io.StringIO(), width=WIDTH, record=True)
    asked = None if gpu is None and memory is None else Asked(card_of(gpu, memory), gpus, price)
    if asked is None:
        show(config, told)
    else:
        show_on(asked, config, told)
    try:
        found = memory_of_runs(config, asked)
    except (OutOfReachError, DataError):
        found = {}
    return Plan(Text.from_ansi(told.export_text(styles=True)), found)
