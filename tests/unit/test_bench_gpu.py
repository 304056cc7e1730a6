"""`opdlab bench gpu` on tiny models: what is measured is kept; what fails or hangs costs no other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from card_cases import TRACES, case, slow, trouble

from opdlab.bench.gpu import cases as listed, ceilings, leaves, memory, page, run
from opdlab.bench.gpu.cases import tiny
from opdlab.bench.gpu.figures import PARTS, Card, Case, Figure
from opdlab.bench.gpu.run import bench_gpu
from opdlab.bench.gpu.worker import measured
from opdlab.bench.shapes import KNOWN, Shape
from opdlab.errors import ConfigError, OpdlabError, needing_room
from opdlab.planning.cards import CARDS, known_card


@pytest.fixture(scope="module")
def cpu() -> Card:
    card = Card(torch.device("cpu"), torch.float32)
    ceilings.measure(card)
    return card


@pytest.mark.filterwarnings("ignore:flex_attention called without:UserWarning")
@pytest.mark.parametrize(
    "case",
    [one for one in tiny() if not one.needs and "L 48" not in one.title],
    ids=lambda one: one.key,
)
def test_every_kind_of_case_is_measured(case: Case, cpu: Card) -> None:
    found = measured(case, cpu)
    assert "error" not in found
    assert found["figures"]
    for told in found["figures"]:
        # Memory off an accelerator is the process's, which hardly rises with such models.
        assert told["value"] > 0 or case.part == "memory", told
    told = {one["name"]: one["value"] for one in found["figures"]}
    if case.part == "step":
        for method in ("opd", "lgr"):
            parts = [told[name] for name in told if name.startswith(f"{method}: ")][2:]
            assert sum(parts) == pytest.approx(1, abs=1e-6)
        assert told["LGR's step over OPD's"] > 0
    if case.part == "memory":
        for phase in ("sampling", "scoring", "updating"):
            assert told[f"{phase}: `plan` over it"] > 0
            assert told[f"{phase}: `plan`'s time over it"] > 0


@pytest.fixture
def traces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "traces"
    monkeypatch.setenv(TRACES, str(path))
    return path


def begun(traces: Path) -> list[str]:
    return [line.split()[0] for line in traces.read_text().splitlines()]


def test_a_case_that_hangs_or_dies_costs_no_other(
    tmp_path: Path,
    traces: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(run, "_LEAST", 3.0)
    monkeypatch.setattr(run, "_OVERDUE", 1.0)
    to = tmp_path / "gpu.json"
    bench_gpu(20.0, (), "cpu", "float32", to, trouble)
    whole = json.loads(to.read_text())
    found = whole["measured"]
    assert found["loss: good"]["figures"][0]["value"] == 0.5
    # Shares of one set of ceilings, in however many processes they were measured.
    tops = {found[name]["figures"][1]["value"] for name in ("loss: first", "loss: good")}
    assert tops == {whole["ceilings"]["product"]}
    assert "ended after 3 s" in found["loss: hangs"]["error"]
    assert "exit code -11" in found["loss: dies"]["error"]
    large = "does not fit: weights, keys and values take 4.194e+06 GiB, and the card has"
    assert large in found["loss: too-large"]["error"]
    assert begun(traces) == ["first", "hangs", "dies", "good"]
    said = " ".join(capsys.readouterr().out.split())
    assert "ended after 3 s" in said
    assert "does not fit: weights, keys" in said
    assert "1 of 6 cases are not measured yet" in said
    assert "no_such_library is not installed here" in said
    assert "ended after 3 s" in to.with_suffix(".html").read_text()

    other = json.loads(to.read_text())
    other["machine"]["device"] = "another card"
    to.write_text(json.dumps(other))
    with pytest.raises(ConfigError, match="another card"):
        bench_gpu(20.0, (), "cpu", "float32", to, trouble)


def test_a_case_that_fails_says_why_and_is_tried_again_after_all_others(cpu: Card) -> None:
    def fail() -> None:
        raise torch.OutOfMemoryError("too large")

    one, two, three = case("one", fail), case("two"), case("three")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(TRACES, os.devnull)
        found = measured(one, cpu)
        told = measured(case("one", fail, holds=1 << 28), cpu)["error"]
    assert found == {"error": "OutOfMemoryError: too large", "figures": []}
    assert told.startswith("weights, keys and values take 1 GiB, and the card has ")
    assert told.endswith(": OutOfMemoryError: too large")
    known = {one.key: found, three.key: {"figures": []}}
    assert run.unmeasured([one, two, three], known) == [two, one]


def test_what_cannot_even_begin_is_said(
    tmp_path: Path, traces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "_BEGINNING", 0.01)
    with pytest.raises(OpdlabError, match="libraries and ceilings: it was ended after"):
        bench_gpu(20.0, (), "cpu", "float32", tmp_path / "gpu.json", slow)
    assert not traces.exists()


PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from card_cases import slow
from opdlab.bench.gpu.run import bench_gpu
if __name__ == "__main__":
    bench_gpu(20.0, (), "cpu", "float32", Path(sys.argv[2]), slow)
"""


