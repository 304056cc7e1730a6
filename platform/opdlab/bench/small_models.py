"""Random tiny models of many families, and random rollouts for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from opdlab.bench.architectures import (
    FAMILIES,
    INDEXED,
    OWN_WAYS,
    RECURRENT,
    SHAPE,
    STRETCHED,
    TOKENS,
    VOCABULARY,
)
from opdlab.records import Rollout


def small_config(family: str, **changes: Any) -> PretrainedConfig:
    """Of a tiny model."""
    settings = {
        "model_type": family,
        **(FAMILIES | RECURRENT | STRETCHED | OWN_WAYS | INDEXED)[family],
        **changes,
    }
    kind = settings.pop("model_type")
    shape = TOKENS if "n_embd" in settings else SHAPE
    return AutoConfig.for_model(kind, **{**shape, **settings})


def small_model(family: str, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A random model in evaluation mode; the same for the same arguments."""
    config = small_config(family, **changes)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
        for weight in model.parameters():
            # At the library's initial scale attention is uniform and every mistake is invisible.
            if weight.ndim >= 2:
                weight.data.normal_(0.0, 1.2 / weight.shape[-1] ** 0.5)
    return model.eval()


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
    rollout.candidates[::3, :1] = rollout.token[::3, None]
    return rollout
