"""The file of `opdlab bench gpu`: what is damaged is named before anything is measured, and one process
writes at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from opdlab.bench.gpu.figures import Card, Case, Figure
from opdlab.bench.gpu.kept import earlier, held, measured_alone
from opdlab.bench.gpu.run import bench_gpu
from opdlab.bench.gpu.worker import alone, measured, measured_ceilings
from opdlab.cli.bench import _check
from opdlab.errors import ConfigError, DataError, OpdlabError, ResumeError, StorageError

NOW = {"device": "a card", "driver": "d", "torch": "t", "opdlab": "o", "dtype": "f"}


def sound() -> dict[str, Any]:
    one = {"figures": [vars(Figure("speed", 0.5, "share", 0.6))], "taken": 1.0}
    tops = {"product": 1e12, "bandwidth": 1e9, "host": 1e9}
    return {"machine": NOW, "ceilings": tops, "measured": {"loss: one": one}}


def test_what_was_measured_is_read_again(tmp_path: Path) -> None:
    to = tmp_path / "gpu.json"
    to.write_text(json.dumps(sound()))
    assert earlier(to, NOW) == sound()


@pytest.mark.parametrize("what", NOW)
def test_figures_of_another_machine_do_not_mix(what: str, tmp_path: Path) -> None:
    """A driver included: its ceilings would be those of the old one, beside the new one's name."""
    to = tmp_path / "gpu.json"
    to.write_text(json.dumps(sound()))
    with pytest.raises(ConfigError, match=f"measured with {what} {NOW[what]}, this is other"):
        earlier(to, NOW | {what: "other"})


def of_case(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda found: found["measured"]["loss: one"].update(changes)


def of_figure(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda found: found["measured"]["loss: one"]["figures"][0].update(changes)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda found: found.update(machine=[]), "machine is not an object"),
        (lambda found: found.update(ceilings="x"), "ceilings is not an object"),
        (
            lambda found: found["ceilings"].update(product=None),
            "product is None, which is not a rate",
        ),
        (
            lambda found: found["ceilings"].update(bandwidth=0.0),
            "bandwidth is 0.0, which is not a rate",
        ),
        (lambda found: found["ceilings"].update(host=float("inf")), "host is inf"),
        (lambda found: found["ceilings"].pop("host"), "host is None"),
        (lambda found: found.update(measured=[]), "measured is not an object"),
        (lambda found: found["measured"].update({"loss: one": 3}), "loss: one is not an object"),
        (of_case(figures=None), "loss: one holds no figures"),
        (of_case(error=3), "loss: one holds no figures"),
        (of_case(figures=[7]), "loss: one: a figure is not an object"),
        (of_figure(value="1"), "loss: one: value is '1'"),
        (of_figure(value=None), "loss: one: value is None"),
        (of_figure(value=float("nan")), "speed is nan"),
        (of_figure(other=1), "loss: one: .*other"),
    ],
)
def test_a_damaged_file_is_named(
    damage: Callable[[dict[str, Any]], object], named: str, tmp_path: Path
) -> None:
    found, to = sound(), tmp_path / "gpu.json"
    damage(found)
    to.write_text(json.dumps(found))
    with pytest.raises(DataError, match=f"(?s){to}.*{named}.*another file by --to"):
        earlier(to, NOW)


def test_two_do_not_measure_into_one_file(tmp_path: Path) -> None:
    to = tmp_path / "gpu.json"
    with (
        held(to),
        held(tmp_path / "other.json"),
        pytest.raises(ResumeError, match="another process"),
    ):
        bench_gpu(0.0, (), "cpu", "float32", to, lambda card: [])
    with held(to):
        pass


class Known(Card):
    """A card that is not here."""

    number = 1

    @property
    def serial(self) -> str:
        # Of this process alone: other suites may run beside this one.
        return f"GPU-{os.getpid()}-{self.number}"


def test_two_do_not_measure_one_card(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Wherever each keeps what is temporary."""
    one, same, other = (Known(torch.device("cuda", n), torch.float32) for n in range(3))
    other.number = 2
    refused = pytest.raises(ResumeError, match=r"cuda:1: .*measures this card .*GPU-.*-1.*--device")
    with measured_alone(one), measured_alone(other):
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        with refused, measured_alone(same):
            pass
    with measured_alone(same):
        pass


def test_a_ceiling_that_is_no_rate_is_measured_again_and_then_refused() -> None:
    card = Card(torch.device("cpu"), torch.float32)
    rates = iter([float("nan"), 0.0, 3.0, float("inf"), 0.0])

    def measure(card: Card) -> None:
        card.product, card.bandwidth, card.host = next(rates), 2.0, 1.0

    assert measured_ceilings(card, measure)["error"] == (
        "product is 0.0, which is not a rate, measured twice"
    )
    assert measured_ceilings(card, measure) == {"product": 3.0, "bandwidth": 2.0, "host": 1.0}
    assert "product is 0.0" in measured_ceilings(card, measure)["error"]

    def full(card: Card) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    assert "OutOfMemoryError: CUDA" in measured_ceilings(card, full)["error"]


def test_figures_have_a_place_before_they_are_measured(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gpu\.json"), held(tmp_path / "gpu.html"):
        pass
    with held(tmp_path / "new" / "gpu.json"):
        assert (tmp_path / "new").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="--to"), held(tmp_path / "file" / "gpu.json"):
        pass


def test_a_figure_that_json_has_no_number_for_is_a_failure() -> None:
    one = Case("loss", "one", 1, lambda card: [Figure("speed", float("nan"), "x")])
    found = measured(one, Card(torch.device("cpu"), torch.float32))
    assert found == {"error": "ArithmeticError: speed is not finite", "figures": []}


@pytest.mark.parametrize("device", ["tpu", "", "meta", "cuda:91"])
def test_a_device_that_cannot_compute_is_refused(device: str) -> None:
    with pytest.raises(OpdlabError, match="--device: "):
        _check(device, "float32")


@pytest.mark.parametrize(
    ("device", "seen", "found"),
    [
        ("cuda", None, "0"),
        ("cuda:1", None, "1"),
        ("cuda:1", "4,6", "6"),
        ("cuda", "GPU-8,GPU-9", "GPU-8"),
        ("cpu", "4,6", "4,6"),
    ],
)
def test_the_process_that_measures_sees_its_card_alone(
    device: str, seen: str | None, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if seen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
    assert alone(device) == device.split(":")[0]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == found
