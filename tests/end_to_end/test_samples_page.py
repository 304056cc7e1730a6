"""`opdlab samples`: the page, read by clicking in a real browser that has no network."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import run_folders
from machine import need_chromium

from opdlab.errors import DataError
from opdlab.evaluation.store import ask, data_hash, sample_sets
from opdlab.plugins import registry as plugins
from opdlab.records import Generation, Grade, Problem
from opdlab_dashboards.pages.samples import samples

OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
OPTIONS += ["--disable-component-update", "--disable-sync"]
EVALUATOR = {"type": "math", "level": "short", "limit": 6}
HOSTILE = "</script><script>document.title='broken'</script><!--SCRIPT--> & \u2028 <b>bold</b>"


def store(folder: Path, name: str, statuses: list[str], k: int = 4, **asked: Any) -> Path:
    """A run whose samples get these statuses in turn."""
    options = dict(EVALUATOR) | asked.pop("evaluator", {})
    evaluator = plugins.load(plugins.EVALUATORS, "math")(
        **{key: value for key, value in options.items() if key != "type"}
    )
    problems = evaluator.problems()
    values: dict[str, Any] = {
        "model": name,
        "benchmark": "math/short",
        "evaluator": options,
        "data": data_hash(problems),
        "problems": len(problems),
        "template": "none",
        "temperature": 1.0,
        "top_p": 1.0,
        "max_new_tokens": 80,
        "seed": 1,
        "samples": k,
        "grader": "1",
        "software": {},
        **asked,
    }
    kept = ask(folder / name / "samples", run_folders.asked(**values))
    rows = [(problem, i) for problem in problems for i in range(k)]
    kept.add_generations([generation(name, problem, i) for problem, i in rows])
    kept.add_grades(
        [
            Grade(problem.id, i, "1", statuses[n % len(statuses)], f"answer-{i}", f"reason-{i}")
            for n, (problem, i) in enumerate(rows)
        ]
    )
    return folder / name


def generation(name: str, problem: Problem, index: int) -> Generation:
    text = HOSTILE if index == 3 else f"{name} says {index} to {problem.id}"
    return Generation(problem.id, index, 2**60 + index, problem.prompt, text, 7, "eos", 0.5)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    return [
        store(folder, "one", ["correct", "wrong", "no_answer", "truncated"]),
        store(folder, "two", ["correct", "correct", "grader_timeout", "correct"]),
    ]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    path = need_chromium()
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=OPTIONS)
        yield running
        running.close()


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Any]:
    """Opens a page of runs; afterwards it has asked nothing of the network and made no error."""
    page = browser.new_page(viewport={"width": 1200, "height": 800})
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda said: said.type == "error" and faults.append(said.text))
    page.on("request", lambda asked: asked.url.startswith("file:") or faults.append(asked.url))

    def show(*runs: Path) -> Any:
        samples([str(run) for run in runs], "runs", str(tmp_path / "page.html"))
        page.goto((tmp_path / "page.html").as_uri())
        page.wait_for_selector(".cell")
        return page

    yield show
    page.close()
    assert faults == []


def wait_for_count(page: Any, count: str) -> None:
    page.locator("#count", has_text=re.compile(f"^{count}")).wait_for()


def test_a_click_on_a_cell_shows_all_of_its_sample(opened: Any, runs: list[Path]) -> None:
    page = opened(runs[0])
    assert page.locator("#map .cell").count() == 24
    assert page.locator("#map .cell.s1").count() == 6
    assert page.locator("#graders").inner_text() == "graded by 1"
    page.locator("#map .cell.s1").first.click()
    problem = plugins.load(plugins.EVALUATORS, "math")(level="short", limit=6).problems()[0]
    shown = {part: page.locator(f"#detail .{part}").inner_text() for part in PARTS}
    assert shown == {
        "prompt": problem.prompt,
        "gold": json.dumps(problem.gold, separators=(",", ":")),
        "answer": "answer-1",
        "reason": "reason-1",
        "tokens": "7, with end token",
        "completion": f"one says 1 to {problem.id}",
    }
    assert "one: wrong" in page.locator("#detail").inner_text()
    assert str(2**60 + 1) in page.locator("#detail").inner_text()
    page.keyboard.press("Escape")
    assert not page.locator("#detail").is_visible()


PARTS = ("prompt", "gold", "answer", "reason", "tokens", "completion")


def test_what_a_model_writes_is_shown_and_never_run(opened: Any, runs: list[Path]) -> None:
    page = opened(runs[0])
    page.locator("#map .cell.s3").first.click()
    assert page.locator("#detail .completion").text_content() == HOSTILE
    assert page.title() == "Samples of one"


CHATS = (
    "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n",
    "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "<bos><start_of_turn>user\n{}<end_of_turn>\n<start_of_turn>model\n",
)
INJECTIONS = (
    "<script>document.title='broken'</script>",
    "</script><script>document.title='broken'</script>",
    "<img src=x onerror=\"document.title='broken'\">",
    "![seen](http://127.0.0.1:9/seen.png)",
    "[click](javascript:document.title='broken')",
    "<a href=http://127.0.0.1:9/>here</a>",
    "<style>body { display: none }</style>",
    "<link rel=stylesheet href=http://127.0.0.1:9/x.css>",
    "<iframe srcdoc='<script>parent.document.title=1</script>'></iframe>",
    "<svg onload=\"document.title='broken'\"></svg>",
    "<meta http-equiv=refresh content='0; url=http://127.0.0.1:9/'>",
    "<base href=http://127.0.0.1:9/>",
    "<form action=http://127.0.0.1:9/><input autofocus onfocus=\"document.title='broken'\"></form>",
    "<math><mtext></mtext><mglyph><style><img src=x onerror=alert(1)></style></mglyph></math>",
)
PLAIN = (
    "pre",
    "p",
    "div",
    "span",
    "strong",
    "code",
    "h2",
    "h3",
    "dl",
    "dt",
    "dd",
    "button",
    "mark",
)


def chats(folder: Path, prompts: list[str], completions: list[str]) -> Path:
    """A run of one sample a problem, with these prompts and completions in turn."""
    run = store(folder, "chats", ["correct"], k=1)
    (part,) = run.glob("samples/*/generations-00000.parquet")
    (kept,) = sample_sets(run / "samples")
    rows = [
        replace(row, prompt=prompts[n % len(prompts)], completion=completions[n % len(completions)])
        for n, row in enumerate(kept.generations().values())
    ]
    part.unlink()
    kept.add_generations(rows)
    return run


def test_a_chat_is_shown_as_a_chat_and_its_raw_text_is_one_click_away(
    opened: Any, tmp_path: Path
) -> None:
    said = "# Plan\n\nSum **both**:\n- 12 + 7 = 19\n\n```python\nx = 12 + 7\n```\nAnswer: `19`"
    prompts = [one.format("How many?") for one in CHATS]
    page = opened(chats(tmp_path, prompts, [said]))
    roles = (["system", "user", "assistant"], ["user", "assistant"], ["user", "assistant"])
    for number, (prompt, expected) in enumerate(zip(prompts, roles, strict=True)):
        page.locator("#map .cell").nth(number).click()
        assert page.locator("#detail .role").all_inner_texts() == expected
        assert "<" not in page.locator("#detail .chat").inner_text()
        completion = page.locator("#detail .completion")
        assert completion.locator("pre.code").inner_text() == "x = 12 + 7"
        assert completion.locator("strong").all_inner_texts() == ["Plan", "both"]
        assert "• 12 + 7 = 19" in completion.inner_text()
        page.click("#detail .raw")
        assert page.locator("#detail .prompt").text_content() == prompt
        assert completion.text_content() == said
        page.click("#detail .raw")
    page.fill("#text", "12 + 7 =")
    page.evaluate("search()")
    page.locator("#map .cell").first.click()
    assert page.locator("#detail mark").all_inner_texts() == ["12 + 7 ="]


@pytest.mark.parametrize("place", ["text", "code", "prompt"])
def test_nothing_that_a_chat_model_writes_loads_runs_or_leads_anywhere(
    opened: Any, tmp_path: Path, place: str
) -> None:
    hostile = "\n\n".join(INJECTIONS)
    said = {"text": hostile, "code": f"```html\n{hostile}\n```", "prompt": "ok"}[place]
    asked = hostile if place == "prompt" else "Hello?"
    page = opened(chats(tmp_path, [CHATS[0].format(asked)], [said]))
    page.locator("#map .cell").first.click()
    shown = page.locator("#detail .chat" if place == "prompt" else "#detail .completion")
    for one in INJECTIONS:
        assert one in shown.text_content()
    kinds = page.evaluate("[...document.querySelectorAll('#detail *')].map((one) => one.localName)")
    assert set(kinds) <= set(PLAIN)
    named = "[...document.querySelectorAll('#detail *')].flatMap((one) => one.getAttributeNames())"
    assert set(page.evaluate(named)) <= {"class", "title", "type", "hidden", "aria-pressed"}
    page.click("#detail .raw")
    assert page.locator("#detail .completion").text_content() == said
    assert page.title() == "Samples of chats"
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_verdicts_and_text_filter_and_both_runs_stand_side_by_side(
    opened: Any, runs: list[Path]
) -> None:
    page = opened(*runs)
    assert page.locator("#map .cell").count() == 48
    assert "50.0 %" not in page.locator("h1").inner_text()
    assert "(25.0 % of 6 × 4)" in page.locator("h1").inner_text()
    assert "(100.0 %, 6 not judged, of 6 × 4)" in page.locator("h1").inner_text()
    assert page.locator("#verdicts button:has-text('wrong 6 | 0')").count() == 1
    page.click("#verdicts button:has-text('correct')")
    page.click("#verdicts button:has-text('grader timeout')")
    assert page.locator("#count").inner_text() == "18 samples of 6 problems"
    page.fill("#text", "ONE SAYS 1")
    wait_for_count(page, "6 samples")
    page.locator("#map .cell.s1:not(.out)").nth(2).click()
    sides = page.locator("#detail .side")
    assert sides.count() == 2
    assert "one: wrong" in sides.nth(0).inner_text()
    assert "two: correct" in sides.nth(1).inner_text()
    assert page.locator("#detail mark").first.inner_text() == "one says 1"
    page.fill("#text", "nothing of that kind")
    page.wait_for_selector(".empty")


def test_the_keyboard_alone_is_enough(opened: Any, runs: list[Path]) -> None:
    page = opened(*runs)
    chosen = "document.activeElement.dataset.key"
    page.keyboard.press("n")
    assert page.evaluate(chosen) == "0/0/0"
    for key in ("ArrowRight", "ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
    assert page.evaluate(chosen) == "1/0/2"
    assert "one: no answer" in page.locator("#detail").inner_text()
    page.keyboard.press("Escape")
    page.keyboard.press("Enter")
    assert page.locator("#detail").is_visible()
    page.keyboard.press("p")
    assert page.evaluate(chosen) == "1/0/1"
    page.keyboard.press("/")
    page.keyboard.type("says 2")
    wait_for_count(page, "12 samples")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")  # hardest first
    ids = page.locator("#map .row:not(.head)")
    assert ids.count() == 6
    # Of a problem that was not judged nobody knows how hard it is.
    page.evaluate("sheet().marks.forEach((run) => { run[1] = MISSING.repeat(run[1].length); })")
    for order in ("hardest", "easiest"):
        assert page.evaluate(f"state.order = '{order}', order()")[-1] == 1


def test_an_address_opens_its_sample_in_the_dark_on_a_narrow_screen(
    opened: Any, runs: list[Path]
) -> None:
    page = opened(*runs)
    page.locator("#map .cell").nth(5).click()
    address = page.evaluate("location.hash")
    page.set_viewport_size({"width": 360, "height": 740})
    page.emulate_media(color_scheme="dark")
    page.reload()
    assert page.evaluate("location.hash") == address
    assert page.locator("#detail").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.click("#theme")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != dark


def test_five_hundred_problems_by_eight_of_two_runs_answer_at_once(
    opened: Any, tmp_path: Path
) -> None:
    options = {"limit": 500, "level": "long"}
    many = [
        store(tmp_path, name, ["correct", "wrong"], 8, evaluator=options) for name in ("a", "b")
    ]
    page = opened(*many)
    assert page.locator("#map .cell").count() == 8000
    took = page.evaluate(
        "() => { const start = performance.now(); document.querySelector('#verdicts button').click();"
        " return performance.now() - start; }"
    )
    assert took < 3000
    page.fill("#text", "b says 7")
    wait_for_count(page, "500 samples")


def test_what_cannot_be_compared_or_shown_is_said(opened: Any, tmp_path: Path) -> None:
    warm = store(tmp_path, "warm", ["correct"])
    cold = store(tmp_path, "cold", ["wrong"], temperature=0.5, data="gone")
    grades = next(cold.glob("samples/*/grades-00000.parquet"))
    (half,) = sample_sets(cold / "samples")
    rows = list(half.grades("1").values())[:6]
    grades.unlink()
    half.add_grades(rows)
    page = opened(cold, warm)
    assert "(0.0 % of the 6 there are of 6 × 4)" in page.locator("h1").inner_text()
    note = page.locator("#note").inner_text()
    assert "temperature 0.5 and 1.0" in note
    assert "cold is not finished: 6 of 24 samples" in note
    assert "Reference answers are not shown" in note
    page.locator("#map .cell").first.click()
    assert page.locator("#detail .gold").inner_text() == "not known here"


def test_runs_without_a_common_benchmark_are_refused(tmp_path: Path) -> None:
    one = store(tmp_path, "one", ["correct"])
    two = store(tmp_path, "two", ["correct"], benchmark="other")
    with pytest.raises(DataError, match="no benchmark in common"):
        samples([str(one), str(two)], "runs", None)
    with pytest.raises(DataError, match="3 were named"):
        samples([str(one)] * 3, "runs", None)


def test_long_completions_keep_their_ends(
    opened: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = store(tmp_path, "long", ["truncated"], k=1)
    (part,) = run.glob("samples/*/generations-00000.parquet")
    (kept,) = sample_sets(run / "samples")
    rows = [replace(row, completion="a" * 1500 + "b" * 1500) for row in kept.generations().values()]
    part.unlink()
    kept.add_generations(rows)
    monkeypatch.setattr("opdlab_dashboards.pages.samples.TEXT_BUDGET", 1)
    page = opened(run)
    page.locator("#map .cell").first.click()
    text = page.locator("#detail .completion").inner_text()
    assert "1000 characters left out" in text
    assert text.startswith("a" * 1000)
    assert text.endswith("b" * 1000)
