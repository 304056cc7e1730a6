"""Plans, made without weights and without running, against what models really hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_models import FAMILIES, OWN_WAYS, STRETCHED, small_model
from typer.testing import CliRunner

from opdlab.bench.holdings import measure
from opdlab.cli.bench import app

ROWS, LENGTH = 2, 24
CACHED = ("llama", "gemma3", "gpt2", "gpt_bigcode", "qwen3_moe", "deepseek_v3", "llama-dynamic")
ALL = (*FAMILIES, *STRETCHED, *OWN_WAYS)


@pytest.mark.parametrize("family", ALL)
def test_what_a_model_of_any_family_holds_is_planned_within_a_tenth(family: str) -> None:
    model = small_model(family)
    found = {one.what: one for one in measure(model, ROWS, LENGTH)}
    assert {"weights", "activations of a step"} <= set(found)
    for one in found.values():
        assert one.planned == pytest.approx(one.measured, rel=0.1), one
    if family in CACHED:
        assert len(found) == 4 + (family in ("gpt2", "gpt_bigcode")), found


def test_the_command_shows_what_a_model_holds(tmp_path: Path) -> None:
    small_model("gpt2").config.save_pretrained(tmp_path)
    found = tmp_path / "found.json"
    options = ["--rows", "2", "--length", "24", "--json", str(found)]
    done = CliRunner().invoke(app, ["memory", "--model", str(tmp_path), *options])
    assert done.exit_code == 0, done.output
    assert "keys and values while scoring a row" in done.output
    (holdings,) = json.loads(found.read_text())["models"].values()
    assert len(holdings) == 5
