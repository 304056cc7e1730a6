"""What memory a run takes while it trains, on each device, phase by phase."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, Literal

import torch
from transformers import PretrainedConfig

from opdlab.configuration import Experiment, Student, Training
from opdlab.modelling import counts_from, models
from opdlab.planning.footprint import (
    Footprint,
    Shape,
    activations,
    footprint,
    packed,
    trained,
)
from opdlab.planning.hub_shapes import shape_of
from opdlab.planning.loss_rows import loss_bytes, told_bytes, told_to
from opdlab.planning.passes import scoring
from opdlab.planning.scored_rows import ScoredRows
from opdlab.planning.stored_teacher import head_bytes, tells_states
from opdlab.sampling import LEAN, most_columns

SAMPLING = "sampling (keys and values)"
UPDATING = "updating (gradients, activations, logits)"
SCORING = "scoring (keys, values, states)"
STEPPING = "stepping (gradients, what AdamW computes)"
PHASES = {"sampling": SAMPLING, "scoring": SCORING, "updating": UPDATING, "stepping": STEPPING}
"""Of a step, as training names them where the memory ends."""
EIGHT_BITS = 2 * (1 + 4 / 256)
"""Bytes of both averages of a weight in 8 bits, with its share of the float32 scale of 256."""
NF4_BYTES = 0.5 + 4 / 64
"""Of a weight in four bits, with its share of the float32 scale of 64."""


@dataclass(frozen=True)
class Memory:
    """Bytes on one device, by what takes them; `held` throughout, the others one at a time."""

    held: dict[str, int]
    passing: dict[str, int]

    @property
    def peak(self) -> int:
        """The most that is needed at a time."""
        return sum(self.held.values()) + max(self.passing.values())


def by_name(found: Mapping[str, Memory]) -> dict[str, int]:
    """Bytes of all devices by what takes them, as a table shows them, and the most at a time of each."""
    rows: dict[str, int] = {}
    for one in found.values():
        rows |= one.held
    for one in found.values():
        rows |= {f"while {name}": size for name, size in one.passing.items()}
    return rows | {f"most at a time, {name}".rstrip(", "): one.peak for name, one in found.items()}


@dataclass(frozen=True)
class Site:
    """Where a run would train.

    Attributes:
        device: the student's.
        teachers: all teachers'.
    """

    device: torch.device
    teachers: torch.device

    @classmethod
    def here(cls, training: Training) -> Site:
        """What this machine has."""
        return cls.on(models.device(training.accelerator), training)

    @classmethod
    def on(cls, kind: str, training: Training) -> Site:
        """Devices of a kind, such as `cuda`, whether this machine has them or not."""
        return cls(torch.device(kind), torch.device(training.teacher_device or kind))

    @property
    def apart(self) -> bool:
        """Whether the teachers have a device of their own."""
        one, other = self.device, self.teachers
        return (one.type, one.index or 0) != (other.type, other.index or 0)


@dataclass(frozen=True)
class Step:
    """What one optimizer step is split into on a device, every response at its greatest length.

    Attributes:
        rows: answers of the device.
        sampled: of them, at a time.
        updated: of them, at a time.
        length: tokens of a row, prompt included.
        parts: devices that a weight is split over.
        working: number format of the student's products.
        stored: that of its weights.
    """

    rows: int
    sampled: int
    updated: int
    length: int
    parts: int
    working: torch.dtype
    stored: torch.dtype
    training: Training = field(repr=False)

    @classmethod
    def of(cls, experiment: Experiment, longest_prompt: int) -> Step:
        """That of an experiment whose longest prompt has so many tokens."""
        training = experiment.training
        rows = max(1, training.prompts_per_step // training.world) * experiment.rollout.group_size
        length = longest_prompt + experiment.rollout.max_new_tokens
        low = training.precision == "bf16-true"
        stored = torch.bfloat16 if low else models.DTYPES[experiment.student.dtype]
        working = torch.bfloat16 if training.precision.startswith("bf16") else stored
        return cls(
            rows=rows,
            sampled=min(rows, training.rollout_rows or rows),
            updated=max(1, min(rows, training.update_tokens // length)),
            length=length,
            parts=training.world if training.strategy == "fsdp" else 1,
            working=torch.float16 if training.precision == "16-mixed" else working,
            stored=stored,
            training=training,
        )

    @property
    def mixed(self) -> bool:
        """Whether products are of other numbers than the weights, which autocast copies."""
        return self.training.precision.endswith("mixed")


def memory(
    experiment: Experiment, longest_prompt: int, site: Site | None = None
) -> dict[str, Memory]:
    """Estimated memory while a run trains, every response at its greatest length.

    Args:
        longest_prompt: tokens.
        site: where; None for this machine.

    Returns:
        That of the one device, named "", or of `student's device` and `teacher's device`.
    """
    site = site or Site.here(experiment.training)
    step = Step.of(experiment, longest_prompt)
    trained = _student(experiment, step, site.device)
    frozen = _teachers(experiment, step, site.teachers)
    if not site.apart:
        return {"": Memory(trained.held | frozen.held, trained.passing | frozen.passing)}
    return {"student's device": trained, "teacher's device": frozen}


def _student(experiment: Experiment, step: Step, device: torch.device) -> Memory:
    model = experiment.student
    student, config = footprint(model), shape_of(model)
    weights, trained = _weights(model, student, step)
    in_bytes = step.training.optimizer == "adamw-8bit"
    on_cpu, sharded = device.type == "cpu", step.training.strategy == "fsdp"
    # Autocast keeps a copy of every weight until the pass ends; parts are gathered as such copies.
    casts = student.parameters * step.working.itemsize if step.mixed and not sharded else 0
    whole = student.parameters * step.working.itemsize if sharded else 0
    gathered = 2 * student.gathered * step.working.itemsize if sharded else 0
    chunk = min(step.training.head_chunk, step.updated * experiment.rollout.max_new_tokens)
    kept = _kept(config, step, model, step.training.activation_checkpointing)
    short = sharded or (not on_cpu and student.kind in LEAN)
    cached = student.cache * (step.working if short else step.stored).itemsize
    columns = step.length
    if step.sampled < step.rows and not _in_equal_rows(config, step.length):
        # Where places are filled again, what they hold is not bounded by what is still to come.
        columns = most_columns(step.length, experiment.rollout.max_new_tokens, on_cpu)
    passing = {
        SAMPLING: student.states * step.sampled
        + cached * step.sampled * columns
        + whole
        + (_packed(Shape.of(config), step.stored) if on_cpu else casts),
        UPDATING: trained
        + gathered
        + kept
        + loss_bytes(experiment.method, told_to(experiment), student.vocabulary, device, chunk)
        + (0 if on_cpu else casts)
        + _states(experiment, step.rows)
        + _teachers_head(experiment),
    }
    if not on_cpu:
        # All weights at a time; a CPU, and AdamW in 8 bits, take one after the other.
        passing[STEPPING] = trained if in_bytes else 2 * trained
    number = 4 if model.lora else step.stored.itemsize
    moments = int(trained / number * EIGHT_BITS) if in_bytes else 2 * trained
    held = {"student weights": weights, "AdamW, two moments": moments}
    if step.training.average != "none":
        # Adapters are in float32 as they are.
        each = 1 if model.lora else averaged(step.stored) / step.stored.itemsize
        held["average of the weights"] = int(trained * each)
    return Memory(held=held, passing=passing)


def _in_equal_rows(config: PretrainedConfig, length: int) -> bool:
    """Whether only rows of equal length are decoded together, which all end at a known column."""
    counted = counts_from(config)
    return counted is not None and counted < length


def averaged(stored: torch.dtype) -> int:
    """Bytes of one weight's average: in float32, whatever the weight is stored in."""
    return max(stored.itemsize, torch.float32.itemsize)


