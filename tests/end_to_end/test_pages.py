"""Every page that opdlab writes, in one real browser: axe-core finds nothing, and figures are saved."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import stores
from end_to_end import axe
from end_to_end.browser import ARGUMENTS
from end_to_end.test_samples_page import store
from machine import need_chromium
from playwright.sync_api import Browser, Page, sync_playwright
from run_folders import draws, write_model, write_reference, write_run
from unit import test_bench_gpu, test_diagnosis, test_watch

from opdlab.bench.gpu import page as bench_page
from opdlab.diagnosis import bootstrap, page as diagnosis_page
from opdlab.files import claimed, tell_live
from opdlab.offline.page import page as answers_page
from opdlab.scores import Scores
from opdlab_dashboards.pages import page_files, watch
from opdlab_dashboards.pages.own_files import write_folder
from opdlab_dashboards.pages.report import report
from opdlab_dashboards.pages.samples import samples
from opdlab_dashboards.results import build, find, scene

TRIALS = 40
NAME = "closest('figure').querySelector('figcaption').firstChild.textContent"
LABELS = f"(plots) => plots.map((one) => one.{NAME}).sort()"
COUNTED = f"""() => {{
  const react = Plotly.react;
  window.redrawn = [];
  Plotly.react = (plot, ...rest) => {{ window.redrawn.push(plot.{NAME}); return react(plot, ...rest); }};
}}"""
DRAWN = "document.documentElement.dataset.figures === 'drawn'"


def write_sweep(folder: Path) -> None:
    """A study of 40 trials, one of them pruned and one failed."""
    write_reference(folder / "references", "student", {"math/short": draws(0.2, 12, 2)})
    draw = optuna.samplers.RandomSampler(seed=1)
    study = optuna.create_study(sampler=draw, direction="maximize")
    trials: list[dict[str, Any]] = []
    for number in range(TRIALS):
        trial = study.ask()
        method = trial.suggest_categorical("method", ["opd", "lgr"])
        rate = trial.suggest_float("training.learning_rate", 1e-5, 1e-1, log=True)
        weight = trial.suggest_float("method.reward_weight", 0.1, 10) if method == "lgr" else 0
        state = {7: "pruned", 9: "fail"}.get(number, "complete")
        correct = draws(min(0.9, 0.1 + weight / 20 + rate), 12, 2, seed=number)
        if state == "complete":
            made = {"study": "one", "number": number, "parameters": trial.params}
            told = {"experiment": "try", "trial": made}
            settings = {"type": method, "reward_weight": weight, "rate": rate}
            place = folder / f"trial-{number:04d}" / "seed-0"
            write_run(place, {"math/short": correct}, 0, settings, made=told)
        values = [float(correct.mean())] if state == "complete" else None
        told = {"state": state, "params": trial.params, "values": values, "constraints": {}}
        trials.append({"trial": number, **told})
    share = {"share": 0.6, "low": 0.3, "high": 0.8, "trials": TRIALS}
    content = {
        "objectives": [{"metric": "mean_at_k", "direction": "maximize"}],
        "space": {
            "method": {"type": "choice", "values": ["opd", "lgr"], "when": {}},
            "training.learning_rate": {"type": "float", "log": True, "when": {}},
            "method.reward_weight": {"type": "float", "log": False, "when": {"method": "lgr"}},
        },
        "trials": trials,
        "importance": {"mean_at_k": dict.fromkeys(trials[0]["params"], share)},
    }
    (folder / "sweep.json").write_text(json.dumps(content))


def write_pages(place: Path) -> dict[str, Path]:
    """One page of each kind, by its name."""
    runs = place / "runs"
    write_sweep(runs / "try-sweep")
    group = runs / "two-001"
    write_reference(group, "student", {"math/short": draws(0.2, 12, 2), "routes": draws(0.2, 9, 2)})
    for n, method in enumerate(("opd", "lgr")):
        correct = {"math/short": draws(0.5, 12, 2, n), "routes": draws(0.7, 9, 2, n)}
        # A name that plotly would take for markup.
        write_run(group / f"<i>{method}", correct, method={"type": method})
    write_model(runs / "evaluations" / "hub", {"math/short": draws(0.5, 12, 2, seed=8)})
    found = {name: place / f"{name}.html" for name in ("sweep", "report", "samples", "watch")}
    report(["try-sweep"], str(runs), str(found["sweep"]))
    report(["two-001"], str(runs), str(found["report"]))
    write_folder(place / "board", page_files.site(build(find(group) + find(runs / "evaluations"))))
    found["leaderboard"] = place / "board" / "index.html"
    both = [store(place / "stores", name, ["correct", "wrong", "grader_error"]) for name in "ab"]
    samples([str(each) for each in both], "runs", str(found["samples"]))
    run = test_watch.write(place / "live" / "try-001" / "opd", 4)
    with claimed(run.parent):
        sample = {"step": 4, "prompt": "1+1?", "answer": "2", "tokens": 3, "ended": True}
        told = {
            "phase": "training",
            "step": 4,
            "steps": 10,
            "sample": {**sample, "rewards": {"r": 1}},
        }
        tell_live(run, told)
        found["watch"].write_text(watch.as_page(scene(run.parent), refreshing=False))
    stores.models(place)
    scored = stores.made(place, "drawn:3", "whole")
    texts = {
        "answers": answers_page(Scores(scored)),
        "bench": bench_page.html(test_bench_gpu.MEASURED),
        "diagnosis": diagnosis_page.html(diagnosed()),
    }
    for name, text in texts.items():
        found[name] = place / f"{name}.html"
        found[name].write_text(text)
    return found


def diagnosed() -> dict[str, Any]:
    """Findings of a made-up diagnosis."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bootstrap, "REPLICATES", 20)
        student, own = (
            test_diagnosis.made(test_diagnosis.falling),
            test_diagnosis.made(test_diagnosis.flat, own=True),
        )
        found = test_diagnosis.find([student, own], 40, 24, 0.6)
    return found | {"experiment": "made", "teacher": "t", "window": 3, "top_k": 8}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_pages(tmp_path_factory.mktemp("pages"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=need_chromium(), args=ARGUMENTS)
        yield running
        running.close()


def opened(browser: Browser, place: Path, **context: Any) -> Page:
    """A page whose own rules let in no script but its own; axe-core is let in."""
    told = {"viewport": {"width": 1400, "height": 900}, "bypass_csp": True, **context}
    page = browser.new_context(**told).new_page()
    page.goto(place.as_uri())
    return page


def unfolded(page: Page, name: str) -> None:
    """All of it, with a sample of those that are shown on a click."""
    page.evaluate("document.querySelectorAll('details').forEach((one) => (one.open = true))")
    if name == "samples":
        page.locator("#map .cell").first.click()
    if name == "leaderboard":
        page.locator("#figures").scroll_into_view_if_needed()
    if name in FIGURED:
        page.wait_for_function(DRAWN)


FIGURED = ("sweep", "report", "leaderboard")
KINDS = ("sweep", "report", "samples", "watch", "leaderboard", "answers", "bench", "diagnosis")


def darken(page: Page) -> None:
    page.emulate_media(color_scheme="dark")
    if page.locator("#theme").count():
        page.locator("#theme").click()
        page.wait_for_function(f"{DRAWN} || !document.documentElement.dataset.figures")


def require_saved_figures(page: Page, name: str) -> None:
    """Each figure has buttons that save it; the first one's files are SVG and PNG."""
    assert page.locator("figure").count() == page.locator("figure .plot").count() > 2
    buttons = page.locator("figure .export button")
    assert buttons.count() == 2 * page.locator("figure").count()
    for n, begin in ((0, b"<svg"), (1, b"\x89PNG")):
        with page.expect_download() as saving:
            buttons.nth(n).press("Enter")
        saved = saving.value
        assert saved.suggested_filename.endswith((".svg", ".png")[n])
        content = saved.path().read_bytes()
        assert content.startswith(begin)
        if n == 0 and name != "sweep":
            assert b"&#60;i&#62;lgr" in content, "markup in a name"


@pytest.mark.parametrize("name", KINDS)
def test_axe_finds_nothing_in_light_or_dark_and_figures_are_saved(
    browser: Browser, pages: dict[str, Path], name: str
) -> None:
    page = opened(browser, pages[name])
    unfolded(page, name)
    assert axe.violations(page) == []
    if name in FIGURED:
        require_saved_figures(page, name)
    darken(page)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 21, 26)"
    assert axe.violations(page, "color-contrast") == []
    if name == "leaderboard":
        page.locator("#table tbody td a").first.click()
        page.locator(".problem summary").first.click()
        page.wait_for_selector(".problem .sample")
        assert axe.violations(page) == []
    page.set_viewport_size({"width": 390, "height": 844})
    # Tables scroll, not the page; figures are drawn anew a little later.
    page.wait_for_function("document.documentElement.scrollWidth <= 390", timeout=5000)
    page.context.close()


