"""Names of the metrics that a sweep may judge its trials by, for faults to be found before any is run."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from opdlab.sweeps.goals import COSTS, Limit, Objective

if TYPE_CHECKING:
    from opdlab.configuration import Experiment, Key

STEP = [
    "accuracy",
    "active_share",
    "advantage",
    "confidence_deviation",
    "confidence_spread",
    "entropy",
    "eos_rate",
    "fidelity",
    "flat_group_share",
    "gradient_norm",
    "group_size",
    "leaves",
    "longest_repeat",
    "loss",
    "loss_share",
    "repetition_rate",
    "response_length",
    "response_tokens",
    "reverse_kl",
    "reverse_kl_sampled",
    "reward",
    "reward_size",
    "teacher_entropy",
    "teacher_score_share",
    "tokens_per_second",
    "truncated_share",
]
"""Of a training step, by the methods of this package; those of others may have more."""
NEAR = 0.85


def misnamed(
    config: Experiment, judged: Mapping[str, Sequence[Objective | Limit]]
) -> Iterator[tuple[tuple[Key, ...], str]]:
    """Place in the sweep's section, and message, of every metric whose name is almost one that exists.

    Args:
        judged: what trials are judged by, by the key of the sweep's section.
    """
    evaluated = ["mean_at_k", "pass_at_k", *_of_benchmarks(config)]
    known = [*COSTS, *STEP, *evaluated]
    for section, entries in judged.items():
        for index, entry in enumerate(entries):
            if near := almost(entry.metric, known):
                yield (
                    (section, index, "metric"),
                    f"a run has no metric {entry.metric}. Did you mean {near}?",
                )
    for index, limit in enumerate(judged["stop_when_beyond"]):
        if limit.metric in evaluated and not config.evaluation.every:
            yield (
                ("stop_when_beyond", index, "metric"),
                f"{limit.metric} is measured only at the end, when nothing is left to stop; set "
                "evaluation.every, or make it one of the constraints",
            )


def almost(metric: str, known: list[str]) -> str:
    """The known name that another was likely meant to be; empty where it is known, or like none.

    A method of another package may have metrics of its own, so a name that is like none is let pass.
    """
    if metric in known:
        return ""
    longer = [name for name in known if name.startswith(f"{metric}_")]
    near = [*longer, *difflib.get_close_matches(metric, known, 1, NEAR)]
    return near[0] if near else ""


def _of_benchmarks(config: Experiment) -> list[str]:
    """Those of the evaluation's scores that a sweep would be after."""
    samples = config.evaluation.samples
    scores = [f"mean_at_{samples}", f"maj_at_{samples}", "truncated_share", "mean_tokens"]
    scores += [f"pass_at_{k}" for k in range(1, samples + 1)]
    ends = ("", "_low", "_high")
    benchmarks = [one.benchmark for one in config.evaluation.benchmarks]
    return [f"{name}/{score}{end}" for name in benchmarks for score in scores for end in ends]
