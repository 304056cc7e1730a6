"""What MLflow's page shows of a sweep: what was varied against what is sought."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from opdlab.sweeps.settings import Sweep
from opdlab.sweeps.space import Choice
from opdlab.tracking import quoted

SECTION = "sweep"
SHOWN_RUNS = 200
MOST_NUMBERS = 10
"""Keys that are drawn alone: MLflow keeps at most 20,000 characters of a view."""

CARD = {"deleted": False, "isGenerated": False, "runsCountToCompare": SHOWN_RUNS}


def sweep_view(sweep: Sweep, parent: str) -> dict[str, Any]:
    """The view of the trials below a run: the best first, a column for each key, objective, constraint.

    The chart page begins with parallel coordinates of the keys that every trial has, each objective by
    trial, and the first objective by each number and each other objective.
    """
    metrics = [quoted(objective.metric) for objective in sweep.objectives]
    limited = [quoted(limit.metric) for limit in sweep.constraints]
    first = sweep.objectives[0]
    return {
        "searchFilter": f"tags.`mlflow.parentRunId` = '{parent}' and tags.`opdlab.role` = 'trial'",
        "orderByKey": f"metrics.`{metrics[0]}`",
        "orderByAsc": first.direction == "minimize",
        "selectedColumns": [
            *(f"metrics.`{metric}`" for metric in dict.fromkeys([*metrics, *limited])),
            *(f"params.`{name}`" for name in sweep.space),
        ],
        "runsHiddenMode": "SHOW_ALL",
        # Keeps this section before those that the page makes of all metrics.
        "isAccordionReordered": True,
        "compareRunSections": [
            {"uuid": SECTION, "name": "Sweep", "display": True, "isReordered": True, "columns": 2}
        ],
        "compareRunCharts": [
            {"uuid": f"{SECTION}-{number}", "metricSectionId": SECTION, **CARD, **chart}
            for number, chart in enumerate(_charts(sweep, metrics))
        ],
    }


def _charts(sweep: Sweep, metrics: list[str]) -> Iterator[dict[str, Any]]:
    # Lines have the colour of the last axis. A trial without one of the keys would be left out.
    yield {
        "type": "PARALLEL",
        "selectedParams": [name for name, one in sweep.space.items() if not one.when],
        "selectedMetrics": metrics[::-1],
        "showAllRuns": True,
    }
    for metric in metrics:
        yield {"type": "BAR", "metricKey": metric}
    numbers = [name for name, one in sweep.space.items() if not isinstance(one, Choice)]
    for name in numbers[:MOST_NUMBERS]:
        yield _scatter({"key": name, "type": "PARAM"}, metrics[0])
    for metric in metrics[1:]:
        yield _scatter({"key": metric, "type": "METRIC"}, metrics[0])


def _scatter(x: dict[str, str], metric: str) -> dict[str, Any]:
    return {"type": "SCATTER", "xaxis": x, "yaxis": {"key": metric, "type": "METRIC"}}
