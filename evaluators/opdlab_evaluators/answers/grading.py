"""Completions to verdicts: extract, decide what the text decides, work out the rest in processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from opdlab.evaluation import DISPUTED
from opdlab.records import Verdict
from opdlab_evaluators.answers.equality import Outcome, quick
from opdlab_evaluators.answers.extraction import Extracted, extract
from opdlab_evaluators.answers.pool import AnswerPool, Failure, shared_pool


def grade_answers(
    answers: Sequence[tuple[str, str]],
    pool: AnswerPool | None = None,
    on_graded: Callable[[int], None] | None = None,
) -> list[Verdict]:
    """Verdicts on (gold, completion) pairs, in order; equal questions are worked out once."""
    verdicts: dict[int, Verdict] = {}
    asked: dict[tuple[str, str], list[int]] = {}
    found: dict[int, Extracted] = {}
    for index, (gold, completion) in enumerate(answers):
        extracted = extract(completion)
        if extracted is None:
            verdicts[index] = Verdict(
                "no_answer", reason="no box, and no words that name an answer"
            )
            continue
        found[index] = extracted
        decided = quick(gold, extracted.text)
        if decided is None:
            asked.setdefault((gold, extracted.text), []).append(index)
        else:
            verdicts[index] = _verdict(extracted, decided)
    if on_graded is not None and verdicts:
        on_graded(len(verdicts))
    outcomes = (pool or shared_pool()).decide(list(asked)) if asked else []
    for indices, outcome in zip(asked.values(), outcomes, strict=True):
        for index in indices:
            verdicts[index] = _verdict(found[index], outcome)
        if on_graded is not None:
            on_graded(len(indices))
    return [verdicts[index] for index in range(len(answers))]


def _verdict(extracted: Extracted, outcome: Outcome | Failure) -> Verdict:
    place = "" if extracted.place == "box" else f"; from {extracted.place}"
    if isinstance(outcome, Failure):
        return Verdict(outcome.status, extracted.text, outcome.reason + place)
    prefix = DISPUTED if outcome.disputed else ""
    status = "correct" if outcome.equal else "wrong" if outcome.understood else "no_answer"
    return Verdict(status, extracted.text, f"{prefix}{outcome.reason}{place}")
