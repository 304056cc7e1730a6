r"""The most frequent answer of a problem, answers counted by what they mean.

`1/2`, `\frac{1}{2}` and `0.5` are one answer, so they vote together. What means the same is said by the
grader's own equality. It is asked only where it can change the score: answers that were judged correct
are all the gold, and of the others it matters only whether together they are as many.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np

from opdlab.records import Sample, Verdict

FAULTS = frozenset(Verdict.FAULTS)
OURS = re.compile(r"math-\d+\+")
"""Versions of the rules in `answers` (`equality.rules`); `math-mine` is somebody else's grader."""
Vote = tuple[str | None, bool]
"""An answer, None for none, and whether it was judged correct."""
Same = Callable[[Sequence[tuple[str, str]]], Sequence[bool]]
"""Of each pair of answers, whether they mean the same."""


def same_of(grader: str) -> Same | None:
    """The equality of answers by which a grader judges, from its version; None if it compares the text.

    Only a grader that looks at the answer's meaning alone has one: then all correct answers are one.

    Returns:
        A function of pairs of answers, or None.
    """
    return mathematics if OURS.match(grader) else None


def mathematics(pairs: Sequence[tuple[str, str]]) -> list[bool]:
    """Whether answers are equal by the rules of `opdlab_evaluators.answers`, bounded in time and memory.

    What could not be decided is not equal.

    Returns:
        One value per pair, in the given order.
    """
    from opdlab_evaluators.answers import Outcome, shared_pool

    found = shared_pool().decide(list(pairs)) if pairs else []
    return [isinstance(one, Outcome) and one.equal for one in found]


def majority(votes: Sequence[Vote], same: Same | None = None) -> float:
    """Score of the most frequent answer; None does not vote.

    Tied answers share: the score is their mean, the expectation of a fair draw among them. An answer
    counts by the share of its samples that were judged correct, which is 0 or 1 where the grader looks
    at the answer alone. Without any answer the score is 0.

    Args:
        votes: one per sample.
        same: which answers mean the same; by default those with the same text.

    Returns:
        The score, between 0 and 1.
    """
    if same is not None:
        right = sum(correct for answer, correct in votes if answer is not None)
        wrong = Counter(answer for answer, correct in votes if not correct and answer is not None)
        most = max(wrong.values(), default=0)
        if not right or most > right:
            return 0.0
        if right > sum(wrong.values()):
            return 1.0
    found = groups(votes, same)
    top = max((count for count, _ in found), default=0)
    return float(np.mean([right / count for count, right in found if count == top])) if top else 0.0


def majority_bounds(samples: Sequence[Sample]) -> tuple[float, float]:
    """`majority` of the graded samples, or 0 and 1 where those not graded could outvote it."""
    graded = [s for s in samples if s.status not in FAULTS]
    same = same_of(samples[0].grader)
    votes = [(s.answer, s.status == "correct") for s in graded]
    faults = len(samples) - len(graded)
    if faults:
        counts = sorted((count for count, _ in groups(votes, same)), reverse=True)
        first, second = [*counts, 0, 0][:2]
        if faults >= first - second:
            return 0.0, 1.0
    score = majority(votes, same)
    return score, score


def groups(votes: Sequence[Vote], same: Same | None = None) -> list[tuple[int, int]]:
    """Of every answer how many votes it has, and how many of them were judged correct."""
    counts = Counter(answer for answer, _ in votes if answer is not None)
    right = Counter(answer for answer, correct in votes if correct and answer is not None)
    if same is None:
        return [(count, right[answer]) for answer, count in counts.items()]
    gold = [answer for answer in counts if right[answer]]
    others = _joined([answer for answer in counts if not right[answer]], same)
    return [
        (sum(counts[answer] for answer in group), sum(right[answer] for answer in group))
        for group in [*([gold] if gold else []), *others]
    ]


def _joined(answers: Sequence[str], same: Same) -> list[list[str]]:
    """Answers by meaning: what is the same as one of a group is of that group."""
    pairs = list(combinations(answers, 2))
    group = {answer: {answer} for answer in answers}
    for (a, b), equal in zip(pairs, same(pairs), strict=True):
        if equal and group[a] is not group[b]:
            group[a] |= group[b]
            for answer in group[b]:
                group[answer] = group[a]
    return [sorted(one) for one in {id(one): one for one in group.values()}.values()]
