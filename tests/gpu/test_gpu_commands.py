"""What commands do, they do on the device."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from shutil import copy
from typing import Any

import mlflow.store.tracking.sqlalchemy_store  # noqa: F401  # else each fork reads it anew
import pytest
import torch
import yaml
from gpu.simulated import counted
from gpu.small_runs import experiment, train
from typer.testing import CliRunner

from opdlab.bench import stored
from opdlab.cli import app
from opdlab.configuration.config import Experiment
from opdlab.files import read_metrics
from opdlab.scores import Scores
from opdlab.training import processes
from opdlab.training.module import Distillation

METHOD = {"type": "lgr", "support": "full", "top_k": 4}
SHAPE = "width=32,layers=2,heads=4,kv=2,intermediate=48,vocabulary=64"


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Path:
    """A folder of runs."""
    place = tmp_path_factory.mktemp("runs")
    copy(store, place / "mlflow.db")
    return place


def run(*words: str | Path) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@contextmanager
def worked_on(device: torch.device) -> Iterator[None]:
    """Something is computed there meanwhile."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield
        assert torch.cuda.max_memory_allocated(device) > before
        return
    with counted() as counts:
        yield
    assert counts.launches["mm"] + counts.launches["addmm"] > 0


def written(output: Path, **changes: object) -> Path:
    """A small experiment as a file."""
    config = experiment(METHOD, steps=2).model_dump(mode="json")
    benchmark = {"type": "math", "level": "short", "limit": 2}
    config["evaluation"] = {"benchmarks": [benchmark], "samples": 1, "references": []}
    config |= {"output": str(output), **changes}
    path = output / "small.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def test_a_run_trains_and_is_evaluated_on_the_device(device: torch.device, output: Path) -> None:
    with worked_on(device):
        run("train", written(output), "tracking.samples_every=1", "training.hacking.grade_every=1")
    assert read_metrics(output / "small-001" / "lgr")[1]["step"] == 2
    assert "step 2" in run("watch", output / "small-001" / "lgr", "--once")
    with worked_on(device):
        assert run("eval", written(output), "--model", output / "small-001" / "lgr" / "model")


def searched(output: Path) -> str:
    space = {"training.learning_rate": {"type": "float", "low": 1e-4, "high": 1e-3}}
    sweep = {"trials": 1, "space": space}
    return run("sweep", written(output, name="searched", sweep=sweep), "training.steps=1")


def searched_in_forks(output: Path, places: Path) -> str:
    """As `searched`; a fork alone knows the simulated device. Where steps are taken is written down."""
    step = Distillation.training_step

    def watched(module: Distillation, *arguments: Any) -> None:
        with places.open("a") as file:
            file.write(f"{module.device}\n")
        step(module, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "may_fork", lambda training: True)
        patch.setattr(Distillation, "training_step", watched)
        return searched(output)


def test_a_sweep_is_searched_on_the_device(
    device: torch.device, output: Path, fresh: Executor | None
) -> None:
    if fresh is None:
        text = searched(output)
    else:
        places = output / "places"
        text = fresh.submit(searched_in_forks, output, places).result()
        assert set(places.read_text().split()) == {str(device)}
    (trial,) = output.glob("searched-sweep/*/*/metrics.jsonl")
    assert read_metrics(trial.parent)[0]["step"] == 1, text


