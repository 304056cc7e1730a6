"""Small stores of scores: a student, another model as its teacher, and experiments on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tiny_chat
import torch
from transformers import AutoModelForCausalLM

from opdlab.api.stored_scores import score
from opdlab.configuration.config import Experiment
from opdlab.offline.run import Stored
from opdlab.records import Supervision
from opdlab.training.module import Distillation
from opdlab.training.objective import micro_batches, rows_in_parts
from opdlab.training.pair import load_module, load_pair, load_source as load_source
from opdlab.training.whole_step import Place

HERE = Place(0, 1, torch.device("cpu"))
ROWS = [{"q": f"{n}+1?", "a": str(n + 1)} for n in range(12)]
LONGEST = 8


def models(folder: Path) -> tuple[str, str]:
    """Folders of a student and of a teacher with other weights."""
    student, teacher = (tiny_chat.save(folder / name, 128) for name in ("student", "teacher"))
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_pretrained(teacher)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    model.save_pretrained(teacher)
    return student, teacher


def experiment(
    folder: Path,
    method: Any = "forward_kl",
    teacher: Any = None,
    prompts: Any = None,
    given: bool = True,
    **rest: Any,
) -> Experiment:
    """An experiment on the models in a folder; by default with a live teacher and given answers."""
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    data = {"type": "dataset", "path": str(rows), "column": "q"}
    if given:
        data |= {"completion_column": "a", "given": 1}
    training = {"steps": 4, "prompts_per_step": 4, "accelerator": "cpu", "threads": 1}
    return Experiment.model_validate(
        {
            "name": "mine",
            "student": {"path": str(folder / "student")},
            "teacher": teacher or {"path": str(folder / "teacher")},
            "prompts": prompts or data,
            "rollout": rest.pop("rollout", {"type": "cached", "max_new_tokens": LONGEST}),
            "method": {"type": method} if isinstance(method, str) else method,
            "training": training | rest.pop("training", {}),
            **rest,
        }
    )


def made(folder: Path, kind: str, name: str = "", **asked: Any) -> Path:
    """A store of the experiment's answers."""
    out = folder / (name or f"{kind.replace(':', '-')}-{asked.get('answers', 'given')}")
    method = asked.pop("method", "forward_kl")
    given = asked.get("answers", "given") == "given"
    found: Stored = score(experiment(folder, method, given=given), out, kind=kind, **asked)
    assert found.finished
    return out


def from_store(folder: Path, store: Path, method: Any = "forward_kl", **rest: Any) -> Experiment:
    """An experiment that trains on a store alone."""
    own = {"teacher": {"scores": str(store)}, "prompts": {"type": "scored"}}
    return experiment(folder, method, **own, **rest)


def with_live_teacher(
    folder: Path, store: Path, method: Any = "forward_kl", **rest: Any
) -> Experiment:
    """The same on the same answers, scored now by the teacher itself."""
    return experiment(folder, method, prompts={"type": "scored", "path": str(store)}, **rest)


def module_of(config: Experiment) -> Distillation:
    return load_module(load_pair(config), config)


def first_step(config: Experiment) -> tuple[torch.Tensor, Supervision]:
    """The gradient of the student's weights in the first step, as one vector, and what was made of it."""
    module = module_of(config)
    module.student.eval()
    collected = module.collector.collect(HERE)
    groups = rows_in_parts(collected.rollout, 10_000)
    for _, batch in micro_batches(collected, groups, HERE.device, len(groups)):
        share, _ = module.objective.loss(batch)
        share.backward()
    gradients = [weight.grad for weight in module.student.parameters() if weight.grad is not None]
    return torch.cat([one.flatten() for one in gradients]), collected.supervision
