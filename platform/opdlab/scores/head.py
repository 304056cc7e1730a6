"""A teacher's vocabulary projection without the rest of its weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from opdlab.modelling import TeacherLogits, decoder, models, project
from opdlab.shapes import Float, Tensor

HEAD = "head.safetensors"


def save_teacher(
    folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, head: bool
) -> None:
    """Write what a teacher's stored scores need of it.

    Args:
        head: write its vocabulary projection as well.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(folder)
    if model.generation_config is not None:
        model.generation_config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if head:
        save_file(head_tensors(model), folder / HEAD)


def head_tensors(model: PreTrainedModel) -> dict[str, Tensor]:
    """Weights that turn hidden states into logits, by name, on the host."""
    return {name: value.detach().cpu().contiguous() for name, value in _outside(model).items()}


def head_bytes(model: PreTrainedModel) -> int:
    """Of those weights."""
    return sum(value.numel() * value.element_size() for value in _outside(model).values())


def _outside(model: PreTrainedModel) -> dict[str, Tensor]:
    """Weights that do not belong to the decoder alone, by name."""
    stem = decoder(model)
    inside = next(name for name, module in model.named_modules() if module is stem)
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers()]
    return {name: value for name, value in named if not name.startswith(f"{inside}.")}


@final
class Head:
    """A model of which nothing but its vocabulary projection is there."""

    def __init__(self, shell: PreTrainedModel, tensors: Mapping[str, Tensor]) -> None:
        """Of a model without weights, and those that `head_tensors` took of it."""
        self.model: Any = shell
        self.tensors = dict(tensors)
        # Sharing with embeddings that are not there would keep it from being there.
        self.model.load_state_dict(self.tensors, strict=False, assign=True)
        self.model.requires_grad_(False)

    @classmethod
    def read(cls, folder: Path) -> Head:
        """That of a store; raises ModelError where the folder holds no teacher of one."""
        return cls(models.load_shell(str(folder)), load_file(folder / HEAD))

    @property
    def device(self) -> torch.device:
        return next(iter(self.tensors.values())).device

    @property
    def dtype(self) -> torch.dtype:
        return next(iter(self.tensors.values())).dtype

    def place(self, device: torch.device) -> None:
        """Put it on a device."""
        self.tensors = {name: value.to(device) for name, value in self.tensors.items()}
        self.model.load_state_dict(self.tensors, strict=False, assign=True)
        self.model.requires_grad_(False)

    def logits(self, hidden: Float[Tensor, "T H"], vocabulary: int | None) -> TeacherLogits:
        """Logits of hidden states, over the shared vocabulary."""
        return lambda part: project(self.model, hidden[part].to(self.device, self.dtype))[
            :, :vocabulary
        ]
