"""What a method needs of a teacher, what a teacher offers, and what of the one is missing in the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

Support = Literal["none", "sampled", "top-k", "full", "drawn"]
Measure = Literal["max_prob", "sampled_prob", "entropy", "perplexity"]
SUPPORTS: tuple[Support, ...] = get_args(Support)
MEASURES: tuple[Measure, ...] = get_args(Measure)


@dataclass(frozen=True)
class Needs:
    """What a method needs from a teacher; the experiment's teacher is checked when the file is read.

    Attributes:
        support: of the teacher's distribution before each response token: `none` of it, the log-probability
            of the `sampled` token, the teacher's `top-k` tokens with all others as one, or all of it.
        top_k: how many tokens, of `top-k`; else 0.
        confidence: measure of the teacher's confidence after candidates; None for no candidates.
        steps: how far candidates are followed, see `Lookahead`.
        answers: whether the teacher writes the answers.
        linear: whether the gradient is linear in the probabilities of a `full` distribution: then tokens
            `drawn` from it, each with its share of the draws, give the same gradient on average.
    """

    support: Support = "sampled"
    top_k: int = 0
    confidence: Measure | None = None
    steps: int = 1
    answers: bool = False
    linear: bool = False

    @property
    def distribution(self) -> bool:
        """Whether the loss is given the teacher's distribution, whole or in part."""
        return self.support in ("top-k", "full")


@dataclass(frozen=True)
class Offers:
    """What a teacher can tell.

    Attributes:
        supports: of its distribution before each response token, see `Needs`.
        confidences: measures of its confidence after candidates.
        answers: whether it can write answers.
        why_not: reason and remedy of what it does not offer, by name: a support, a measure, `steps`, or
            `answers`.
        steps: whether it follows candidates past one step.
    """

    supports: frozenset[Support]
    confidences: frozenset[Measure]
    answers: bool
    why_not: Mapping[str, str] = field(default_factory=dict)
    steps: bool = False


EVERYTHING = Offers(frozenset(SUPPORTS), frozenset(MEASURES), True, steps=True)
"""What a teacher in this process offers."""


def unmet(needs: Needs, offers: Offers) -> Iterator[tuple[str, str]]:
    """What is needed and not offered (`support`, `confidence`, `steps`, `answers`), and why."""
    estimated = needs.support == "full" and needs.linear and "drawn" in offers.supports
    if needs.support not in offers.supports and not estimated:
        yield "support", offers.why_not[needs.support]
    if needs.confidence is not None and needs.confidence not in offers.confidences:
        yield "confidence", offers.why_not[needs.confidence]
    if needs.steps > 1 and not offers.steps:
        yield "steps", offers.why_not["steps"]
    if needs.answers and not offers.answers:
        yield "answers", offers.why_not["answers"]
