"""Folders of runs as training leaves them, written through the store's own writer, with made-up answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from opdlab.evaluation.store import ask
from opdlab.identity import Execution, Measurement, ModelId, digest
from opdlab.records import Generation, Grade

WEIGHTS = {"student": "5" * 64, "teacher": "7" * 64}


def subject(weights: str, name: str = "hub/model", **changes: Any) -> ModelId:
    """Who answered."""
    told: dict[str, Any] = {"tokenizer": "t", "template": "none", "ends": (2,), **changes}
    return ModelId(weights=weights, name=name, **told)


def asked(benchmark: str, problems: int, samples: int = 8, **changes: Any) -> Measurement:
    """What an evaluation asks for."""
    values: dict[str, Any] = {
        "model": "model",
        "role": "model",
        "subject": subject("1" * 64),
        "benchmark": benchmark,
        "evaluator": {"type": "math"},
        "data": f"data of {benchmark}",
        "shown": f"prompts of {benchmark}",
        "problems": problems,
        "template": "none",
        "temperature": 1.0,
        "top_p": 1.0,
        "max_new_tokens": 80,
        "seed": 1234,
        "samples": samples,
        "grader": "grader-1",
        "software": {},
        **changes,
    }
    return Measurement(**{"label": values["model"], **values})


def write_samples(folder: Path, correct: np.ndarray, status: str = "wrong", **of: Any) -> None:
    """Samples of one benchmark from a 0/1 array `[problems, k]`; what is not right gets `status`.

    Args:
        of: fields of the measurement.
    """
    benchmark = of.pop("benchmark", "math/short")
    one = ask(folder, asked(benchmark, *correct.shape, **of))
    generations, grades = [], []
    for (i, k), right in np.ndenumerate(correct):
        name = f"p{i:03d}"
        text = f"completion {k} of {name} by {one.checkpoint}: <b>x & y</b> {right}"
        long = (i + k) % 5 == 0
        tokens, stop = (80, "length") if long else (10 + i % 30, "eos")
        generations.append(
            Generation(name, k, 7, f"question {i} of {benchmark}", text, tokens, stop, 0.01)
        )
        verdict = "correct" if right else status
        grades.append(Grade(name, k, one.asked.grader, verdict, str(right) if right else None, ""))
    one.add_generations(generations)
    one.add_grades(grades)


def write_model(
    folder: Path, correct: Mapping[str, np.ndarray], weights: str = "1" * 64, **of: Any
) -> Path:
    """A model that `opdlab eval` measured."""
    label = f"evaluations/{folder.name}"
    for name, array in correct.items():
        of = {"subject": subject(weights), **of}
        write_samples(
            folder / "samples", array, benchmark=name, model=folder.name, label=label, **of
        )
    return folder


def write_run(
    folder: Path,
    correct: Mapping[str, np.ndarray],
    seed: int = 0,
    method: Mapping[str, Any] | None = None,
    steps: int = 20,
    made: Mapping[str, Any] | None = None,
    **of: Any,
) -> Path:
    """A trained run: configuration, manifest, metrics and samples of each benchmark.

    Args:
        made: fields of its manifest.
    """
    folder.mkdir(parents=True)
    settings = config(seed, method or {"type": "opd"})
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    label = f"{folder.parent.name}/{folder.name}"
    told: dict[str, Any] = {
        "group": folder.parent.name,
        "label": label,
        "experiment": folder.parent.name.rpartition("-")[0],
        "run": folder.name,
        "method": settings["method"]["type"],
        "seed": seed,
        "settings": settings,
        **{name: contents(name) for name in WEIGHTS},
        "specialists": [],
        "prompts": {"sha256": "prompts"},
        "code": {"version": "0.2"},
        "environment": {},
        **(made or {}),
    }
    execution = Execution(**told)
    execution.write(folder)
    (folder / "metrics.jsonl").write_text("".join(map(metrics_line, range(1, steps + 1))))
    whose = {"model": folder.name, "role": "run", "execution": execution.id, "label": label}
    who = subject(digest([label, execution.id]), trained_by=execution.id)
    for name, array in correct.items():
        write_samples(folder / "samples", array, benchmark=name, **whose, subject=who, **of)
    return folder


def contents(name: str) -> dict[str, str]:
    """What a manifest says of the student or the teacher."""
    return {"name": f"hub/{name}", "weights_sha256": WEIGHTS[name], "tokenizer_sha256": "t"}


def write_reference(group: Path, role: str, correct: Mapping[str, np.ndarray], **of: Any) -> None:
    """The student before training, or the teacher, of the runs in a group."""
    (group / role).mkdir(parents=True)
    whose = {"model": role, "role": role, "execution": group.name, "label": f"{group.name}/{role}"}
    who = subject(WEIGHTS[role], f"hub/{role}")
    for name, array in correct.items():
        values = {**whose, "subject": who, **of}
        write_samples(group / role / "samples", array, benchmark=name, **values)


def config(seed: int, method: Mapping[str, Any]) -> dict[str, Any]:
    """As much of a resolved experiment as pages read."""
    return {
        "name": "made-up",
        "description": "Does it work?",
        "seed": seed,
        "student": {"path": "hub/student"},
        "teacher": {"path": "hub/teacher"},
        "method": dict(method),
        "training": {"steps": 20, "learning_rate": 0.001},
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
        "teacher_tokens": 110.0,
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
