"""A chat model of one layer that reads printable characters, one token each."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import lightning as L
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from opdlab.pretraining.characters import character_tokenizer
from opdlab.training.module import Distillation

LETTERS = "".join(sorted(set(string.printable) - set("\x0b\x0c\r")))
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def save(folder: Path, positions: int, template: str | None = TEMPLATE) -> str:
    """Write the model and its tokenizer; its folder."""
    tokenizer: Any = character_tokenizer(LETTERS, positions)
    tokenizer.chat_template = template
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        vocab_size=max(tokenizer.get_vocab().values()) + 1,
        max_position_embeddings=positions,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def fit(module: Distillation, *callbacks: L.Callback) -> None:
    """Train for the steps of its experiment."""
    steps = module.config.training.steps
    trainer = L.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
    )
    trainer.fit(module, range(steps))  # pyright: ignore[reportArgumentType]
