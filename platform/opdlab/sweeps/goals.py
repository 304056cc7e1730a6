"""What trials of a sweep are judged by: objectives and limits on metrics of a run."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import model_validator

from opdlab.configuration import Section

COSTS = ("teacher_tokens", "seconds")
"""Metrics that less of is better."""


class Objective(Section):
    """A metric by which trials are compared, averaged over the seeds of a trial."""

    metric: str = "mean_at_k"
    """`mean_at_k` and `pass_at_k` average over the benchmarks; `teacher_tokens` (tokens that the teacher
    scored) and `seconds` (of training) are costs; else any metric of a run, such as
    `math/short/mean_at_8` or `repetition_rate`, where it was last measured."""
    direction: Literal["maximize", "minimize"] = "maximize"
    """By default `minimize` for the two costs, else `maximize`."""

    @model_validator(mode="before")
    @classmethod
    def _less_of_a_cost(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("metric") in COSTS:
            return {"direction": "minimize", **data}
        return data


class Limit(Section):
    """A bound on a metric of a run."""

    metric: str
    """Metric of a run by its name in MLflow, such as `repetition_rate`."""
    at_most: float | None = None
    """Largest value that is allowed; give this or `at_least`."""
    at_least: float | None = None
    """Smallest value that is allowed; give this or `at_most`."""

    @model_validator(mode="after")
    def _check(self) -> Limit:
        if (self.at_most is None) == (self.at_least is None):
            raise ValueError("give at_most or at_least")
        return self

    def excess(self, value: float) -> float:
        """How far a value is beyond the limit; 0 or less where it is kept, which NaN never does."""
        if math.isnan(value):
            return math.inf
        if self.at_most is not None:
            return value - self.at_most
        assert self.at_least is not None
        return self.at_least - value

    def __str__(self) -> str:
        if self.at_most is not None:
            return f"{self.metric} at most {self.at_most:g}"
        return f"{self.metric} at least {self.at_least:g}"
