"""The leaderboard's page in a real browser: sorted, searched, compared, and every cell opened."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from end_to_end.browser import chromium_page
from playwright.sync_api import Page
from run_folders import draws, write_model, write_reference, write_run

from opdlab_dashboards.pages import page_files
from opdlab_dashboards.pages.own_files import write_folder
from opdlab_dashboards.pages.report import report
from opdlab_dashboards.results.board import Leaderboard, board_of, build
from opdlab_dashboards.results.measured import find

BENCHMARKS = ("aime_2024", "math/short")
HOSTILE = "</script><img src=x onerror=alert(1)>"


def shares(share: float, seed: int) -> dict:
    return {name: draws(share, seed=seed + i) for i, name in enumerate(BENCHMARKS)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Student, teacher, two seeds of OPD, three of LGR's rewards, a public model; another protocol."""
    place = tmp_path_factory.mktemp("page")
    group = place / "runs" / "try-001"
    write_reference(group, "student", shares(0.2, 0))
    write_reference(group, "teacher", shares(0.95, 10))
    write_run(group / "opd-0", shares(0.5, 20), seed=0)
    write_run(group / "opd-1", shares(0.5, 30), seed=1)
    for n, share in enumerate((0.3, 0.5, 0.6)):
        method = {"type": "lgr", "reward_weight": float(n), "note": HOSTILE}
        write_run(group / f"lgr{n}", shares(share, 40 + 10 * n), method=method)
    public = place / "runs" / "evaluations" / "hub-public-12345678"
    write_model(public, shares(0.55, 90))
    write_run(place / "runs" / "other-001" / "opd", shares(0.9, 99), grader="grader-2")
    write_folder(place / "site", page_files.site(build(find(place / "runs"))))
    return place / "site"


@pytest.fixture
def page(folder: Path) -> Iterator[Page]:
    with chromium_page(viewport={"width": 1300, "height": 900}) as page:
        page.goto((folder / "index.html").as_uri())
        yield page


def names(page: Page) -> list[str]:
    return [
        text.split("\n")[0]
        for text in page.locator("#table tbody tr:not(.published) .model").all_inner_texts()
    ]


def column(page: Page, number: int) -> list[float]:
    cells = page.locator(f"#table tbody tr:not(.published) td.score a[href$='/{number}']")
    return [float(text.split("\n")[0]) for text in cells.all_inner_texts()]


def test_a_page_is_sorted_searched_compared_and_a_cell_opened(page: Page) -> None:
    assert names(page)[0] == "hub/teacher"
    assert page.locator("#table tbody tr:not(.published) .rank").all_inner_texts()[0] == "1"
    assert "other-001/opd" not in names(page), "another protocol"

    page.locator("[data-column='1']").click()
    values = column(page, 1)
    assert values == sorted(values, reverse=True)
    page.locator("[data-column='1']").click()
    assert column(page, 1) == sorted(values)

    page.keyboard.press("/")
    page.keyboard.type('LGR reward_weight":2')
    kept = names(page)
    assert "try-001/lgr2" in kept
    assert "try-001/lgr0" not in kept
    assert {"hub/student", "hub/teacher", "try/opd", "hub-public-12345678"} <= set(kept)
    assert page.locator("#count").inner_text() == "1 of 7 rows"
    page.keyboard.press("Escape")
    assert len(names(page)) == 7

    row = page.locator("#table tbody tr", has_text="hub/student")
    row.locator(".rank button").click()
    teacher = page.locator("#table tbody tr", has_text="hub/teacher")
    assert "▲" in teacher.locator(".rank").inner_text()
    assert "Against hub/student" in page.locator("#compared").inner_text()

    page.locator("#table tbody tr", has_text="try/opd").locator("td a").first.click()
    page.wait_for_selector(".problem")
    assert page.locator("#cell h2").inner_text() == "try/opd on aime_2024"
    assert page.locator(".problem").count() == 30
    page.locator(".problem summary").first.click()
    page.wait_for_selector(".problem .sample")
    assert page.locator(".problem").first.locator(".sample").count() == 16, "two seeds of eight"
    assert "<b>x & y</b>" in page.locator(".problem .sample pre").first.inner_text()
    page.locator("#cell-against").select_option(label="hub/student")
    page.locator("#cell-sort").select_option("difference")
    page.wait_for_function("document.querySelectorAll('.problem summary .number').length === 90")
    gaps = page.locator(".problem summary .number:last-child").all_inner_texts()
    assert [float(gap) for gap in gaps] == sorted(map(float, gaps), reverse=True)
    page.go_back()
    page.wait_for_selector("#overview", state="visible")