def written(model: Student) -> int:
    """Bytes of a student on the disk: of all its weights, or of its adapters alone."""
    if model.lora is None:
        return footprint(model).weights
    return 4 * _adapters(model)[0]


def _adapters(model: Student) -> tuple[int, int]:
    """Numbers in a student's adapters, and in the weights of the layers that have them."""
    lora: Any = model.lora  # frozen, so it can be looked up
    return trained(Shape.of(shape_of(model)), lora)


def _weights(model: Student, size: Footprint, step: Step) -> tuple[int, int]:
    """Bytes of a student's weights on a device, and of those that are trained."""
    whole = size.parameters * step.stored.itemsize
    if model.lora is None:
        return whole // step.parts, whole // step.parts
    if model.lora.quantize == "nf4":
        whole += int(_adapters(model)[1] * (NF4_BYTES - step.stored.itemsize))
    added = written(model)
    return (whole + added) // step.parts, added // step.parts


def _states(experiment: Experiment, rows: int) -> int:
    """Bytes of the teacher's states of a step, of which losses make distributions, or of tokens told."""
    method = experiment.method
    if not method.full:
        return 0
    if not experiment.teacher.is_here and not tells_states(experiment):
        return told_bytes(experiment) * rows * experiment.rollout.max_new_tokens
    width = shape_of(experiment.teacher).get_text_config().hidden_size
    each = width * models.DTYPES[experiment.teacher.dtype].itemsize
    return each * rows * experiment.rollout.max_new_tokens


