"""Samples without a verdict: nothing counts them as wrong, and what is known without them is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_folders import draws, write_reference, write_run
from small_models import small_model

from opdlab.console.terminal import console
from opdlab.errors import UngradedError
from opdlab.evaluation import over_seeds
from opdlab.sampling.decode_step import _attends_to_all
from opdlab.sweeps.outcome import run_metrics

BENCHMARK = "math/short"
RIGHT = np.ones((6, 8), dtype=int)
ONE_LACKS = np.where(np.arange(48).reshape(6, 8) == 5, 0, 1)


def test_a_trial_whose_samples_have_no_verdict_has_no_score_and_says_what_lacks(
    tmp_path: Path,
) -> None:
    folder = write_run(tmp_path / "try-001" / "opd", {BENCHMARK: ONE_LACKS}, status="server_error")
    config: Any = None  # looked at by nothing
    with pytest.raises(UngradedError, match=r"no verdict \(1 server_error\)"):
        run_metrics(folder, config)


def test_over_seeds_scores_are_kept_where_a_difference_is_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "width", 200)
    group = tmp_path / "try-001"
    write_reference(group, "student", {BENCHMARK: draws(0.2, 6)})
    methods: dict[str, dict[str, Path]] = {}
    for method in ("opd", "lgr", "sft"):
        for seed in (0, 1):
            lacks = method == "lgr" and seed == 1
            own = ONE_LACKS if lacks else draws(0.5, 6, seed=seed)
            folder = group / f"{method}-{seed}"
            write_run(
                folder,
                {BENCHMARK: own},
                seed,
                {"type": method},
                status="server_error" if lacks else "wrong",
            )
            methods.setdefault(method, {})[folder.name] = folder
    over_seeds.report({"student": group / "student"}, methods, group)
    said = " ".join(capsys.readouterr().out.split())
    assert "lgr minus opd is not known. seed 1 on math/short: some samples have no verdict" in said
    kept = json.loads((group / "results.json").read_text())
    assert set(kept["over_seeds"]) == {"sft minus opd"}


def test_a_window_beside_recurrent_layers_is_no_look_at_all_tokens() -> None:
    assert _attends_to_all(small_model("minimax"))
    assert not _attends_to_all(small_model("minimax", sliding_window=4))
