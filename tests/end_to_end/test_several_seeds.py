"""One run trained with several seeds: methods are compared, and not the luck of one training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from end_to_end.laboratory import Laboratory, comparable, wait_for_step

from opdlab.configuration import loader
from opdlab.errors import ConfigError

RUNS = [
    {"name": "lgr"},
    {"name": "opd", "set": {"method": {"type": "opd", "support": "full"}}},
]
SMALL = {
    "runs": RUNS,
    "training__steps": 4,
    "training__seeds": 2,
    "training__checkpoint_every": 2,
    "training__average": "ema",
    "training__average_decay": 0.9,
    "evaluation__every": 3,
    "evaluation__references": ["student"],
}


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory, store: Path) -> tuple[Laboratory, str]:
    """Two methods, two seeds each, and what was printed."""
    laboratory = Laboratory(tmp_path_factory.mktemp("seeds") / "laboratory", store)
    return laboratory, laboratory.run("train", laboratory.write(**SMALL))


def test_each_run_is_trained_with_each_seed_and_methods_are_compared(
    seeded: tuple[Laboratory, str],
) -> None:
    laboratory, text = seeded
    names = {path.parent.name for path in laboratory.output.glob("small-001/*/model")}
    assert names == {"lgr-3", "lgr-4", "opd-3", "opd-4"}
    assert "over 2 trainings" in " ".join(text.split())
    assert "opd minus lgr: mean@2" in text
    assert " ± " in text
    found = json.loads((laboratory.output / "small-001/results.json").read_text())
    (row,) = found["over_seeds"]["opd minus lgr"]
    assert row["seeds"] == len(row["differences"]) == 2
    runs = laboratory.mlflow_runs()
    assert {runs[name].data.tags["opdlab.seed"] for name in names} == {"3", "4"}


def test_a_training_of_several_equals_one_with_its_seed_alone(
    seeded: tuple[Laboratory, str], make_laboratory: Callable[[str], Laboratory]
) -> None:
    alone = make_laboratory("alone")
    alone.run("train", alone.write(**{**SMALL, "seed": 4, "training__seeds": 1}))
    expected, found = alone.weights("lgr"), seeded[0].weights("lgr-4")
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    other = seeded[0].weights("lgr-3")
    assert not all(torch.equal(expected[name], other[name]) for name in expected)


def test_compare_takes_a_method_for_its_trainings_and_pairs_them_by_seed(
    seeded: tuple[Laboratory, str],
) -> None:
    laboratory, _ = seeded
    output = ["--output", str(laboratory.output)]
    by_method = laboratory.run("compare", "small-001/lgr", "small-001/opd", *output)
    listed = [f"small-001/{name}" for name in ("lgr-3,small-001/lgr-4", "opd-4,small-001/opd-3")]
    by_name = laboratory.run("compare", *listed, *output)
    row = [line for line in by_method.splitlines() if "[" in line and "math/short" in line]
    assert row
    assert row == [line for line in by_name.splitlines() if "[" in line and "math/short" in line]
    from_start = laboratory.run("compare", "small-001/student", "small-001/opd", *output)
    assert "opd-3 ... opd-4 minus student" in from_start
    odd = laboratory.run(
        "compare", "small-001/lgr-3,small-001/lgr-4", "small-001/opd-3", *output, code=1
    )
    assert "training seeds 3, 4" in " ".join(odd.split())


def test_the_leaderboard_has_one_row_a_method(seeded: tuple[Laboratory, str]) -> None:
    laboratory, _ = seeded
    text = laboratory.run(
        "leaderboard", str(laboratory.output), "--to", str(laboratory.folder / "b")
    )
    rows = [line for line in text.splitlines() if line.strip().split(" ")[-1:] and "lgr" in line]
    assert len(rows) == 1, text


def test_several_seeds_with_an_average_of_weights_resume_bit_for_bit(
    seeded: tuple[Laboratory, str], make_laboratory: Callable[[str], Laboratory]
) -> None:
    """Killed in the second training of four: one is over by then, two are yet to begin."""
    whole, killed = seeded[0], make_laboratory("killed")
    process = killed.start("train", killed.write(**SMALL))
    wait_for_step(killed, 3, process, "lgr-4")
    process.kill()
    process.communicate()
    killed.run("train", killed.folder / "small.yaml", "--resume")
    for run in ("lgr-3", "lgr-4", "opd-3", "opd-4"):
        expected, found = whole.weights(run), killed.weights(run)
        assert all(torch.equal(expected[name], found[name]) for name in expected)
        assert comparable(killed.metrics(run)) == comparable(whole.metrics(run))
    last = torch.load(whole.output / "small-001/lgr-4/checkpoints/last.ckpt", weights_only=True)
    weight = next(iter(expected))
    raw = last["state_dict"][f"student.{weight}"]
    assert not torch.equal(raw, whole.weights("lgr-4")[weight])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"runs": [{"name": "a"}, {"name": "a-4"}]}, "a-4"),
        ({"runs": [{"name": "a", "set": {"training.seeds": 3}}]}, "the same for all runs"),
        ({"runs": [{"name": "a", "set": {"seed": 9}}]}, "leave seed out"),
        ({"seed": 2**63 - 2, "training__seeds": 3}, "the largest seed"),
    ],
)
def test_seeds_that_could_not_be_told_apart_or_paired_are_refused_at_load(
    changes: dict[str, object], words: str, make_laboratory: Callable[[str], Laboratory]
) -> None:
    file = make_laboratory("odd").write(**{"training__seeds": 2, **changes})
    with pytest.raises(ConfigError, match=words):
        loader.load(file)
