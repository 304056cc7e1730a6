"""What the file of a pretraining may say."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from opdlab.configuration.config import AnyEngine
from opdlab.configuration.evaluation_settings import Evaluation
from opdlab.configuration.posing import ExplainedSource
from opdlab.configuration.section import Section
from opdlab.configuration.training_settings import Beta
from opdlab.sampling import CachedEngine
from opdlab.seeds import LARGEST_SEED


class Architecture(Section):
    """Shape of a new Llama-architecture model."""

    hidden_size: int = Field(ge=8)
    """Width."""
    layers: int = Field(ge=1)
    """Decoder layers."""
    heads: int = Field(ge=1)
    """Attention heads; the width must be a multiple."""
    intermediate_size: int = Field(ge=8)
    """Width inside the MLP."""
    max_positions: int = Field(default=512, ge=8)
    """Longest sequence, in tokens."""
    initial_deviation: float = Field(default=0.1, gt=0)
    """Standard deviation of the first weights; a narrow model learns faster from more than the usual
    0.02."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Architecture:
        if self.hidden_size % (2 * self.heads):
            raise ValueError(
                f"hidden_size ({self.hidden_size}) must be an even multiple of heads ({self.heads}), "
                "because rotary positions turn pairs"
            )
        return self


class Pretraining(Section):
    """Supervised training of a small model, from nothing or from another, on evaluators' traces."""

    kind: Literal["pretrain"]
    """`pretrain` makes a model by supervised training on traces; `train` is a distillation."""
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """Names the folder."""
    description: str = ""
    """What the model is for."""
    seed: int = Field(default=0, ge=0, le=LARGEST_SEED)
    """Of weights and problems."""
    characters: str | None = Field(default=None, min_length=1)
    """The tokenizer's characters, each a token; a student and its teacher need the same ones. Null, as
    `architecture`, for the tokenizer and the shape of `start`."""
    architecture: Architecture | None = None
    """Shape of the model."""
    start: str | None = None
    """A model to begin from, as `student.path` names it; where characters and architecture are given it
    must have the same ones. By default weights are random."""
    sources: list[ExplainedSource] = Field(min_length=1)
    """Where traces come from; one source a batch, in turn, `weights` times each."""
    weights: list[int] = []
    """Turns of each source; by default one each."""
    steps: int = Field(ge=1)
    """Optimizer steps."""
    batch_size: int = Field(default=48, ge=1)
    """Traces a step."""
    learning_rate: float = Field(default=4e-3, gt=0, le=1e30)
    """AdamW's, at its highest; falls to 0 along a cosine."""
    warmup_steps: int = Field(default=50, ge=0)
    """Steps over which the learning rate rises from 0."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's decoupled weight decay."""
    betas: tuple[Beta, Beta] = (0.9, 0.99)
    """AdamW's."""
    gradient_clip: float = Field(default=1.0, ge=0)
    """Largest gradient norm; 0 for no clipping."""
    rollout: AnyEngine = CachedEngine()
    """How responses are sampled in the evaluation at the end."""
    accelerator: Literal["cpu", "gpu", "auto"] = "cpu"
    """Lightning's; the smallest models are fastest on a processor."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """Lightning's; `bf16-mixed` computes in bfloat16 and keeps weights in float32."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Number format of the weights in the finished model's file; what is measured are the weights rounded
    to it."""
    checkpoint_every: int = Field(default=200, ge=1)
    """Optimizer steps between checkpoints."""
    evaluation: Evaluation = Evaluation(references=[])
    """What is measured at the end."""
    output: str = "runs"
    """Folder for checkpoints and the finished model."""

    @model_validator(mode="after")
    def _from_nothing_or_from_a_model(self) -> Pretraining:
        if (self.characters is None) != (self.architecture is None):
            given, missing = ("architecture", "characters")[:: 1 if self.architecture else -1]
            raise ValueError(
                f"{missing}: a new model needs it beside {given}; give both, or neither to "
                f"continue from `start` unchanged"
            )
        if self.characters is None and self.start is None:
            raise ValueError(
                "characters and architecture: a new model needs both; or name the model to "
                "continue from in "
                "`start`"
            )
        return self

    @model_validator(mode="after")
    def _cross_checks(self) -> Pretraining:
        characters = self.characters or ""
        twice = sorted({c for c in characters if characters.count(c) > 1})
        if twice:
            raise ValueError(f"characters: {twice[0]!r} is given twice")
        if self.weights and len(self.weights) != len(self.sources):
            raise ValueError(
                f"weights ({len(self.weights)}) must have one number for each source "
                f"({len(self.sources)})"
            )
        if min(self.weights, default=1) < 1:
            raise ValueError("weights must be 1 or more; leave a source out instead of giving it 0")
        if self.warmup_steps >= self.steps:
            raise ValueError(
                f"warmup_steps ({self.warmup_steps}) must be below steps ({self.steps})"
            )
        return self