def test_settings_in_which_runs_differ_stand_under_their_names_and_on_their_cells(
    page: Page,
) -> None:
    row = page.locator("#table tbody tr", has_text="try-001/lgr2")
    assert row.locator(".varied").inner_text() == "reward_weight 2"
    assert page.locator("#table .varied").count() == 3, "of OPD and the references there is none"
    row.locator("td a").first.click()
    page.wait_for_selector(".problem")
    assert page.locator("#cell .varied").inner_text() == "reward_weight 2"


def test_cells_are_reached_and_opened_by_keys_alone(page: Page) -> None:
    page.locator("#table tbody .rank button").first.focus()
    for key in ("ArrowDown", "ArrowRight", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    page.wait_for_selector(".problem")
    second = page.locator("#cell h2").inner_text()
    assert second.startswith(f"{page.evaluate('opdlab.board().rows[1].name')} on ")
    page.keyboard.press("Escape")
    page.wait_for_selector("#overview", state="visible")


def test_published_figures_stand_beside_and_never_in_a_ranking(page: Page) -> None:
    ranks = page.locator("#table tr.published .rank").all_inner_texts()
    assert len(ranks) > 5
    assert set(ranks) == {"–"}
    page.locator("#published summary").click()
    text = page.locator("#published").inner_text()
    assert "34.92 is no mean@8 over 30 problems" in text
    assert "36.75 is no mean@8 over 30 problems" in text
    assert text.count("⚠") == 3, "one in the explanation"


def test_protocols_are_shown_one_at_a_time(page: Page) -> None:
    page.locator("#boards button").nth(1).click()
    assert names(page) == ["other-001/opd"]


def test_figures_are_drawn_of_the_rows_that_are_shown(page: Page) -> None:
    page.locator("#figures").scroll_into_view_if_needed()
    page.wait_for_function("document.documentElement.dataset.figures === 'drawn'")
    for name in ("length", "cost", "training", "fidelity", "differences"):
        assert page.evaluate(f"document.getElementById('figure-{name}').data.length") > 0
    assert page.evaluate("document.getElementById('figure-differences').data[0].x.length") == 6
    assert page.locator("#reference").input_value() == str(names(page).index("hub/student"))


FIGURES = """[...document.querySelectorAll(".plot")].map((plot) => ({
    drawn: plot.querySelector(".main-svg").getBoundingClientRect().width,
    frame: plot.getBoundingClientRect().width,
    ink: plot.layout.font.color,
}))"""


def compact(value: Any) -> str:
    """As JavaScript writes it."""
    return json.dumps(value, separators=(",", ":"))


def drawn(page: Page) -> None:
    if page.locator("#board").count():
        page.locator("#figures").scroll_into_view_if_needed()
    page.wait_for_function("document.documentElement.dataset.figures === 'drawn'")


def test_a_row_has_one_colour_in_all_figures_however_it_is_sorted(page: Page) -> None:
    drawn(page)
    found = []
    for column in ("average", "model"):
        page.locator(f"[data-column='{column}']").click()
        drawn(page)
        found += page.evaluate(
            """["length", "cost", "training", "fidelity"]
                .flatMap((name) => document.getElementById(`figure-${name}`).data)
                .map((one) => [one.name, (one.line ?? one.marker).color])"""
        )
    colours = {name: {colour for other, colour in found if other == name} for name, _ in found}
    assert {"try/opd", "hub/student"} <= set(colours)
    assert {len(each) for each in colours.values()} == {1}
    assert len(set.union(*colours.values())) == len(colours)


@pytest.mark.parametrize("kind", ["leaderboard", "report"])
def test_printed_figures_are_light_fit_their_frames_and_come_back(
    folder: Path, tmp_path: Path, kind: str
) -> None:
    place = folder / "index.html"
    if kind == "report":
        place = tmp_path / "report.html"
        report(["try-001"], str(folder.parent / "runs"), str(place))
    with chromium_page(viewport={"width": 1400, "height": 900}, color_scheme="dark") as page:
        page.goto(place.as_uri())
        drawn(page)
        before = page.evaluate(FIGURES)
        page.evaluate(f"addEventListener('beforeprint', () => (window.printed = {FIGURES}))")
        page.pdf(path=tmp_path / "printed.pdf", prefer_css_page_size=True)
        assert {figure["ink"] for figure in before} == {"#e7eaee"}
        assert {figure["ink"] for figure in page.evaluate("printed")} == {"#14181f"}
        # The screen's figures come back when their drawing is done.
        page.wait_for_function(
            f"before => JSON.stringify({FIGURES}) === before", arg=compact(before)
        )
        page.emulate_media(media="print")
        page.set_viewport_size(
            {"width": 979, "height": 700}
        )  # a letter's width between its margins
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        page.wait_for_function(f"{FIGURES}.every((one) => one.drawn <= one.frame)")
        assert len(page.evaluate(FIGURES)) == len(before)


def test_the_references_stay_in_view_and_a_dark_page_is_dark(folder: Path) -> None:
    small = {"width": 600, "height": 560}
    with chromium_page(viewport=small, color_scheme="dark") as page:
        page.goto((folder / "index.html").as_uri())
        page.locator("#board").scroll_into_view_if_needed()
        for place in (0, 10_000):
            page.evaluate(f"document.getElementById('board').scrollTop = {place}")
            box = page.locator("#board").bounding_box()
            assert box is not None
            for row in page.locator("#table tr.pinned").all():
                mine = row.locator(".model").bounding_box()
                assert mine is not None
                assert box["y"] - 1 <= mine["y"] <= box["y"] + box["height"]
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background == "rgb(18, 21, 26)"
        page.keyboard.press("d")
        assert (
            page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        )
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= small["width"], "the table scrolls, not the page"


def test_a_report_is_one_file_with_its_figures(folder: Path, tmp_path: Path) -> None:
    report(["try-001"], str(folder.parent / "runs"), str(tmp_path / "report.html"))
    for scheme, ink in (("light", "rgb(20, 24, 31)"), ("dark", "rgb(231, 234, 238)")):
        with chromium_page(viewport={"width": 500, "height": 800}, color_scheme=scheme) as page:
            page.goto((tmp_path / "report.html").as_uri())
            page.wait_for_function("document.documentElement.dataset.figures === 'drawn'")
            assert page.locator(".figures .plot .main-svg").count() >= 2 * 6
            assert page.evaluate("getComputedStyle(document.body).color") == ink
            assert page.evaluate("document.documentElement.scrollWidth") <= 500


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 rows on 12 benchmarks: ten runs as the store writes them, each twenty times under other names."""
    place = tmp_path_factory.mktemp("large")
    correct = {f"bench-{i:02d}": draws(0.5, 4, 2, seed=i) for i in range(12)}
    for n in range(10):
        write_run(place / "runs" / "many-001" / f"run-{n}", correct, method={"type": "opd", "n": n})
    (small,) = build(find(place / "runs")).boards
    rows = [replace(row, name=f"{row.name}-{n}") for row in small.rows for n in range(20)]
    page = page_files.page(Leaderboard([board_of(small.protocol, rows)]))
    write_folder(place / "site", page)
    return place / "site"


def test_two_hundred_runs_on_twelve_benchmarks_load_in_under_two_seconds(large: Path) -> None:
    """Of the page's own work: what else the machine does has no part in it."""
    with chromium_page(viewport={"width": 1400, "height": 900}) as page:
        counters = page.context.new_cdp_session(page)
        counters.send("Performance.enable", {"timeDomain": "threadTicks"})
        page.goto((large / "index.html").as_uri())
        page.wait_for_function("document.querySelectorAll('#table tbody tr').length === 200")
        measured = counters.send("Performance.getMetrics")["metrics"]
        seconds = {one["name"]: one["value"] for one in measured}["TaskDuration"]
        assert page.locator("#table tbody td a").count() == 200 * 12
        assert 0 < seconds < 2


def test_data_in_scripts_cannot_end_them(folder: Path) -> None:
    text = (folder / "index.html").read_text()
    assert HOSTILE not in text
    assert json.loads(page_files.embedded([HOSTILE])) == [HOSTILE]
