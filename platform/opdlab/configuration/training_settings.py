"""How a student is trained: steps, batch, learning rate, devices, alarms."""

from __future__ import annotations

from math import ceil
from typing import Annotated, Literal

from pydantic import Field, model_validator

from opdlab.configuration.section import Section, moved


class Mask(Section):
    """Response tokens that carry loss; all others do not enter the step's mean."""

    first: int = Field(default=0, ge=0)
    """First position in the response that carries loss, from 0."""
    last: int | None = Field(default=None, ge=0)
    """Last position that carries loss; null for no limit."""
    entropy_above: float | None = Field(default=None, ge=0)
    """Only where the student's entropy is above this, in nats."""
    entropy_share: float | None = Field(default=None, gt=0, le=1)
    """Only this share of a step's tokens, those of highest student entropy (REOPOLD's mask)."""

    @model_validator(mode="after")
    def _not_empty(self) -> Mask:
        if self.last is not None and self.last < self.first:
            raise ValueError(f"last ({self.last}) must not be below first ({self.first})")
        return self


class HackingWatch(Section):
    """When to raise an alarm that the student earns its reward without getting better."""

    window: int = Field(default=20, ge=1)
    """Steps in a window: the last window is compared with the first. At most half of the training's
    steps."""
    repetition: float = Field(default=0.15, gt=0, le=1)
    """Increase in the share of repeated 4-grams, or of the part of an answer that one loop takes."""
    length_factor: float = Field(default=2.0, gt=1)
    """Factor by which answers get longer or shorter."""
    accuracy_drop: float = Field(default=0.1, gt=0, le=1)
    """Decrease in accuracy on training prompts while the teacher's confidence in the answers rises; it
    must also exceed two standard errors."""
    grade_every: int = Field(default=5, ge=0)
    """Rollouts between gradings of training answers; 0 for never. Only for prompts with a grader. A
    window needs two gradings."""
    stop: bool = False
    """End a run's training at its first alarm; the student is then evaluated."""


Beta = Annotated[float, Field(ge=0, lt=1)]


class Training(Section):
    """The optimisation loop, run by Lightning."""

    model_config = moved(
        accumulate="prompts_per_step counts the prompts of a whole optimizer step on all devices, and "
        "update_tokens how much of it is trained on at a time",
        overlap="set rollout_parts: 2 or more for what overlap: true did",
    )

    steps: int = Field(ge=1)
    """Optimizer steps."""
    seeds: int = Field(default=1, ge=1)
    """Number of trainings of each run, with the seeds `seed`, `seed + 1` and so on; tables show them as
    one method, with its spread over seeds."""
    prompts_per_step: int = Field(default=32, ge=1)
    """Prompts of one optimizer step, over all devices; each is answered `rollout.group_size` times."""
    update_tokens: int = Field(default=65_536, ge=1)
    """Most tokens, prompts included, that a device trains on at a time; a longer answer is trained on
    alone. The loss is the exact mean over the step however it is split. Larger values need more
    memory."""
    activation_checkpointing: Literal["none", "layers"] = "none"
    """`layers` keeps only each layer's input and recomputes the rest in the backward pass: about a
    third more time, a fraction of the memory."""
    rollout_rows: int | None = Field(default=None, ge=1)
    """Answers sampled at a time, whose keys and values are in memory; a finished one makes room for the
    next prompt. Null samples all of a step at once; the answers are the same either way."""
    rollout_parts: int = Field(default=1, ge=1)
    """Parts in which a device samples its answers. Above 1, the teacher scores one part while the
    student samples the next with the same weights, so nothing is stale. Useful if the teacher has a
    device (`teacher_device`) or CPU cores of its own."""
    learning_rate: float = Field(default=1e-3, gt=0, le=1e30)
    """AdamW's, at its highest."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Learning rate after the warm-up; `linear` and `cosine` end at 0."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps over which the learning rate rises from 0."""
    average: Literal["none", "ema"] = "none"
    """Weights that are evaluated, stored and exported: those after the last step, or an exponential
    moving average over the steps. Rollouts and gradients always use the current weights."""
    average_decay: float = Field(default=0.99, gt=0, lt=1)
    """Share of the average that each step keeps; before step 1 / (1 - decay) it is the plain mean."""
    optimizer: Literal["adamw", "adamw-8bit"] = "adamw"
    """`adamw-8bit` keeps AdamW's two averages in 8 bits each (arXiv:2110.02861): 2 bytes per weight
    instead of 8, for tensors of 4,096 numbers or more. Needs bitsandbytes."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's decoupled weight decay."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """AdamW's."""
    gradient_clip: float = Field(default=1.0, ge=0)
    """Largest gradient norm; 0 for no clipping."""
    normalisation: Literal["token_mean", "sequence_mean"] = "token_mean"
    """Mean over all response tokens of the step, or mean of the means of each response."""
    epochs: int = Field(default=1, ge=1)
    """Optimizer steps on each rollout; `steps` counts them all. Above 1 the later ones train on answers
    of an earlier student, so the method must correct for it."""
    mask: Mask = Mask()
    """Tokens that carry loss; by default all."""
    precision: Literal["32-true", "bf16-true", "bf16-mixed", "16-mixed"] = "32-true"
    """Lightning's precision of the student. `bf16-mixed` computes in bfloat16 and keeps the weights in
    `student.dtype`, so that in float32 small steps are not lost; `bf16-true` rounds them to
    bfloat16."""
    accelerator: Literal["cpu", "gpu", "auto"] = "auto"
    """Lightning's accelerator; `auto` uses a GPU if there is one."""
    devices: int = Field(default=1, ge=1)
    """Devices on each node. They share the prompts of a step; the result is the same as on one device."""
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    """How several devices hold the models. `ddp` (also `auto`): each holds student, teachers and
    optimizer state. `fsdp` (FSDP2): each holds a shard of every weight and gathers a layer while it is
    computed, for models too large for one device."""
    nodes: int = Field(default=1, ge=1)
    """Number of machines; start the same command on each with torchrun or SLURM."""
    teacher_device: str | None = None
    """Device of the teachers, such as `cuda:1`; null for the student's own. Only for training on one
    device."""
    checkpoint_every: int = Field(default=25, ge=1)
    """Optimizer steps between checkpoints. With several epochs, a checkpoint waits until the rollout's
    epochs are over."""
    keep_every: int = Field(default=0, ge=0)
    """Optimizer steps between copies of the student that are kept in the run's folder, for `opdlab
    diagnose`; 0 for none."""
    hacking: HackingWatch = HackingWatch()
    """Alarms against reward hacking, in the progress line and as the tag `opdlab.alarms`."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads for torch; null leaves the choice to torch. Small models are fastest with 1: on a
    busy machine, threads that wait for each other cost more than they gain."""
    head_chunk: int = Field(default=1024, ge=1)
    """Response tokens whose vocabulary rows are in memory at a time."""

    @property
    def world(self) -> int:
        """Devices in all."""
        return self.devices * self.nodes

    @property
    def rollouts(self) -> int:
        """How often new prompts are answered."""
        return ceil(self.steps / self.epochs)

    @property
    def copies(self) -> int:
        """Copies of the student that stay, beside the last one."""
        return (self.steps - 1) // self.keep_every if self.keep_every else 0
