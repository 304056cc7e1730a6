"""Verdicts that a grader's second rule would turn: how many, where, and the score by that rule."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from opdlab import plugins
from opdlab.console import DIM, END
from opdlab.files import natural
from opdlab.records import Sample

DISPUTED = "disputed: "
"""A grader that has two rules begins the reason with it where they differ."""
SHOWN = 20


@dataclass(frozen=True)
class Dispute:
    """A benchmark some of whose verdicts are disputed.

    Attributes:
        problems: ids of those that they belong to, sorted.
        score, other: mean@k, and what it would be with every disputed verdict turned.
    """

    benchmark: str
    samples: int
    total: int
    problems: tuple[str, ...]
    score: str
    other: str


def disputes(samples: Sequence[Sample]) -> list[Dispute]:
    """One for each benchmark with a disputed verdict, in order of appearance."""
    found = []
    for benchmark in dict.fromkeys(sample.benchmark for sample in samples):
        own = [sample for sample in samples if sample.benchmark == benchmark]
        turned = [sample for sample in own if sample.reason.startswith(DISPUTED)]
        if turned:
            problems = tuple(sorted({sample.problem for sample in turned}, key=natural))
            scores = [_mean(own), _mean(list(map(_turned, own)))]
            found.append(Dispute(benchmark, len(turned), len(own), problems, *scores))
    return found


def _turned(sample: Sample) -> Sample:
    if not sample.reason.startswith(DISPUTED):
        return sample
    return replace(sample, status="wrong" if sample.status == "correct" else "correct")


def _mean(samples: Sequence[Sample]) -> str:
    (summary,) = plugins.load(plugins.STATISTICS, "scores")(samples)
    mean = summary.mean
    return "?" if mean.value is None else f"{100 * mean.value:.1f}"


def told(label: str, samples: Sequence[Sample]) -> Iterator[str]:
    """A line for each benchmark with disputed verdicts, and nothing where there are none."""
    for one in disputes(samples):
        more = len(one.problems) - SHOWN
        listed = ", ".join(one.problems[:SHOWN]) + (f" and {more} more" if more > 0 else "")
        yield (
            f"{DIM}{label} on {one.benchmark}: {one.samples} of {one.total} verdicts are disputed; "
            f"reversed, they make mean@k {one.other} instead of {one.score}. Problems: {listed}{END}"
        )
