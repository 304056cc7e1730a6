"""How large a model is and what memory its training takes, found without its weights.

The model runs once on tensors that have a shape and no content, so the numbers hold for any architecture
that transformers has, whatever its layers keep for the backward pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForCausalLM, PretrainedConfig

from opdlab import models
from opdlab.config import Experiment, Model

# In float32, of a chunk of the vocabulary: the student's logits and log-probabilities, their gradients,
# the teacher's log-probabilities, the probabilities and a product of two of these.
_VOCABULARY_COPIES = 7


@dataclass(frozen=True)
class Footprint:
    """Sizes of one model.

    Attributes:
        kind: class of the model in transformers.
        parameters: numbers in all weights, tied ones once.
        bytes: of one weight.
        cache: numbers that keys and values of one token take, over all layers.
    """

    kind: str
    layers: int
    width: int
    vocabulary: int
    parameters: int
    bytes: int
    cache: int

    @property
    def weights(self) -> int:
        """Bytes of all weights."""
        return self.parameters * self.bytes


@dataclass(frozen=True)
class Memory:
    """Bytes on one device, by what takes them; `held` throughout, the others one at a time."""

    held: dict[str, int]
    passing: dict[str, int]

    @property
    def peak(self) -> int:
        """The most that is needed at a time."""
        return sum(self.held.values()) + max(self.passing.values())


def footprint(model: Model) -> Footprint:
    """Sizes of a model that an experiment names.

    Raises:
        ModelError: its configuration cannot be found.
    """
    config = models.load_config(model.path, model.revision)
    dtype = models.DTYPES[model.dtype]
    with FakeTensorMode():
        made = _build(config, dtype)
        parameters = sum(p.numel() for p in made.parameters())
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return Footprint(
        kind=type(made).__name__,
        layers=text.num_hidden_layers,
        width=text.hidden_size,
        vocabulary=text.vocab_size,
        parameters=parameters,
        bytes=dtype.itemsize,
        cache=2 * text.num_hidden_layers * heads * head,
    )


def activations(config: PretrainedConfig, rows: int, length: int, dtype: torch.dtype) -> int:
    """Bytes that a forward of `rows` times `length` tokens keeps for its backward pass."""
    with FakeTensorMode():
        model = _build(config, dtype).train()
        weights = {t.untyped_storage()._cdata for t in (*model.parameters(), *model.buffers())}
        kept: dict[int, Any] = {}
        # Tensors are kept alive, else the next one may take over the identity of a storage.
        alive: list[torch.Tensor] = []
        pack = partial(_note, weights, kept, alive)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            tokens = torch.zeros(rows, length, dtype=torch.long)
            output = model.base_model(input_ids=tokens, use_cache=False)
        del output
    return sum(kept.values())


def _note(
    weights: set[int], kept: dict[int, int], alive: list[torch.Tensor], tensor: torch.Tensor
) -> torch.Tensor:
    storage = tensor.untyped_storage()
    if storage._cdata not in weights:
        kept[storage._cdata] = storage.nbytes()
        alive.append(tensor)
    return tensor


def _build(config: PretrainedConfig, dtype: torch.dtype) -> Any:
    return AutoModelForCausalLM.from_config(config, dtype=dtype)


def memory(experiment: Experiment, longest_prompt: int) -> Memory:
    """Estimated memory of one device while a run trains, every response at its greatest length.

    Args:
        longest_prompt: tokens.
    """
    student, teacher = footprint(experiment.student), footprint(experiment.teacher)
    training = experiment.training
    low = training.precision == "bf16-true"
    dtype = torch.bfloat16 if low else models.DTYPES[experiment.student.dtype]
    weights = student.parameters * dtype.itemsize
    rows = training.prompts_per_step * experiment.rollout.group_size
    length = longest_prompt + experiment.rollout.max_new_tokens
    working = torch.bfloat16 if training.precision.startswith("bf16") else dtype
    working = torch.float16 if training.precision == "16-mixed" else working
    config = models.load_config(experiment.student.path, experiment.student.revision)
    chunk = min(training.head_chunk, rows * experiment.rollout.max_new_tokens)
    vocabulary = chunk * student.vocabulary * 4
    scoring = teacher.cache * teacher.bytes * rows * length if experiment.method.group else 0
    hidden = teacher.width * teacher.bytes * rows * length
    return Memory(
        held={
            "student weights": weights,
            "gradients": weights,
            "AdamW, two moments": 2 * weights,
            "teacher weights": teacher.weights
            + sum(footprint(one).weights for one in experiment.specialists),
        },
        passing={
            "sampling (keys and values)": student.cache * dtype.itemsize * rows * length,
            "scoring (keys, values, states)": scoring + hidden + vocabulary,
            "updating (activations, logits)": activations(config, rows, length, working)
            + _VOCABULARY_COPIES * vocabulary,
        },
    )
