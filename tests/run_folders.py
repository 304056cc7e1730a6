"""Folders of runs as training leaves them, written through the store's own writer, with made-up answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from opdlab.records import Generation, Grade
from opdlab.store import Asked, SampleSet

WEIGHTS = {"student": "5" * 64, "teacher": "7" * 64}


def asked(benchmark: str, problems: int, samples: int = 8, **changes: Any) -> Asked:
    """What an evaluation asks for."""
    values: dict[str, Any] = {
        "benchmark": benchmark,
        "evaluator": {"type": "math"},
        "data": f"data of {benchmark}",
        "problems": problems,
        "template": "none",
        "temperature": 1.0,
        "top_p": 1.0,
        "max_new_tokens": 80,
        "seed": 1234,
        "samples": samples,
        "grader": "grader-1",
        "software": {"model": "hub/model"},
        **changes,
    }
    return Asked(**values)


def write_samples(
    folder: Path, checkpoint: str, correct: np.ndarray, status: str = "wrong", **of: Any
) -> None:
    """Samples of one benchmark from a 0/1 array `[problems, k]`; what is not right gets `status`."""
    benchmark = of.pop("benchmark", "math/short")
    one = SampleSet(folder, checkpoint, asked(benchmark, *correct.shape, **of))
    one.ask()
    generations, grades = [], []
    for (i, k), right in np.ndenumerate(correct):
        name = f"p{i:03d}"
        text = f"completion {k} of {name} by {checkpoint}: <b>x & y</b> {right}"
        long = (i + k) % 5 == 0
        tokens, stop = (80, "length") if long else (10 + i % 30, "eos")
        generations.append(
            Generation(name, k, 7, f"question {i} of {benchmark}", text, tokens, stop, 0.01)
        )
        verdict = "correct" if right else status
        grades.append(Grade(name, k, one.asked.grader, verdict, str(right) if right else None, ""))
    one.add_generations(generations)
    one.add_grades(grades)


def write_run(
    folder: Path,
    correct: Mapping[str, np.ndarray],
    seed: int = 0,
    method: Mapping[str, Any] | None = None,
    steps: int = 20,
    **of: Any,
) -> Path:
    """A trained run: configuration, manifest, metrics and samples of each benchmark."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config(seed, method or {"type": "opd"})))
    models = {name: {"weights_sha256": weights} for name, weights in WEIGHTS.items()}
    (folder / "manifest.json").write_text(json.dumps(models))
    (folder / "metrics.jsonl").write_text("".join(map(metrics_line, range(1, steps + 1))))
    for name, array in correct.items():
        write_samples(folder / "samples", folder.name, array, benchmark=name, **of)
    return folder


def write_reference(group: Path, role: str, correct: Mapping[str, np.ndarray], **of: Any) -> None:
    """The student before training, or the teacher, of the runs in a group."""
    (group / role).mkdir(parents=True)
    (group / "config.yaml").write_text(yaml.safe_dump(config(0, {"type": "opd"})))
    for name, array in correct.items():
        write_samples(group / role / "samples", role, array, benchmark=name, **of)


def config(seed: int, method: Mapping[str, Any]) -> dict[str, Any]:
    """As much of a resolved experiment as pages read."""
    return {
        "name": "made-up",
        "description": "Does it work?",
        "seed": seed,
        "student": {"path": "hub/student"},
        "teacher": {"path": "hub/teacher"},
        "method": dict(method),
        "training": {"steps": 20, "accumulate": 2, "learning_rate": 0.001},
        "output": "runs",
    }


def metrics_line(step: int) -> str:
    """One step of training as `metrics.jsonl` holds it."""
    row = {
        "reverse_kl": 1.0 / step,
        "entropy": 0.5,
        "fidelity": 0.9 - 0.01 * step,
        "response_length": 20.0 + step,
        "response_tokens": 100.0,
        "leaves": 10.0,
        "fidelity/t0000-0009": 0.95,
        "fidelity/t0010-0019": 0.9 - 0.02 * step,
        "seconds/rollout": 0.25,
        "seconds/teacher": 0.5,
        "seconds/update": 0.25,
        "step": step,
    }
    return json.dumps(row) + "\n"


def draws(share: float, problems: int = 30, k: int = 8, seed: int = 0) -> np.ndarray:
    """Right and wrong answers at about a share, on problems of unequal difficulty."""
    generator = np.random.default_rng(seed)
    difficulty = np.clip(generator.normal(share, 0.25, problems), 0.02, 0.98)
    return (generator.random((problems, k)) < difficulty[:, None]).astype(int)
