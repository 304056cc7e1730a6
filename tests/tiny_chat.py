"""A chat model of one layer that reads printable characters, one token each."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from opdlab.pretraining.characters import character_tokenizer

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
