"""Trainings of a second on random models, on any device."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, final

import torch
from end_to_end.laboratory import save_model

from opdlab.configuration.config import Experiment
from opdlab.console.interrupt import StopRequest
from opdlab.console.quiet import quieten
from opdlab.training.fit import fit
from opdlab.training.module import Distillation
from opdlab.training.pace import Pace
from opdlab.training.pair import Pair, load_module, load_pair
from opdlab.training.reached import local


@cache
def models() -> tuple[Path, Path]:
    """Folders of a student, with dropout where it is asked for, and a teacher."""
    place = Path(mkdtemp(prefix="opdlab-gpu-"))
    student = save_model(place / "student", 16)
    config = student / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "attention_dropout": 0.3}))
    return student, save_model(place / "teacher", 32, scale=4.0)


def experiment(
    method: dict[str, Any],
    dropout: bool = False,
    longest: int = 6,
    lora: dict[str, Any] | None = None,
    **training: Any,
) -> Experiment:
    """An experiment of a few short answers a step."""
    student, teacher = map(str, models())
    settings = {"steps": 1, "prompts_per_step": 2, **training}
    return Experiment.model_validate(
        {
            "name": "small",
            "seed": 3,
            "student": {"path": student, "dropout": dropout, "lora": lora},
            "teacher": {"path": teacher},
            "prompts": {"type": "problems", "sources": [{"type": "math", "level": "short"}]},
            "rollout": {"type": "cached", "max_new_tokens": longest, "group_size": 2},
            "method": method,
            "training": settings,
        }
    )


@final
class Kept(Pace):
    """Keeps the figures of each step, and the gradients of the last."""

    def __init__(self, folder: Path, stop: StopRequest) -> None:
        super().__init__(folder, stop)
        self.rows: list[dict[str, float]] = []
        self.gradients: dict[str, torch.Tensor] = {}
        self.device = torch.device("meta")

    def record(self, module: Distillation, metrics: dict[str, float]) -> None:
        self.rows.append(metrics)
        self.device = module.student.device
        named = module.student.named_parameters()
        self.gradients = {
            name: local(p.grad).detach().cpu() for name, p in named if p.grad is not None
        }


_PAIRS: dict[str, tuple[Pair, dict[str, torch.Tensor], list[Any]]] = {}
_SETTLED = ("probed", "way", "shares", "pieces", "reach", "unproven")


def module_of(config: Experiment) -> Distillation:
    """What is trained. To load models and try how each is used takes longer than a step.

    So the same models on the same device are loaded once: the student gets its first weights again, and the
    teacher is scored in the way that was found right.
    """
    training, teacher = config.training, config.teacher
    alone = config.student.lora or config.specialists or teacher.offload or not teacher.is_here
    if alone or training.strategy != "auto":
        return load_module(load_pair(config), config)
    of = [
        config.student,
        teacher,
        training.accelerator,
        training.precision,
        training.teacher_device,
    ]
    key = repr(of)
    if key not in _PAIRS:
        pair = load_pair(config)
        first = {name: value.clone() for name, value in pair.student.state_dict().items()}
        _PAIRS[key] = pair, first, []
    pair, first, teachers = _PAIRS[key]
    pair.student.load_state_dict(first)
    pair.student.zero_grad()
    module = load_module(pair, config)
    for before in teachers[:1]:
        vars(module.teacher).update({name: vars(before)[name] for name in _SETTLED})
    teachers.append(module.teacher)
    return module


def train(config: Experiment, folder: Path) -> tuple[Distillation, Kept]:
    """Train as `opdlab train` does, without its records; goes on where the folder has a checkpoint."""
    quieten()
    module = module_of(config)
    with StopRequest() as stop:
        kept = Kept(folder, stop)
        fit(module, config.training, kept)
    return module, kept
