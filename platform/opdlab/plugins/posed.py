"""What evaluators pose, checked where it comes in: problems, training problems and their traces."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from opdlab.errors import PluginError
from opdlab.plugins.evaluator import DataReport, Evaluator, Trial
from opdlab.plugins.returned import kind_of, name_of, said_by
from opdlab.records import Problem


def problems(evaluator: Evaluator) -> Sequence[Problem]:
    """The test problems.

    Raises:
        PluginError: they are no list of problems of this benchmark, each with an id of its own.
        DataError: the evaluator says why there are none.
    """
    with said_by(evaluator, "problems"):
        found: Any = evaluator.problems()
    where = f"{name_of(evaluator)}.problems"
    if not isinstance(found, Sequence) or isinstance(found, str):
        raise PluginError(f"{where} returned {kind_of(found)}, wanted a list of Problem")
    if not found:
        raise PluginError(f"{where} returned no problems of {evaluator.benchmark}")
    seen: dict[str, int] = {}
    for place, one in enumerate(found):
        _check(evaluator, f"{where}: number {place}", one)
        if one.id in seen:
            raise PluginError(
                f"{where}: number {place} has the id {one.id!r} of number {seen[one.id]}; ids must differ"
            )
        seen[one.id] = place
    return found


def training_problem(evaluator: Evaluator, seed: int, index: int) -> Problem:
    """A problem of the training stream.

    Raises:
        PluginError: it is no problem of this benchmark.
        NotImplementedError: there are no training problems.
    """
    try:
        with said_by(evaluator, "training_problem"):
            found = evaluator.training_problem(seed, index)
    except PluginError as error:
        if isinstance(error.__cause__, NotImplementedError):
            raise error.__cause__ from None
        raise
    return _check(evaluator, f"{name_of(evaluator)}.training_problem({seed}, {index})", found)


def training_trace(evaluator: Evaluator, problem: Problem, seed: int) -> str:
    """A worked solution of a training problem.

    Raises:
        PluginError: it is not a text.
    """
    with said_by(evaluator, "training_trace"):
        found: Any = evaluator.training_trace(problem, seed)
    if not isinstance(found, str) or not found:
        where = f"{name_of(evaluator)}.training_trace of problem {problem.id}"
        raise PluginError(f"{where} returned {kind_of(found)}, wanted text that is not empty")
    return found


def data(evaluator: Evaluator) -> DataReport | None:
    """What the problems were read from.

    Raises:
        PluginError: it is no report.
    """
    with said_by(evaluator, "data"):
        found: Any = evaluator.data()
    if not isinstance(found, DataReport | None):
        raise PluginError(
            f"{name_of(evaluator)}.data returned {kind_of(found)}, wanted DataReport or None"
        )
    return found


def known_fault(evaluator: Evaluator, problem: Problem) -> str | None:
    """What is wrong with a problem's data.

    Raises:
        PluginError: it is neither text nor None.
    """
    with said_by(evaluator, "known_fault"):
        found: Any = evaluator.known_fault(problem)
    if not isinstance(found, str | None):
        where = f"{name_of(evaluator)}.known_fault of problem {problem.id}"
        raise PluginError(f"{where} returned {kind_of(found)}, wanted text or None")
    return found


def trials(evaluator: Evaluator, sound: Sequence[Problem]) -> list[Trial]:
    """Completions whose verdict is known.

    Raises:
        PluginError: one is no trial with text.
    """
    with said_by(evaluator, "trials"):
        found: list[Any] = list(evaluator.trials(sound))
    for one in found:
        if not isinstance(one, Trial) or not isinstance(one.completion, str):
            said = kind_of(one.completion) if isinstance(one, Trial) else kind_of(one)
            raise PluginError(
                f"{name_of(evaluator)}.trials gave {said}, wanted Trial with a completion that is text "
                "(`right_answer` returns text or None)"
            )
    return found


def _check(evaluator: Evaluator, where: str, found: Any) -> Problem:
    if not isinstance(found, Problem):
        raise PluginError(f"{where} is {kind_of(found)}, wanted Problem")
    for name in ("id", "prompt"):
        value = getattr(found, name)
        if not isinstance(value, str) or not value.strip():
            said = "empty" if isinstance(value, str) else kind_of(value)
            raise PluginError(f"{where}: its {name} is {said}, wanted text that is not empty")
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise PluginError(f"{where}: its {name} holds half of a character: {value!a:.80}")
    if found.benchmark != evaluator.benchmark:
        raise PluginError(
            f"{where}: its benchmark is {found.benchmark!r}, wanted {evaluator.benchmark!r}, as the "
            "evaluator is called"
        )
    try:
        json.dumps([found.gold, dict(found.extra)])
    except (TypeError, ValueError) as error:
        raise PluginError(
            f"{where}: gold and extra must hold only JSON values, so that they can be stored: {error}"
        ) from error
    return found