def test_steps_are_timed_on_the_device(device: torch.device, output: Path) -> None:
    few = ("--steps", "1", "--rounds", "1", "--no-evaluation")
    with worked_on(device):
        text = run("bench", "step", written(output), *few)
    assert "share of a step" in text


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("hidden:float32", {"type": "jsd"}),
        ("top_k:4", {"type": "jsd", "support": "top_k", "top_k": 4}),
        ("drawn:4", {"type": "forward_kl"}),
    ],
    ids=["states", "likely tokens", "drawn tokens"],
)
def test_scores_are_put_on_disk_and_trained_from_on_the_device(
    device: torch.device, output: Path, kind: str, method: dict[str, Any]
) -> None:
    place = output / f"scores-{kind[:5]}"
    few = ("--answers", "student", "--prompts", "2", "--kind", kind, "--out", place)
    with worked_on(device):
        run("score", written(output), *few)
    stored = {"teacher": {"scores": str(place)}, "prompts": {"type": "scored"}}
    config = {**experiment(method).model_dump(mode="json"), **stored}
    config["rollout"]["group_size"] = 1
    with counted() as counts:
        _, kept = train(Experiment.model_validate(config), output / f"from-{kind[:5]}")
    assert kept.device == device
    assert kept.rows
    if device.type != "cuda" and kind.startswith("hidden"):
        # What is large of a step is sent once, and nobody waits for it.
        tokens = Scores(place).tokens
        assert counts.sent.count((tokens, 32)) == 1
        assert not any("hidden" in line for line in counts.waits), counts.lines()


def test_prompts_are_rated_on_the_device(device: torch.device, output: Path) -> None:
    rows, rated = output / "rows.jsonl", output / "rated.jsonl"
    rows.write_text(json.dumps({"problem": "1+1=", "answer": "2"}) + "\n")
    data = {"type": "dataset", "path": str(rows), "column": "problem", "grader": "math"}
    experiment = written(output, prompts={**data, "answer_column": "answer"})
    with worked_on(device):
        run("rate", experiment, "--samples", "2", "--to", rated)
    assert "pass_rate" in rated.read_text()


def test_a_model_is_pretrained_on_the_device(device: torch.device, output: Path) -> None:
    small = ("steps=1", "batch_size=2", "warmup_steps=0", "accelerator=auto")
    less = ("evaluation.benchmarks=[{type: math, level: short, limit: 1}]", "evaluation.samples=1")
    short = "rollout={type: cached, max_new_tokens: 8}"
    place = (f"output={output}", "name=pretrained")
    with worked_on(device):
        run("pretrain", "pretrain/student", *small, *less, short, *place)
    assert (output / "pretrained" / "model").is_dir()


def test_the_quickstart_takes_a_step_on_the_device(device: torch.device, output: Path) -> None:
    """Its own models, prompts and methods, on which the shipped file rests."""
    small = ("training.steps=1", "training.prompts_per_step=2", "rollout.max_new_tokens=8")
    less = ("evaluation.benchmarks=[]", "evaluation.references=[]")
    found = []
    for place in ("auto", "cpu"):
        with worked_on(device) if place == "auto" else nullcontext():
            run(
                "train",
                "quickstart",
                *small,
                *less,
                f"output={output}",
                f"training.accelerator={place}",
            )
        run_of = output / f"quickstart-{len(found) + 1:03}"
        found.append([read_metrics(run_of / name)[0] for name in ("opd", "lgr")])
    for here, there in zip(*found, strict=True):
        assert here["step"] == 1
        assert {"reverse_kl", "entropy", "gradient_norm"} <= there.keys(), there.keys()
        for name in there.keys() - {"time", "tokens_per_second"}:
            if not name.startswith("seconds/"):
                assert here[name] == pytest.approx(there[name], rel=1e-4, abs=1e-6), name


def test_a_diagnosis_is_made_on_the_device(device: torch.device, output: Path) -> None:
    few = ("--problems", "2", "--cuts", "2", "--bins", "6")
    with worked_on(device):
        text = run("diagnose", written(output), *few)
    assert "findings:" in text


@pytest.mark.parametrize(
    "words",
    [
        ("scoring", "--length", "12", "--top-k", "2", "--ways", "dense,segments,decode,prefill"),
        ("head", "--tokens", "8"),
        ("rollout", "--rows", "2", "--new-tokens", "4", "--prompt", "3"),
        ("scores", "--rows", "1", "--length", "4"),
    ],
    ids=lambda words: words[0],
)
def test_a_benchmark_runs_on_the_device(
    device: torch.device, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "ROWS", 4)
    if words[0] == "head" and device.type != "cuda":
        pytest.skip("a process that measures memory does not know the simulated device")
    rounds = ("--rounds", "1", "--device", device.type)
    with worked_on(device):
        assert run("bench", *words, "--shape", SHAPE, *rounds)
