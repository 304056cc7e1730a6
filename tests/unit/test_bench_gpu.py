"""`opdlab bench gpu` on tiny models: what is measured is kept, what fails or comes late costs no other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from opdlab.bench.gpu import run
from opdlab.bench.gpu.figures import Card, Case, Figure
from opdlab.bench.gpu.run import PARTS, bench_gpu, cases
from opdlab.bench.shapes import KNOWN, Shape
from opdlab.errors import ConfigError


def measured(to: Path, only: tuple[str, ...]) -> dict[str, Any]:
    bench_gpu(5.0, only, "cpu", "float32", to)
    found: dict[str, Any] = json.loads(to.read_text())
    return found


def test_every_part_is_measured_and_the_page_shows_it(tmp_path: Path) -> None:
    found = measured(tmp_path / "gpu.json", ("scoring", "rollout", "loss"))["measured"]
    assert {key.partition(":")[0] for key in found} == {"scoring", "rollout", "loss"}
    for key, one in found.items():
        assert "error" not in one, (key, one)
        assert all(told["value"] > 0 for told in one["figures"]), (key, one)
    page = (tmp_path / "gpu.html").read_text()
    assert "trunk of the ceiling" in page
    assert 'name="generator" content="opdlab"' in page.replace("'", '"')


def test_a_step_of_both_methods_is_measured_by_its_parts(tmp_path: Path) -> None:
    (one,) = measured(tmp_path / "gpu.json", ("step",))["measured"].values()
    told = {figure["name"]: figure["value"] for figure in one["figures"]}
    for method in ("opd", "lgr"):
        parts = [told[name] for name in told if name.startswith(f"{method}: ")][2:]
        assert sum(parts) == pytest.approx(1, abs=1e-6)
    assert told["LGR's step over OPD's"] > 0


def test_what_stands_in_the_file_is_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    to, times = tmp_path / "gpu.json", {"good": 0, "bad": 0}

    def good(card: Card) -> list[Figure]:
        times["good"] += 1
        return [Figure("speed", 0.5, "share", 0.6)]

    def bad(card: Card) -> list[Figure]:
        times["bad"] += 1
        raise torch.OutOfMemoryError("too large")

    some = [Case("loss", "good", 1, good), Case("loss", "bad", 1, bad)]
    monkeypatch.setattr(run, "cases", lambda card: iter(some))
    first = measured(to, ())
    assert "too large" in first["measured"]["loss: bad"]["error"]
    assert "too large" in capsys.readouterr().out
    assert measured(to, ())["measured"]["loss: good"] == first["measured"]["loss: good"]
    # What failed is tried again.
    assert times == {"good": 1, "bad": 2}
    other = json.loads(to.read_text())
    other["machine"]["device"] = "another card"
    to.write_text(json.dumps(other))
    with pytest.raises(ConfigError, match="another card"):
        measured(to, ())


def test_nothing_is_begun_on_a_card_that_would_end_too_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []

    def case(name: str, seconds: int) -> Case:
        def measure(card: Card) -> list[Figure]:
            begun.append(name)
            return []

        return Case("loss", name, seconds, measure)

    some = [case("long", 10_000), case("short", 1)]
    monkeypatch.setattr(run, "cases", lambda card: iter(some))
    bench_gpu(5.0, (), "cpu", "float32", tmp_path / "gpu.json")
    assert begun == ["short"]


def test_a_part_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'speed' is none of scoring"):
        bench_gpu(1.0, ("speed",), "cpu", "float32", tmp_path / "gpu.json")


def test_a_card_has_cases_of_every_part_and_each_name_once() -> None:
    keys = [case.key for case in cases(Card(torch.device("cuda"), torch.bfloat16))]
    assert len(keys) == len(set(keys))
    assert {key.partition(":")[0] for key in keys} == set(PARTS)


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