def test_a_suite_that_is_killed_keeps_what_it_measured_and_leaves_nothing_behind(
    tmp_path: Path, traces: Path
) -> None:
    to, program = tmp_path / "gpu.json", tmp_path / "program.py"
    program.write_text(PROGRAM)
    process = subprocess.Popen(
        [sys.executable, str(program), str(Path(__file__).parents[1]), str(to)]
    )
    while not (traces.exists() and begun(traces) == ["good", "slow"]):
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    worker = int(traces.read_text().split()[-1])
    while not ended(worker):
        time.sleep(0.05)
    assert list(json.loads(to.read_text())["measured"]) == ["loss: good"]


def ended(process: int) -> bool:
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return True
    return "State:\tZ" in status


def test_a_part_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'speed' is not one of scoring"):
        bench_gpu(1.0, ("speed",), "cpu", "float32", tmp_path / "gpu.json")


def test_a_card_has_cases_of_every_row_of_the_goals_and_each_name_once() -> None:
    some = list(listed.cases(Card(torch.device("cuda"), torch.bfloat16)))
    keys = [case.key for case in some]
    assert len(keys) == len(set(keys))
    assert {case.part for case in some} == set(PARTS)
    for name in ("Qwen2.5 1.5B", "Qwen2.5 7B", "Qwen3 32B"):
        for length in ("4,096", "16,384", "39,000"):
            assert f"scoring: {name}, L {length}, K 8, 15% active" in keys
    for rows in ("4,096", "32,768"):
        assert f"loss: head of Qwen2.5 1.5B, {rows} rows" in keys
    for rows in (8, 64, 256):
        for tokens in ("1,024", "8,192"):
            for name in ("1.5B", "7B"):
                assert f"rollout: Qwen2.5 {name}, {rows} rows after {tokens} tokens" in keys
    assert "rollout: Qwen3.5 by default, 9B, 64 rows after 1,024 tokens" in keys
    both = "Qwen2.5, 1.5B by 7B"
    assert f"step: {both}, 8 answers of 1,024 tokens" in keys
    assert f"memory: {both}, 8 answers of 1,024 tokens, as it is" in keys
    assert {case.needs for case in some} == {"", "trl", "vllm"}
    # A card of 40 GB holds no 32B, nor the keys of many long rows, and says so.
    small = Card(torch.device("cuda"), torch.bfloat16)
    small.__class__ = type("Small", (Card,), {"total": 40 << 30})
    large = [case for case in listed.cases(small) if not case.fits(small)]
    assert sum("32B" in case.key for case in large) == 3
    (most,) = [one for one in large if "7B, 256 rows after 8,192" in one.key]
    assert most.held(small).startswith(
        "weights, keys and values take 133.2 GiB, and the card has 40"
    )


