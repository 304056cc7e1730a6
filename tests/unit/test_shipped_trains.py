"""Every shipped run trains as it says, and every number format does or says why not."""

from __future__ import annotations

import json
import multiprocessing
import re
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from gpu.small_runs import experiment, models, train

from opdlab.api.stored_scores import score
from opdlab.configuration.config import Experiment
from opdlab.configuration.loader import load_experiment, variants
from opdlab.configuration.training_settings import Training
from opdlab.errors import ConfigError
from opdlab.modelling.models import DTYPES
from opdlab.training.fit import require_accelerator

SHIPPED = [
    path
    for path in sorted((Path(__file__).parents[2] / "experiments").rglob("*.yaml"))
    if "\nmethod:" in path.read_text()
]
LONGEST = 8  # tokens of an answer here
STEPS = 2


def small(run: Experiment, folder: Path) -> dict[str, Any]:
    """A run's settings with random models, few steps and short answers; all else is its own."""
    settings = run.model_dump(mode="json", exclude={"runs", "sweep", "evaluation", "tracking"})
    student, teacher = map(str, models())
    settings["student"] |= {"path": student, "revision": None, "drop_layers": []}
    settings["teacher"] |= {"path": teacher, "revision": None}
    for one in settings["specialists"]:
        one |= {"path": teacher, "revision": None}
    if settings["teacher"].get("scores") or settings["prompts"]["type"] == "scored":
        stored(settings, folder)
    if settings["prompts"]["type"] == "dataset":
        settings["prompts"] |= {"path": str(folder / "prompts.jsonl"), "template": "none"}
    share = LONGEST / settings["rollout"]["max_new_tokens"]
    settings["rollout"]["max_new_tokens"] = LONGEST
    mask = settings["training"]["mask"]
    mask |= {key: int(share * mask[key]) for key in ("first", "last") if mask[key]}
    scaled = {"steps": STEPS, "warmup_steps": min(1, settings["training"]["warmup_steps"])}
    settings["training"] |= {**scaled, "prompts_per_step": 2, "seeds": 1, "accelerator": "cpu"}
    settings["training"] |= {"devices": 1, "nodes": 1}
    settings["training"]["hacking"]["grade_every"] = 0
    return {**settings, "seed": 0, "name": "small", "description": ""}


def stored(settings: dict[str, Any], folder: Path) -> None:
    """Have a run that trains from scores on disk find some, of its own random models."""
    whole = settings["method"]["type"] != "sft"
    live = {key: settings[key] for key in ("student", "rollout", "training")}
    live |= {"name": "small", "method": {"type": "forward_kl" if whole else "sft"}}
    live["teacher"] = {**settings["teacher"], "scores": None}
    live["rollout"] = {**live["rollout"], "max_new_tokens": LONGEST, "group_size": 1}
    live["prompts"] = {"type": "problems", "sources": [{"type": "math"}]}
    found = score(Experiment.model_validate(live), folder / "scores", answers="teacher", prompts=4)
    settings["prompts"]["path"] = str(found.folder)
    if settings["teacher"]["scores"]:
        settings["teacher"] |= {"scores": str(found.folder), "path": str(found.folder / "teacher")}


def runs_of(path: Path, folder: Path) -> Iterator[Experiment]:
    """The runs of a file that differ in more than a number, such as a rate or a weight."""
    known = set()
    for _, run in variants(load_experiment(str(path), [])):
        settings = small(run, folder)
        written = re.sub(r": -?[\d.e-]+", ": 0", json.dumps(settings, sort_keys=True))
        if written not in known:
            known.add(written)
            yield Experiment.model_validate(settings)


def rows_of(run: Experiment, folder: Path) -> list[dict[str, float]]:
    """What a training records; a sharded one leaves its process in a group of processes."""
    if run.training.strategy != "fsdp":
        return train(run, folder)[1].rows
    fork = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(
        1, mp_context=fork, initializer=partial(torch.set_num_threads, 1)
    ) as one:
        return one.submit(recorded, run, folder).result()


def recorded(run: Experiment, folder: Path) -> list[dict[str, float]]:
    return train(run, folder)[1].rows


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: "-".join(path.parts[-2:]))
def test_every_shipped_run_trains(path: Path, tmp_path: Path) -> None:
    rows = [{"prompt": "12+3=", "domain": "math"}, {"prompt": "f(x)", "domain": "code"}]
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for number, run in enumerate(runs_of(path, tmp_path)):
        rows = rows_of(run, tmp_path / str(number))
        assert len(rows) == STEPS
        for row in rows:
            assert row["gradient_norm"] > 0, run.method
            assert row["updated_share"] > 0.9, run.method


METHODS = {
    "opd": {"type": "opd", "support": "full"},
    "lgr": {"type": "lgr", "top_k": 3},
}
PRECISIONS = ("32-true", "bf16-mixed", "bf16-true")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_number_format_trains(
    tmp_path: Path, precision: str, dtype: str, method: str
) -> None:
    config = experiment(METHODS[method], steps=3, precision=precision, learning_rate=1e-3)
    student = config.student.model_copy(update={"dtype": dtype})
    module, kept = train(config.model_copy(update={"student": student}), tmp_path)
    kind = torch.bfloat16 if precision == "bf16-true" else DTYPES[dtype]
    assert {weight.dtype for weight in module.student.parameters()} == {kind}
    assert kept.rows[-1]["updated_share"] > 0.5
    assert all(weight.isfinite().all() for weight in module.student.parameters())


def test_float16_needs_a_gpu() -> None:
    with pytest.raises(ConfigError, match=r"16-mixed needs a GPU, .* set bf16-mixed"):
        require_accelerator(Training(steps=1, precision="16-mixed", accelerator="cpu"))


@pytest.mark.parametrize("precision", [*PRECISIONS, "16-mixed"])
def test_weights_in_float16_are_refused(precision: str) -> None:
    config = experiment(METHODS["opd"], precision=precision).model_dump(mode="json")
    config["student"]["dtype"] = "float16"
    with pytest.raises(ValueError, match=r"student.dtype: .* Set float32, and training.precision"):
        Experiment.model_validate(config)