def test_forty_trials_take_four_screens_and_figures_follow_the_table(
    browser: Browser, pages: dict[str, Path]
) -> None:
    page = opened(browser, pages["sweep"])
    page.wait_for_function(DRAWN)
    assert page.evaluate("document.documentElement.scrollHeight") <= 4 * 900
    rows = page.locator("#trials-table tbody tr")
    assert rows.count() == TRIALS + 1, "the student as well"
    page.locator("th[data-key='method.reward_weight'] button").press("Enter")
    shown = page.evaluate(
        """[...document.querySelectorAll("#trials-table tbody tr")].map((row) =>
            row.cells[7].dataset.by).filter((by) => by !== undefined).map(Number)"""
    )
    assert shown == sorted(shown)
    assert 5 < len(shown) < TRIALS
    page.keyboard.press("/")
    page.keyboard.type("reward_weight>5 method=LGR")
    told = page.locator("#trials-count").inner_text()
    count = page.locator("#trials-table tbody tr:not([hidden])").count()
    assert told == f"{count} of {TRIALS + 1} rows"
    assert 0 < count < len(shown)
    full = "one.data.filter((trace) => (trace.opacity ?? 1) === 1).length"
    drawn = page.evaluate(
        f"(() => {{ const one = document.querySelector('.plot'); return {full} }})()"
    )
    assert (
        drawn == page.locator("#trials-table tbody tr:not([hidden])", has_text="complete").count()
    )
    page.keyboard.type(" speed>1")
    told = page.locator("#trials-fault").inner_text()
    assert told.startswith("There is no column speed: rank, trial, state, mean, difference, method")
    page.keyboard.press("Escape")
    assert rows.locator("visible=true").count() == TRIALS + 1
    page.evaluate(COUNTED)
    page.locator("#trials-state").select_option("fail")
    assert rows.locator("visible=true").count() == 1
    names = {title.partition(" (")[0].partition(":")[0] for title in redrawn(page)}
    assert names == {"Parallel coordinates", "method", "learning_rate", "reward_weight", "History"}
    page.locator("#curves summary").click()
    assert redrawn(page) == page.locator("#curves .plot").evaluate_all(LABELS)
    page.locator("#theme").click()
    assert redrawn(page) == page.locator(".plot").evaluate_all(LABELS)
    page.context.close()


def redrawn(page: Page) -> list[str]:
    """Names of the figures that were drawn since this was asked last."""
    page.wait_for_function("window.redrawn.length")
    return page.evaluate("window.redrawn.splice(0).sort()")
