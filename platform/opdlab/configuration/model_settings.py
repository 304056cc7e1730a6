"""Who is trained, and who teaches."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from opdlab.configuration.adapter_settings import Lora
from opdlab.configuration.section import Section
from opdlab.configuration.server_settings import Server
from opdlab.configuration.stored_scores import offers, teachers_files
from opdlab.methods import EVERYTHING, Offers


class Model(Section):
    """A causal language model with its tokenizer."""

    path: str
    """`embedded:NAME` for a model of this package, a folder, a GGUF file, or a name on the Hugging Face
    hub. A relative path that does not exist here is looked up in the folders that OPDLAB_MODELS
    names."""
    revision: str | None = None
    """Commit or tag on the hub; required for models from the hub, so that a run can be repeated."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Number format of the weights."""


class Student(Model):
    """The model that is trained."""

    dropout: bool = False
    """Apply the dropout of the model's own configuration in the loss. Answers are always sampled
    without dropout, so even a perfect student then has a loss above zero."""
    lora: Lora | None = None
    """Train low-rank adapters instead of all weights; null trains all weights."""
    drop_layers: list[Annotated[int, Field(ge=0)]] = []
    """Layers to leave out, numbered from 0; `opdlab prune` finds those that matter least."""

    @model_validator(mode="after")
    def _layers_once(self) -> Student:
        if len(set(self.drop_layers)) < len(self.drop_layers):
            raise ValueError(f"drop_layers ({self.drop_layers}): a layer is named twice")
        if self.drop_layers and self.lora is not None:
            raise ValueError(
                "drop_layers: adapters remember their model by its path, where no layer is missing; write "
                "the pruned model by `opdlab prune MODEL FOLDER --drop NUMBERS` and take that folder"
            )
        return self

    @model_validator(mode="after")
    def _dropout_acts(self) -> Student:
        if self.lora is not None and self.lora.dropout and not self.dropout:
            raise ValueError(
                "lora.dropout acts only in training mode; set student.dropout: true as well, or "
                "lora.dropout: 0"
            )
        return self


class Taught(Model):
    """A model that teaches, in this process or behind a server."""

    server: Server | None = None
    """A server that serves the teacher; null for a teacher in this process. With a server, only tokenizer
    and shape are read from `path`, and `dtype` has no effect."""

    @property
    def offers(self) -> Offers:
        """What it can tell of an answer."""
        return EVERYTHING if self.server is None else self.server.offers

    @property
    def is_here(self) -> bool:
        """Whether its weights are in this process."""
        return self.server is None


class Teacher(Taught):
    """The model that teaches."""

    offload: bool = False
    """Keep this teacher and all specialists in host memory, and on the device only while they answer or
    score. This frees device memory for the student and costs one copy of their weights per step."""
    scores: str | None = None
    """Folder of its scores on disk, made by `opdlab score`, in place of `path`: no teacher is loaded, and
    the answers trained on are those of the folder (`prompts: {type: scored}`)."""

    @model_validator(mode="before")
    @classmethod
    def _of_the_store(cls, data: Any) -> Any:
        return teachers_files(data)

    @property
    def offers(self) -> Offers:
        return super().offers if self.scores is None else offers(self.scores)

    @property
    def is_here(self) -> bool:
        return self.server is None and self.scores is None


class Specialist(Taught):
    """A teacher for some domains."""

    domains: list[str] = Field(min_length=1)
    """Benchmarks whose prompts it scores (`code/*` for all that start with `code/`), or values of
    `prompts.domain_column`."""
