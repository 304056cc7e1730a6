"""What `opdlab score` does, on experiments that are in memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from opdlab.api.commands import as_experiment
from opdlab.configuration import Experiment

if TYPE_CHECKING:
    from opdlab.offline import Asked, ScorePlan, Stored


def score(
    experiment: Experiment | str | Path,
    out: str | Path,
    *,
    answers: str | Path = "given",
    kind: str = "hidden",
    samples: int = 1,
    keep: Any = "all",
    prompts: int | None = None,
) -> Stored:
    """Score answers with an experiment's teacher and keep the scores in a folder.

    Repeat the call to continue after an interruption. `teacher: {scores: FOLDER}` trains from the folder.

    Args:
        experiment: one that is loaded, a name or a file.
        out: the folder.
        answers: `given` by the data, samples of the `teacher` or of the `student`, or a run: its folder, or
            its name below the experiment's `output`, whose last evaluation's answers are scored.
        kind: what is kept of the teacher's distribution before each token: `hidden`, `hidden:float32`,
            `drawn:12`, `top_k:64` or `sampled`.
        samples: answers to each prompt.
        keep: `all` answers, or those that are `correct`.
        prompts: how many; None for all of a data set, each once.

    Returns:
        What the folder holds now: counts of answers and tokens, and the folder.

    Raises:
        ConfigError: the experiment does not go with what is asked.
        ResumeError: the folder holds other scores.

    Examples:
        >>> score("my.yaml", "scores", answers="teacher", prompts=100)  # doctest: +SKIP
        >>> opdlab.Scores("scores")[0].numbers["log_prob"]  # doctest: +SKIP
    """
    from opdlab.offline import score as run

    config = as_experiment(experiment)
    return run(config, _asked(config, answers, kind, samples, keep, prompts), Path(out))


def plan_scores(
    experiment: Experiment | str | Path,
    *,
    answers: str | Path = "given",
    kind: str = "hidden",
    samples: int = 1,
    keep: Any = "all",
    prompts: int | None = None,
) -> ScorePlan:
    """How many bytes and hours `score` would take, from the first answers; nothing is written.

    The arguments are those of `score`.

    Returns:
        Bytes of each kind of store, tokens, and seconds on this device.
    """
    from opdlab.offline import plan

    config = as_experiment(experiment)
    return plan(config, _asked(config, answers, kind, samples, keep, prompts))


def _asked(
    config: Experiment, answers: str | Path, kind: str, samples: int, keep: Any, prompts: int | None
) -> Asked:
    from opdlab.offline import asked_of
    from opdlab.scores import Kind

    more = {"kind": Kind.read(kind), "samples": samples, "keep": keep, "prompts": prompts}
    return asked_of(str(answers), Path(config.output), **more)
