"""A finished sweep in MLflow's own page: the links that the command printed, opened in Chromium."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from end_to_end.browser import chromium_page
from end_to_end.laboratory import Laboratory
from end_to_end.servers import MlflowServer
from machine import need_chromium
from mlflow import MlflowClient
from mlflow.entities import Run
from playwright.sync_api import Locator, Page, expect

TRIALS = 3
SPACE = {
    "method": {
        "type": "choice",
        "values": {
            "plain": {"type": "opd", "support": "full"},
            "ahead": {"type": "lgr", "support": "full"},
        },
    },
    "method.top_k": {"type": "int", "low": 2, "high": 6, "when": {"method": "ahead"}},
    "training.learning_rate": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True},
}
GRID = ".ReactVirtualized__Grid"
ROW = """(name) => {
    const [names, values] = document.querySelectorAll(".ReactVirtualized__Grid")
    const cells = (grid) => [...grid.firstElementChild.children]
    const label = cells(names).find((cell) => cell.innerText === name)
    if (!label) return null
    const [box, frame] = [label, names].map((one) => one.getBoundingClientRect())
    if (box.top < frame.top || box.bottom > frame.bottom) return null
    return cells(values)
        .filter((cell) => cell.style.top === label.style.top)
        .sort((a, b) => parseFloat(a.style.left) - parseFloat(b.style.left))
        .map((cell) => cell.innerText)
}"""
DRAWN_WITHIN_MS = 60_000  # the page is large, and a machine may be busy


@dataclass
class Swept:
    """A finished sweep: what was printed, what was found, and the server that has it."""

    laboratory: Laboratory
    server: MlflowServer
    text: str

    @property
    def folder(self) -> Path:
        return self.laboratory.output / "small-sweep"

    @property
    def trials(self) -> dict[str, dict[str, Any]]:
        """What the sweep itself says of each trial, by its name in MLflow."""
        rows = json.loads((self.folder / "sweep.json").read_text())["trials"]
        return {f"trial-{row['trial']:04d}": row for row in rows}

    def link(self, part: str) -> str:
        (found,) = (line for line in self.text.splitlines() if part in line and "://" in line)
        return found.strip()

    def runs(self) -> list[Run]:
        client = MlflowClient(self.server.uri)
        experiment = client.get_experiment_by_name("opdlab")
        assert experiment is not None
        return list(client.search_runs([experiment.experiment_id]))


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Iterator[Swept]:
    need_chromium()
    laboratory = Laboratory(tmp_path_factory.mktemp("swept") / "laboratory", store)
    file = laboratory.write(
        student={"path": "embedded:student"},
        teacher={"path": "embedded:teacher"},
        rollout={"type": "cached", "max_new_tokens": 32},
        training={"steps": 3, "prompts_per_step": 6, "learning_rate": 1e-3},
        evaluation={
            "benchmarks": [{"type": "math", "level": "short", "limit": 8}],
            "samples": 2,
            "references": ["student"],
        },
        tracking={"samples_every": 0, "weights": False},
        sweep={
            "space": SPACE,
            "trials": TRIALS,
            "sampler_seed": 0,  # other draws may tie, and a tie has no order
            "seeds": [0, 1],
            "sampler": "random",
            "objectives": [
                {"metric": "mean_at_k"},
                {"metric": "teacher_tokens", "direction": "minimize"},
            ],
        },
    )
    with MlflowServer(laboratory.output / "mlflow.db") as server:
        text = laboratory.run("sweep", file, f"tracking.uri={server.uri}")
        yield Swept(laboratory, server, text)


@pytest.fixture
def page(swept: Swept) -> Iterator[Page]:
    with chromium_page(swept.server.uri, viewport={"width": 1800, "height": 1100}) as page:
        page.set_default_timeout(DRAWN_WITHIN_MS)
        expect.set_options(timeout=DRAWN_WITHIN_MS)
        yield page


def parameters(page: Page, name: str) -> list[str]:
    """The row of this name in the tables of the comparison, a value for each run."""
    row = page.locator("tr", has=page.get_by_role("rowheader", name=name, exact=True))
    row.wait_for()
    return [text.strip() for text in row.locator("td").all_inner_texts()]


def metrics(page: Page, name: str) -> list[str]:
    """The row of this metric, which has to be scrolled to; names and values are grids of their own."""
    page.locator(GRID).last.hover()
    for _ in range(200):
        if found := page.evaluate(ROW, name):
            return found
        page.mouse.wheel(0, 30)
        page.wait_for_timeout(50)
    raise AssertionError(f"no row {name}")


def test_the_comparison_shows_the_parameters_and_metrics_of_every_trial(swept: Swept, page: Page):
    page.goto(swept.link("/compare-runs?"))
    names = parameters(page, "Run Name:")
    assert sorted(names) == sorted(swept.trials)
    trials = [swept.trials[name] for name in names]
    chosen = [trial["params"] for trial in trials]
    assert parameters(page, "method") == [one["method"] for one in chosen]
    top_k = [str(one.get("method.top_k", "None")) for one in chosen]
    assert len(set(top_k)) > 1
    assert parameters(page, "method.top_k") == top_k
    rates = [float(text) for text in parameters(page, "training.learning_rate")]
    assert rates == [one["training.learning_rate"] for one in chosen]

    scores = [float(text) for text in metrics(page, "mean_at_k")]
    assert len(set(scores)) > 1
    assert scores == pytest.approx([trial["values"][0] for trial in trials], abs=6e-4)
    tokens = [float(text) for text in metrics(page, "teacher_tokens")]
    assert tokens == [trial["values"][1] for trial in trials]


def test_the_view_of_a_sweep_draws_what_was_varied_against_what_came_out(swept: Swept, page: Page):
    page.goto(swept.link("viewStateShareKey="))
    best_first = sorted(swept.trials, key=lambda name: -swept.trials[name]["values"][0])
    listed = page.get_by_role("link", name=re.compile(r"^trial-\d+$"))
    expect(listed).to_have_text(best_first)
    lines = chart(page, "Parallel Coordinates")
    for axis in ("method", "teacher_tokens", "mean_at_k"):
        expect(lines.get_by_text(axis, exact=True)).to_be_visible()
    bars = chart(page, "mean_at_k").locator("text.bartext")
    scores = [swept.trials[name]["values"][0] for name in best_first]
    expect(bars).to_have_count(len(scores))
    shown = sorted((float(text) for text in bars.all_text_contents()), reverse=True)
    assert shown == pytest.approx(scores, abs=6e-3)
    chart(page, "method.top_k vs. mean_at_k").scroll_into_view_if_needed()
    points = chart(page, "method.top_k vs. mean_at_k").locator("path.point")
    ahead = [one for one in swept.trials.values() if "method.top_k" in one["params"]]
    expect(points).to_have_count(len(ahead))


def chart(page: Page, title: str) -> Locator:
    """The card of a chart, by its title."""
    heading = page.get_by_role("heading", name=title, exact=True)
    return page.locator("[data-testid='experiment-view-compare-runs-card']", has=heading)


def test_the_list_of_a_view_has_a_column_for_each_key_and_objective(swept: Swept, page: Page):
    page.goto(swept.link("viewStateShareKey=").replace("CHART", "TABLE"))
    for name in ("mean_at_k", "teacher_tokens", "method", "method.top_k"):
        expect(page.get_by_role("columnheader", name=name, exact=True).first).to_be_visible()
    for trial in swept.trials.values():
        for value in trial["values"]:
            expect(
                page.get_by_role("gridcell", name=f"{value:g}", exact=True).first
            ).to_be_visible()


def test_runs_stand_as_sweep_trial_seed_and_the_best_configuration_trains(swept: Swept):
    runs = {run.info.run_id: run for run in swept.runs()}

    def of_role(role: str) -> list[Run]:
        return [run for run in runs.values() if run.data.tags.get("opdlab.role") == role]

    def parent(run: Run) -> str:
        return run.data.tags["mlflow.parentRunId"]

    (sweep,) = of_role("sweep")
    trials = of_role("trial")
    assert {parent(run) for run in trials} == {sweep.info.run_id}
    seeds = of_role("run")
    assert len(seeds) == 2 * TRIALS
    assert {parent(run) for run in seeds} == {run.info.run_id for run in trials}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}

    client = MlflowClient(swept.server.uri)
    drawn = {Path(file.path).stem for file in client.list_artifacts(sweep.info.run_id, "plots")}
    for metric in ("mean_at_k", "teacher_tokens"):
        for plot in ("optimization_history", "parallel_coordinate", "slice", "contour"):
            assert f"{plot}-{metric}" in drawn
        assert f"param_importances-{metric}" not in drawn, "three trials say nothing of it"
    assert "pareto_front" in drawn
    best = client.download_artifacts(sweep.info.run_id, "best.yaml", str(swept.folder))
    text = swept.laboratory.run("train", best)
    assert "seed-1" in text
