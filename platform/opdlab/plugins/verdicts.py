"""A grader's verdicts, whatever it does: one that raises has failed, not the answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from opdlab.errors import OpdlabError, PluginError, Terminated
from opdlab.plugins.evaluator import Evaluator
from opdlab.plugins.grader import Grader
from opdlab.plugins.returned import name_of, reason
from opdlab.records import Problem, Verdict


def verdicts_on(
    evaluator: Evaluator | Grader,
    answers: Sequence[tuple[Problem, str]],
    on_graded: Callable[[int], None] | None = None,
) -> list[Verdict]:
    """One verdict for each answer, in order; `grader_error` with the reason where the grader failed.

    Raises:
        PluginError: `grade_all` returned another number of verdicts, so none can be told whose it is.
        OpdlabError: what the grader raises on purpose, and what `on_graded` raises to stop.
    """
    told = 0

    def graded(count: int) -> None:
        nonlocal told
        told += count
        if on_graded is not None:
            on_graded(count)

    try:
        found: Any = evaluator.grade_all(answers, graded)
    except (OpdlabError, Terminated):
        raise
    except (Exception, SystemExit):  # noqa: BLE001 - one answer of many did this: which one shows when each is graded alone
        found = [_alone(evaluator, *answer) for answer in answers]
        graded(len(answers) - told)
    if not isinstance(found, Sequence) or len(found) != len(answers):
        many = (
            f"{len(found)} verdicts" if isinstance(found, Sequence) else f"{type(found).__name__}"
        )
        first = f", from problem {answers[0][0].id} on" if answers else ""
        raise PluginError(
            f"{name_of(evaluator)}.grade_all{_whose(evaluator)} returned {many} for "
            f"{len(answers)} answers{first}; completions are kept: correct it "
            "and repeat the command"
        )
    return [_checked(evaluator, verdict) for verdict in found]


def _whose(evaluator: Evaluator | Grader) -> str:
    return f" of {evaluator.benchmark}" if isinstance(evaluator, Evaluator) else ""


def _alone(evaluator: Evaluator | Grader, problem: Problem, completion: str) -> Any:
    try:
        return evaluator.grade(problem, completion)
    except (OpdlabError, Terminated):
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a grader is foreign code and may fail in any way
        return Verdict(
            "grader_error", None, f"{name_of(evaluator)}.grade failed: {reason(error, evaluator)}"
        )


def _checked(evaluator: Evaluator | Grader, found: Any) -> Verdict:
    """A verdict that can be stored; text that UTF-8 cannot hold is escaped."""
    if not isinstance(found, Verdict):
        said = f"{name_of(evaluator)}.grade returned {type(found).__name__}, wanted a Verdict"
        return Verdict("grader_error", None, said)
    if not isinstance(found.answer, str | None) or not isinstance(found.reason, str):
        kinds = f"{type(found.answer).__name__} and {type(found.reason).__name__}"
        said = f"answer and reason of {name_of(evaluator)}.grade are {kinds}, wanted text"
        return Verdict("grader_error", None, said)
    answer = None if found.answer is None else _storable(found.answer)
    return replace(found, answer=answer, reason=_storable(found.reason))


def _storable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
