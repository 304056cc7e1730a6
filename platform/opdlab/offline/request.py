"""What is to be scored, and an experiment as that needs it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from opdlab.configuration import Experiment, asks_at_ends
from opdlab.errors import ConfigError, DataError
from opdlab.evaluation import find_run
from opdlab.methods import OPD, SFT, Method
from opdlab.offline.recorded import RecordedAnswers
from opdlab.prompts import DatasetSource, PromptSource
from opdlab.scores import Candidates, Kind

Writer = Literal["given", "teacher", "student", "run"]
WRITERS: tuple[Writer, ...] = get_args(Writer)
Kept = Literal["all", "correct"]
KEPT: tuple[Kept, ...] = get_args(Kept)
DEFAULT = Kind()
MOST_ROWS = 256
SHARD_BYTES = 128 << 20
"""Of a shard, about: as much is lost by a kill, and held while it is written."""


@dataclass(frozen=True)
class Asked:
    """What is to be scored.

    Attributes:
        answers: whose: those of the data, samples of the teacher or of the student, or those of a run.
        kind: what is kept of the teacher's distributions.
        samples: answers to each prompt, where they are sampled.
        keep: all answers, or those that the grader calls correct.
        prompts: how many; None for all of a data set, or of a run, once.
        run: folder of the run whose answers they are.
    """

    answers: Writer = "given"
    kind: Kind = DEFAULT
    samples: int = 1
    keep: Kept = "all"
    prompts: int | None = None
    run: Path | None = None

    def __post_init__(self) -> None:
        if self.answers not in WRITERS:
            raise ConfigError(f"--answers {self.answers}: it is one of {', '.join(WRITERS)}")
        if self.keep not in KEPT:
            raise ConfigError(f"--keep {self.keep}: it is one of {', '.join(KEPT)}")
        for option, value in (("samples", self.samples), ("prompts", self.prompts)):
            if value is not None and value < 1:
                raise ConfigError(f"--{option} {value}: it is 1 or more")
        if self.answers == "given" and self.samples > 1:
            raise ConfigError("--samples: a prompt has one given answer; leave it out")
        if self.answers == "run" and self.samples > 1:
            raise ConfigError("--samples: all answers of the run are scored; leave it out")

    @property
    def sampled(self) -> bool:
        """Whether the answers are sampled now."""
        return self.answers in ("teacher", "student")


def asked_of(answers: str, output: Path, **more: Any) -> Asked:
    """What is to be scored, where a run may be named in place of who writes the answers.

    Args:
        answers: `given`, `teacher`, `student`, or the folder of a run.
        output: where runs are looked for by name.

    Raises:
        ConfigError: it is none of these.
    """
    if answers in WRITERS and answers != "run":
        return Asked(answers=answers, **more)  # pyright: ignore[reportArgumentType]
    try:
        folder = find_run(answers, output)
    except DataError as error:
        names = ", ".join(name for name in WRITERS if name != "run")
        raise ConfigError(f"--answers {answers}: it is not one of {names}, and {error}") from error
    return Asked(answers="run", run=folder, **more)


def prepared(config: Experiment, asked: Asked) -> Experiment:
    """The experiment by which answers are sampled and scored.

    Raises:
        ConfigError: it cannot be done with this experiment.
    """
    for fault in _unfit(config, asked):
        raise ConfigError(f"{config.name}: {fault}")
    prompts = config.prompts
    if prompts.type == "dataset":
        given = float(asked.answers == "given")
        prompts = prompts.model_copy(update={"given": given, "shuffle": False})
    method = method_for(config.method, asked.answers)
    # Of one prompt more answers may be asked for than a step of training has in memory.
    rows = config.training.rollout_rows or _rows_of_a_step(config)
    update: dict[str, Any] = {
        "runs": [],
        "sweep": None,
        "prompts": prompts,
        "method": method,
        "rollout": replace(config.rollout, group_size=asked.samples),
        "training": config.training.model_copy(update={"rollout_rows": rows}),
    }
    return config.model_copy(update=update)


def _unfit(config: Experiment, asked: Asked) -> Iterator[str]:
    """Why it cannot be done with this experiment."""
    if config.teacher.scores is not None:
        yield "teacher.scores are scores already; name a model or a server as teacher"
    if config.specialists:
        yield (
            "a store holds the scores of one teacher, and there are specialists; score with each of them "
            "as teacher, into a folder of its own"
        )
    server = config.teacher.server
    if server is not None and server.type == "opdlab" and asked.kind.name == "hidden":
        yield (
            f"--kind {asked.kind}: the store would need the teacher's vocabulary projection, which its "
            "service has; take drawn:12 or top_k:64, or a teacher in this process"
        )
    elif server is not None and server.type == "vllm" and asked.kind.name in ("hidden", "drawn"):
        yield (
            f"--kind {asked.kind}: a server returns only likely tokens; take top_k:64 or sampled, or "
            "a teacher in this process"
        )
    if asked.answers == "teacher" and config.rollout.served:
        yield (
            "rollout.type: a server serves the student, and --answers teacher are the teacher's; take an "
            "engine in this process"
        )
    yield from _unfit_prompts(config.prompts, asked)


def _unfit_prompts(prompts: Any, asked: Asked) -> Iterator[str]:
    """Why answers to these prompts cannot be scored."""
    if asked.answers == "given" and prompts.type != "dataset":
        yield (
            "--answers given takes answers from prompts of `type: dataset`; take --answers teacher or "
            "student, or such prompts"
        )
    if asked.answers == "run":
        if prompts.prefill:
            yield "prompts.prefill: it does not go with the answers of a run; remove it"
        return
    if prompts.type == "scored":
        yield "prompts.type scored is of scores that are there already"
    if asked.answers == "given" and prompts.prefill:
        yield "prompts.prefill: it does not go with given answers; remove it"
    if prompts.type == "dataset" and len(prompts.resolved()) > 1:
        yield (
            "prompts.sources are mixed by weights, so some rows come twice and some never; score each "
            "source by itself"
        )
    if asked.keep == "correct" and not prompts.graded:
        yield (
            "--keep correct needs prompts that can be graded; set prompts.answer_column and prompts.grader"
        )


def method_for(method: Method, answers: Writer) -> Method:
    """The method that decides who writes the answers, and which candidates are asked about."""
    if answers == "teacher":
        return SFT()
    return OPD() if method.sampler == "teacher" else method


def candidates_of(method: Method) -> Candidates | None:
    """The candidates whose confidences are kept with the answers; None where the method asks about none.

    Raises:
        ConfigError: which are asked about depends on all answers of a step, or they are followed further
            than a store tells.
    """
    if method.needs.confidence is None or not method.group:
        return None
    if method.needs.steps > 1:
        raise ConfigError(
            "method.lookahead: a store holds confidences one step ahead alone; set lookahead: 1"
        )
    if getattr(method, "active_share", None) is not None:
        raise ConfigError(
            "method.active_share: it picks positions among all answers of a step, and there are no steps "
            "here; set method.entropy_threshold instead of the share"
        )
    threshold = float(getattr(method, "entropy_threshold", 0.0))
    mass = getattr(method, "probability_mass", None)
    return Candidates(method.group, method.needs.confidence, threshold, asks_at_ends(method), mass)


def count_of(prompts: PromptSource, asked: Asked, name: str) -> int:
    """Prompts that are answered.

    Raises:
        ConfigError: there are fewer than are asked for, or without end and no number is given.
    """
    if prompts.count is None or not isinstance(prompts, DatasetSource | RecordedAnswers):
        if asked.prompts is None:
            raise ConfigError(f"{name}: its prompts have no end; say how many by --prompts")
        return asked.prompts
    if asked.prompts is not None and asked.prompts > prompts.count:
        raise ConfigError(
            f"--prompts {asked.prompts}: {name} has {prompts.count} prompts; leave it out for all of them"
        )
    return asked.prompts or prompts.count


def rows_a_shard(kind: Kind, vocabulary: int, width: int, longest: int, samples: int) -> int:
    """Answers of a shard: about `SHARD_BYTES` where all are the longest; whole prompts, or an equal part of
    the answers to one."""
    rows = SHARD_BYTES // max(1, kind.bytes_a_token(vocabulary, width) * longest)
    rows = min(max(rows, 1), MOST_ROWS)
    if rows >= samples:
        return rows // samples * samples
    return max(part for part in range(1, rows + 1) if samples % part == 0)


def rows_together(config: Experiment, samples: int) -> int:
    """Answers that are sampled together: whole prompts, and as many as a step of training samples."""
    return max(1, _rows_of_a_step(config) // samples) * samples


def _rows_of_a_step(config: Experiment) -> int:
    return config.training.prompts_per_step * config.rollout.group_size
