"""Random tiny models of many families, and random rollouts for them. Weights are large enough to have opinions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from opdlab.records import Rollout

VOCABULARY = 53

_SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama-tied": {"model_type": "llama", "tie_word_embeddings": True},
    "qwen2": {},
    "qwen3": {},
    "mistral": {"sliding_window": 7},
    "gemma2": {"sliding_window": 7, "query_pre_attn_scalar": 8},
    "gemma3": {"model_type": "gemma3_text", "sliding_window": 7, "query_pre_attn_scalar": 8},
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 256},
}


def small_model(family: str, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A random model in evaluation mode; the same for the same arguments."""
    settings = {"model_type": family, **FAMILIES[family], **changes}
    kind = settings.pop("model_type")
    shape = _GPT2_SHAPE if kind == "gpt2" else _SHAPE
    config = AutoConfig.for_model(kind, **{**shape, **settings})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
        for weight in model.parameters():
            # At the library's initial scale attention is uniform and every mistake is invisible.
            if weight.ndim >= 2:
                weight.data.normal_(0.0, 1.2 / weight.shape[-1] ** 0.5)
    return model.eval()


_GPT2_SHAPE = {
    name: _SHAPE[name] for name in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")
}


def random_rollout(
    prompts: Sequence[int] | Sequence[Sequence[int]],
    responses: Sequence[int],
    top_k: int = 4,
    seed: int = 0,
    vocabulary: int = VOCABULARY,
) -> Rollout:
    """Random tokens in the place of a student's.

    Args:
        prompts: length of each prompt, or its tokens.
        responses: length of each response; every other row ends by EOS (token 2).
    """
    generator = torch.Generator().manual_seed(seed)

    def tokens(count: int) -> list[int]:
        return torch.randint(3, vocabulary, (count,), generator=generator).tolist()

    rows, lengths = [], []
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        start = tokens(prompt) if isinstance(prompt, int) else list(prompt)
        end = tokens(response)
        if row % 2 == 0:
            end[-1] = 2
        rows.append(torch.tensor(start + end))
        lengths.append(len(start))
    T = sum(responses)
    candidates = torch.stack(
        [torch.randperm(vocabulary - 3, generator=generator)[:top_k] + 3 for _ in range(T)]
    )
    rollout = Rollout(
        tokens=torch.nn.utils.rnn.pad_sequence(rows, batch_first=True),
        prompt_lengths=torch.tensor(lengths),
        response_lengths=torch.tensor(responses),
        ended=torch.arange(len(rows)) % 2 == 0,
        log_prob=-torch.rand(T, generator=generator),
        entropy=torch.rand(T, generator=generator),
        candidates=candidates,
        seeds=torch.arange(len(rows)),
        eos_ids=(2,),
    )
    # Every third position has the sampled token among its candidates, as a real group usually does.
    rollout.candidates[::3, 0] = rollout.token[::3]
    return rollout