@pytest.mark.filterwarnings("ignore:flex_attention called without:UserWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ways_of_leaves_agree(dtype: torch.dtype) -> None:
    some = leaves.last_leaves(Shape(64, 1, 4, 2, 128, 512), 60, torch.device("cpu"), dtype)
    expected = leaves.WAYS[leaves.OWN](some)()
    for name, way in leaves.WAYS.items():
        found = way(some)()
        close = 1e-5 if dtype == torch.float32 else 3e-2
        torch.testing.assert_close(found, expected, rtol=0, atol=close, msg=name)


def test_each_phase_is_watched_and_only_while_it_is_wanted() -> None:
    with memory.phases(torch.device("cpu")) as held:
        for phase in ("sampling", "scoring"):
            with needing_room(phase):
                pass
    with needing_room("updating"):
        pass
    assert set(held) == {"sampling", "scoring"}
    assert all(most > 0 for most in held.values())


@pytest.mark.parametrize(
    ("device", "gib", "name"),
    [
        ("NVIDIA H200", 139.8, "h200"),
        ("NVIDIA H100 80GB HBM3", 79.1, "h100"),
        ("NVIDIA A100-SXM4-40GB", 39.4, "a100-40"),
        ("NVIDIA A100 80GB PCIe", 79.2, "a100-80"),
        ("NVIDIA GeForce RTX 4090", 23.5, "4090"),
    ],
)
def test_a_card_of_the_list_is_known_by_the_name_that_torch_gives_it(
    device: str, gib: float, name: str
) -> None:
    assert known_card(device, int(gib * 2**30)) == CARDS[name]
    assert known_card("Radeon VII", 1 << 34) is None


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("qwen2.5-1.5b", 1.5437),
        ("qwen2.5-7b", 7.6156),
        ("qwen3-1.7b", 1.7206),
        ("qwen3-8b", 8.1907),
        ("qwen3-32b", 32.762),
    ],
)
def test_known_shapes_have_the_published_numbers_of_weights(name: str, billions: float) -> None:
    model = KNOWN[name].build("meta", torch.bfloat16, 64)
    assert sum(p.numel() for p in model.parameters()) / 1e9 == pytest.approx(billions, abs=1e-3)
    assert KNOWN[name].weights() / 1e9 == pytest.approx(billions, rel=1e-3)
    assert Shape.parse(f"{name},layers=2").layers == 2


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.614, "share", "61%"),
        (2454.4, "x", "2,454 x"),
        (3.3631, "ms", "3.36 ms"),
        (0.5, "s", "0.5 s"),
    ],
)
def test_figures_are_told_without_exponents(value: float, unit: str, text: str) -> None:
    assert Figure("one", value, unit).text() == text


@pytest.mark.parametrize(
    ("figure", "met", "goal"),
    [
        (Figure("one", 0.61, "share", 0.6), True, ">= 60%"),
        (Figure("one", 1.2, "x", 1.1, at_most=True), False, "<= 1.1 x"),
        (Figure("one", 0.92, "x", 1.0, within=0.1), True, "1 x ± 10%"),
        (Figure("one", 1.12, "x", 1.0, within=0.1), False, "1 x ± 10%"),
        (Figure("one", 1.12, "x"), None, ""),
    ],
)
def test_a_goal_is_told_and_reached_on_its_side(
    figure: Figure, met: bool | None, goal: str
) -> None:
    assert figure.met is met
    assert figure.goal_text() == goal


MEASURED = {
    "machine": {"device": "a card", "driver": "d", "torch": "t", "dtype": "f", "opdlab": "o"},
    "ceilings": {"product": 7e14, "bandwidth": 4e12, "host": 5e10},
    "measured": {
        "scoring: one": {
            "figures": [
                vars(Figure("trunk of the ceiling", 0.7, "share", 0.6)),
                vars(Figure("leaves of the ceiling", 0.2, "share", 0.6)),
                vars(Figure("opd: teacher", 0.4, "of the step")),
                vars(Figure("opd: update", 0.6, "of the step")),
            ]
        },
        "loss: two": {"figures": [], "error": "it was ended after 9 s"},
    },
}


def test_the_page_shows_figures_goals_and_errors() -> None:
    text = page.html(MEASURED)
    foreign = {"figures": [vars(Figure("one", 2.0, "<img src=x>"))]}
    assert "<img" not in page.html(MEASURED | {"measured": {"key": foreign}})
    for part in ("trunk of the ceiling", "&gt;= 60%", "it was ended after 9 s", 'content="opdlab"'):
        assert part in text.replace("'", '"'), part


def test_words_of_a_file_are_no_markup_of_the_page() -> None:
    hostile = "<script>alert(1)</script>\x1b[2J\ud800"
    figures = [
        vars(Figure(f"opd: {hostile}", 0.5, unit)) for unit in ("share", "of the step", hostile)
    ]
    found = {
        "machine": {**dict.fromkeys(MEASURED["machine"], hostile)},
        "ceilings": MEASURED["ceilings"],
        "measured": {hostile: {"figures": figures, "error": hostile}},
    }
    text = page.html(found)
    assert "<script>alert" not in text
    assert "\x1b" not in text
    text.encode()