def _teachers_head(experiment: Experiment) -> int:
    """Bytes of a whole teacher that the loss needs back on the device for its vocabulary projection."""
    needed = experiment.teacher.is_here and experiment.teacher.offload and experiment.method.full
    return footprint(experiment.teacher).weights if needed else 0


def _kept(
    config: PretrainedConfig, step: Step, model: Student, again: Literal["none", "layers"]
) -> int:
    """Bytes that a micro-batch keeps for its backward pass; each row as many as the one before."""
    lora: Any = model.lora
    of = partial(
        _activations,
        Shape.of(config),
        length=step.length,
        dtype=step.working,
        dropout=model.dropout,
        again=again,
        lora=lora,
    )
    one = of(rows=1)
    return one if step.updated == 1 else one + (step.updated - 1) * (of(rows=2) - one)


def _teachers(experiment: Experiment, step: Step, device: torch.device) -> Memory:
    method, one = experiment.method, experiment.teacher
    teachers = [footprint(each) for each in experiment.taught_here]
    if not teachers:
        return Memory(held={"teacher weights": head_bytes(experiment)}, passing={SCORING: 0})
    held = teachers[1:] if experiment.one_model else teachers
    new = experiment.rollout.max_new_tokens
    asked = ScoredRows(
        step.rows,
        prompt=step.length - new,
        response=new,
        group=experiment.rollout.group_size,
        top_k=method.group,
        full=method.full,
        steps=method.needs.steps,
    )
    scored = _scoring(
        Shape.of(shape_of(one)), models.DTYPES[one.dtype], asked, device.type == "cpu"
    )
    weights = [each.weights // step.parts for each in teachers]
    if step.training.strategy == "fsdp":
        scored += max(each.gathered * each.bytes for each in teachers)
    if experiment.teacher.offload and device.type != "cpu":
        return Memory(held={"teacher weights": 0}, passing={SCORING: scored + max(weights)})
    here = sum(each.weights // step.parts for each in held)
    return Memory(held={"teacher weights": here}, passing={SCORING: scored})


# Each takes seconds for a model of many layers, and a search for settings asks often.
@cache
def _activations(shape: Shape, **rest: Any) -> int:
    return activations(shape.config, **rest)


@cache
def _scoring(shape: Shape, dtype: torch.dtype, asked: ScoredRows, on_cpu: bool) -> int:
    return scoring(shape.config, dtype, asked, on_cpu)


@cache
def _packed(shape: Shape, dtype: torch.dtype) -> int:
    return packed(shape.config, dtype)
