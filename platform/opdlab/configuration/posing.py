"""Evaluators and graders as experiments name them, and what each place asks of one."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

from opdlab import plugins
from opdlab.plugins import Evaluator, Grader, declared, valid

AnyEvaluator = Annotated[
    Evaluator, plugins.OneOf(plugins.EVALUATORS), AfterValidator(valid(declared.evaluator))
]
AnyGrader = Annotated[Grader, plugins.Named(plugins.GRADERS)]


def _posing(source: Evaluator) -> Evaluator:
    if not source.trains():
        raise ValueError(_lacking(source, "training problems", "trains"))
    return source


def _explaining(source: Evaluator) -> Evaluator:
    if not source.explains():
        raise ValueError(_lacking(source, "training problems with worked solutions", "explains"))
    return source


def _lacking(source: Evaluator, what: str, has: str) -> str:
    found = [name for name, kind in plugins.working(plugins.EVALUATORS) if getattr(kind, has)()]
    return (
        f"{source.benchmark} has no {what}; these have: {', '.join(sorted(found)) or 'none'}. Other "
        "prompts come from a dataset: `prompts: {type: dataset, path: FILE}`"
    )


TrainingSource = Annotated[AnyEvaluator, AfterValidator(_posing)]
ExplainedSource = Annotated[AnyEvaluator, AfterValidator(_explaining)]
