"""Samples without a verdict: nothing counts them as wrong, and what is known without them is kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from run_folders import draws, write_reference, write_run
from sample_rows import rows
from small_models import small_model

from opdlab.configuration.evaluation_settings import Evaluation
from opdlab.console.terminal import console
from opdlab.errors import UngradedError
from opdlab.evaluation import headline, over_seeds
from opdlab.evaluation.store import sample_sets
from opdlab.records import Refusal
from opdlab.sampling.decode_step import _attends_to_all
from opdlab.sweeps.outcome import intermediate, run_metrics
from opdlab_dashboards.pages import page_files
from opdlab_dashboards.results import build, find

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


def test_a_trial_is_told_nothing_of_an_evaluation_before_the_last(tmp_path: Path) -> None:
    run = write_run(tmp_path / "try-001" / "opd", {BENCHMARK: RIGHT})
    midst = {f"{BENCHMARK}/mean_at_8_worst": 0.1, f"{BENCHMARK}/verdicts/server_error": 3.0}
    line = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1]) | midst | {"step": 21}
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    config: Any = None  # looked at by nothing
    found = run_metrics(run, config)
    assert found[f"{BENCHMARK}/mean_at_8"] == 1.0
    assert found[f"{BENCHMARK}/verdicts/server_error"] == 0.0
    assert f"{BENCHMARK}/mean_at_8_worst" not in found


def test_an_evaluation_in_the_midst_that_lacks_answers_is_a_point_without_a_score() -> None:
    whole, lacks = (
        headline(rows({"p0": letters}, benchmark=BENCHMARK)) for letters in ("11", "1r")
    )
    steps = [{"step": 1.0} | whole, {"step": 2.0} | lacks, {"step": 3.0}]
    limit = {"type": "math", "level": "short", "limit": 1}
    settings = Evaluation.model_validate({"benchmarks": [limit], "samples": 2})
    config: Any = SimpleNamespace(evaluation=settings)
    assert intermediate(steps, config) == [(1, 1.0)]
    assert lacks[f"{BENCHMARK}/verdicts/server_error"] == 1


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


def test_a_seed_whose_samples_have_no_verdict_is_shown_by_its_bounds(tmp_path: Path) -> None:
    for seed, (own, status) in enumerate([(RIGHT, "wrong"), (ONE_LACKS, "server_error")]):
        folder = tmp_path / "try-001" / f"opd-{seed}"
        write_run(folder, {BENCHMARK: own}, seed, status=status)
    leaderboard = build(find(tmp_path))
    ((row,),) = (board.rows for board in leaderboard.boards)
    whole, faulty = row.cells[BENCHMARK].each_seed
    assert (whole.value, faulty.value) == (1.0, None)
    assert (faulty.worst, faulty.best) == (pytest.approx(47 / 48), 1.0)
    page = page_files.content(leaderboard)["boards"][0]["rows"][0]["cells"][0]
    assert page["seeds"][1] == [None, None, None, pytest.approx(47 / 48, rel=1e-3), 1.0]


def test_of_two_copies_the_one_with_more_answers_counts_whatever_was_refused(
    tmp_path: Path,
) -> None:
    run = write_run(tmp_path / "b" / "opd", {BENCHMARK: RIGHT})
    copy = tmp_path / "a" / "opd"
    shutil.copytree(run, copy)
    (samples,) = copy.glob("samples/*/")
    for name in ("generations", "grades"):
        (samples / f"{name}-00000.parquet").unlink()
    (cut,) = sample_sets(copy / "samples")
    for number in range(6):
        cut.add_refusals([Refusal("p000", number, 7, "question", f"busy {number}")])
    (found,) = find(tmp_path)
    assert found.folder == copy
    assert {sample.status for one in found.sets for sample in one.samples()} == {"correct"}
    (samples / "generations-00000.parquet").write_text("damaged")
    assert {sample.status for one in found.sets for sample in one.samples()} == {"correct"}


def test_a_window_beside_recurrent_layers_is_no_look_at_all_tokens() -> None:
    assert _attends_to_all(small_model("minimax"))
    assert not _attends_to_all(small_model("minimax", sliding_window=4))
