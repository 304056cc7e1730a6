"""What the commands do, on experiments that are in memory."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.text import Text

from opdlab.configuration import Experiment, loader
from opdlab.console import WIDTH, Result, SymbolConsole
from opdlab.errors import ConfigError

if TYPE_CHECKING:
    from opdlab.diagnosis import Diagnosis
    from opdlab.evaluation import Comparison, Scores
    from opdlab.training import Trained


def load(name_or_path: str | Path, *overrides: str) -> Experiment:
    """Read an experiment and check all of it.

    Args:
        name_or_path: a YAML file, or the name of a shipped experiment (`quickstart`).
        overrides: `key.path=value`, the value in YAML.

    Raises:
        ConfigError: every fault, one a line: file, line, key, and the key that was likely meant.

    Example:
        >>> load("quickstart", "training.steps=20").training.steps
        20
    """
    return loader.load_experiment(name_or_path, overrides)


def as_experiment(experiment: Experiment | str | Path) -> Experiment:
    """An experiment, whether it is given or named."""
    return experiment if isinstance(experiment, Experiment) else load(experiment)


def train(
    experiment: Experiment | str | Path,
    *,
    resume: bool = False,
    anyway: bool = False,
    again: str = "the same call with resume=True",
) -> Trained:
    """Train, evaluate and compare the runs of an experiment.

    Args:
        resume: go on with the newest execution of this experiment.
        anyway: train even if the memory does not suffice by the plan.
        again: what goes on where a signal stopped it, for the message.

    Returns:
        The runs by name, with their metrics, models and scores.

    Raises:
        ConfigError: it does not fit.
        ResumeError: there is nothing to go on with, or another process trains there.
        SystemExit: a signal stopped it (128 + signal).
    """
    from opdlab.planning import explaining, require_room
    from opdlab.training import train as run

    config = as_experiment(experiment)
    if not anyway:
        require_room(config)
    with explaining(config):
        return run(config, resume, again)


def evaluate(
    model: str | Path,
    experiment: Experiment | str | Path | None = None,
    *,
    benchmarks: Sequence[str | Mapping[str, Any]] = (),
    samples: int | None = None,
    max_new_tokens: int | None = None,
    server: str | None = None,
) -> Scores:
    """Measure a model: mean@k, pass@k, with intervals over problems.

    What was sampled is kept: the same call again goes on where it was stopped.

    Args:
        model: a folder, the folder of a run, `embedded:NAME`, or of the hub `NAME@REVISION`.
        experiment: whose benchmarks, sampling and prompts are used; the quickstart's where none is given.
        benchmarks: names (`"gsm8k"`), or mappings as in an experiment, in place of the experiment's.
        samples: answers to each problem, in place of the experiment's.
        max_new_tokens: longest answer; needed where no experiment is given.
        server: base of OpenAI's API where the model is served; then only its tokenizer is read here.

    Raises:
        ConfigError: there is no benchmark, or no longest answer.

    Example:
        >>> scores = evaluate("embedded:teacher", benchmarks=["math"], samples=2, max_new_tokens=64)
        >>> scores.to_dataframe()["mean.value"]  # doctest: +SKIP
    """
    from opdlab.evaluation import evaluate_alone

    if experiment is None and (not benchmarks or max_new_tokens is None):
        raise ConfigError(
            "evaluate: without an experiment, say benchmarks=[...] and max_new_tokens=...: a shorter limit "
            "than a model's answers would count them as cut"
        )
    values: dict[str, Any] = {}
    if benchmarks:
        each = [{"type": one} if isinstance(one, str) else dict(one) for one in benchmarks]
        values["evaluation.benchmarks"] = each
    if samples is not None:
        values["evaluation.samples"] = samples
    if max_new_tokens is not None:
        values["rollout.max_new_tokens"] = max_new_tokens
        values["evaluation.max_new_tokens"] = None
    config = as_experiment("quickstart" if experiment is None else experiment)
    if experiment is None:
        values |= {"name": "evaluation", "runs": []}
    return evaluate_alone(
        loader.with_values(config, values) if values else config, str(model), server
    )


def compare(*runs: str | Path, output: str | Path = "runs") -> Comparison:
    """Set runs against the first of them, problem by problem: paired differences with intervals and p.

    Args:
        runs: folders, or their names below `output`; joined by commas, training seeds of one method.

    Raises:
        DataError: fewer than two, one named twice, or no benchmark that all measured in one way.

    Example:
        >>> compare("quickstart-001/opd", "quickstart-001/lgr").to_dataframe()  # doctest: +SKIP
    """
    from opdlab.evaluation import compare as run

    return run([str(one) for one in runs], str(output))


def diagnose(
    experiment: str | Path,
    *overrides: str,
    students: Sequence[str | Path] = (),
    teacher: str | Path | None = None,
    problems: int | None = None,
    samples: int = 1,
    cuts: int = 7,
    bins: int = 24,
    least: float = 0.8,
) -> Diagnosis:
    """Measure how the teacher's supervision decays along a student's answers.

    Args:
        experiment: a name or file; or the folder of a run, for its student before and after training.
        overrides: `key.path=value`.
        students, teacher: models to take instead.
        problems: of each benchmark, at most; None for all.
        samples: answers to each problem.
        cuts: places of hand-over.
        bins: of the position, at most.
        least: fidelity that counts for the effective horizon.

    Raises:
        ConfigError: there are no benchmarks to take problems from.
    """
    from opdlab.diagnosis import Settings, diagnose as run

    settings = Settings(problems, samples, cuts, bins, least)
    named = None if teacher is None else str(teacher)
    return run(str(experiment), [*overrides], [str(one) for one in students], named, settings)


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
    """What an experiment would do: sizes, memory, teacher cost, folders; nothing is trained or written.

    Args:
        gpu: for such cards (`h100`); None for this machine.
        gpus: how many; None for the experiment's devices.
        memory: of a card that is not listed, such as `24GB`.
        price: of a card and hour.

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
