"""Models of a given shape with random weights, random rollouts for them, and what their work amounts to."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from opdlab.errors import ConfigError
from opdlab.records import Questions, Rollout
from opdlab.scoring import same_prompts, within
from opdlab.shapes import Int, Tensor


@dataclass(frozen=True)
class Shape:
    """A decoder of one of the families in `FAMILIES`.

    Attributes:
        kv: key heads; each serves heads / kv query heads.
        intermediate: width of the feed-forward layers.
        head: width of a head; 0 for width / heads.
        tied: 1 where the embeddings are the vocabulary projection, too.
        family: 0 for Llama, 1 for Qwen2, 2 for Qwen3.
    """

    width: int = 512
    layers: int = 8
    heads: int = 8
    kv: int = 2
    intermediate: int = 1536
    vocabulary: int = 32000
    head: int = 0
    tied: int = 0
    family: int = 0

    @property
    def head_width(self) -> int:
        return self.head or self.width // self.heads

    @classmethod
    def parse(cls, text: str) -> Shape:
        """From `width=512,layers=8` or `qwen3-8b,layers=4`; what is not named keeps its default.

        Raises:
            ConfigError: an unknown name, or not a number.
        """
        names = [field.name for field in fields(cls)]
        first, _, rest = text.partition(",")
        values: dict[str, int] = {}
        if first.strip() in KNOWN:
            values, text = asdict(KNOWN[first.strip()]), rest
        for item in filter(None, text.split(",")):
            name, _, value = (part.strip() for part in item.partition("="))
            if name not in names or not value.isdigit() or int(value) < (name in names[:6]):
                raise ConfigError(
                    f"--shape: {item!r} is not understood; write "
                    f"{', '.join(f'{n}=NUMBER' for n in names)}, "
                    f"or begin with one of {', '.join(KNOWN)}"
                )
            values[name] = int(value)
        shape = cls(**values)
        if shape.family >= len(FAMILIES):
            raise ConfigError(f"--shape: family is 0 to {len(FAMILIES) - 1}")
        if (not shape.head and shape.width % shape.heads) or shape.heads % shape.kv:
            raise ConfigError("--shape: width must be a multiple of heads, and heads of kv")
        return shape

    def build(
        self, device: torch.device | str, dtype: torch.dtype, positions: int, seed: int = 0
    ) -> PreTrainedModel:
        """A model with random weights.

        Their deviation is a trained model's, large enough that distributions differ by position.
        """
        torch.manual_seed(seed)
        with torch.device(device):
            model = AutoModelForCausalLM.from_config(self.config(positions), dtype=dtype)
        return model.eval().requires_grad_(False)

    def config(self, positions: int) -> PretrainedConfig:
        """Of a model for so many tokens."""
        made: Any = FAMILIES[self.family]
        return made(
            vocab_size=self.vocabulary,
            hidden_size=self.width,
            intermediate_size=self.intermediate,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv,
            head_dim=self.head_width,
            max_position_embeddings=positions,
            initializer_range=1.2 / self.width**0.5,
            tie_word_embeddings=bool(self.tied),
        )

    def weights(self) -> int:
        """Numbers in its matrices."""
        return self.token_operations() // 2 + (2 - self.tied) * self.width * self.vocabulary

    def token_operations(self) -> int:
        """Of the linear layers of one token's forward, head excluded."""
        attention = 2 * self.width * self.head_width * (self.heads + self.kv)
        return 2 * self.layers * (attention + 3 * self.width * self.intermediate)

    def attention_operations(self, keys: int) -> int:
        """Of one token that attends to so many keys."""
        return 4 * self.layers * self.heads * self.head_width * keys

    def head_operations(self) -> int:
        """Of the vocabulary projection of one row."""
        return 2 * self.width * self.vocabulary


FAMILIES = (LlamaConfig, Qwen2Config, Qwen3Config)
KNOWN = {
    "qwen2.5-1.5b": Shape(1536, 28, 12, 2, 8960, 151936, tied=1, family=1),
    "qwen2.5-7b": Shape(3584, 28, 28, 4, 18944, 152064, family=1),
    "qwen3-1.7b": Shape(2048, 28, 16, 8, 6144, 151936, head=128, tied=1, family=2),
    "qwen3-8b": Shape(4096, 36, 32, 8, 12288, 151936, head=128, family=2),
    "qwen3-32b": Shape(5120, 64, 64, 8, 25600, 151936, head=128, family=2),
}
"""Shapes of models that people distil, from their published configurations."""


def trunk_places(rollout: Rollout, shared: bool = True) -> Int[Tensor, "N"]:
    """Column of every token that must be computed: whole rows, or each prompt once and the responses."""
    if not shared:
        return within(rollout.prompt_lengths + rollout.response_lengths)[1]
    prompts = rollout.prompt_lengths[same_prompts(rollout)[1]]
    return torch.cat([within(prompts)[1], rollout.column])


@dataclass(frozen=True)
class Work:
    """Operations of scoring a rollout: what arithmetic alone asks for."""

    trunk: int
    leaves: int

    @property
    def ratio(self) -> float:
        """Of all to the trunk's: what LGR costs in units of OPD's scoring pass."""
        return (self.trunk + self.leaves) / self.trunk


def work(shape: Shape, rollout: Rollout, questions: Questions, shared: bool = True) -> Work:
    """Operations of a rollout's trunk and of its leaves; a causal half of a square counts as half.

    Args:
        shared: whether a prompt that several rows answer is computed once.
    """
    places = trunk_places(rollout, shared)
    trunk = places.numel() * shape.token_operations()
    trunk += shape.attention_operations(int(places.sum() + places.numel()))
    trunk += (len(rollout.token) + len(rollout.tokens)) * shape.head_operations()
    asked = (questions.candidates >= 0) & (questions.candidates != rollout.token[:, None])
    columns = rollout.column[:, None].expand_as(asked)[asked].tolist()
    each = shape.token_operations() + shape.head_operations()
    leaves = sum(each + shape.attention_operations(column + 1) for column in columns)
    return Work(trunk, leaves)


def random_rollout(
    shape: Shape,
    prompts: list[int],
    responses: list[int],
    top_k: int,
    device: torch.device | str,
    shared_prompt: bool = False,
    seed: int = 0,
) -> Rollout:
    """Random tokens in a student's place; the sampled token is the first candidate of its position.

    Args:
        prompts, responses: tokens of each row.
        shared_prompt: whether all rows answer one prompt.
    """
    generator = torch.Generator().manual_seed(seed)

    def tokens(*size: int) -> torch.Tensor:
        return torch.randint(3, shape.vocabulary, size, generator=generator)

    one = tokens(max(prompts))
    starts = [one[:n] if shared_prompt else tokens(n) for n in prompts]
    rows = [torch.cat([start, tokens(n)]) for start, n in zip(starts, responses, strict=True)]
    T = sum(responses)
    candidates = tokens(T, top_k)
    rollout = Rollout(
        tokens=torch.nn.utils.rnn.pad_sequence(rows, batch_first=True),
        prompt_lengths=torch.tensor(prompts),
        response_lengths=torch.tensor(responses),
        ended=torch.zeros(len(prompts), dtype=torch.bool),
        log_prob=torch.zeros(T),
        entropy=torch.rand(T, generator=generator),
        candidates=candidates,
        seeds=torch.arange(len(prompts)),
        eos_ids=(2,),
    )
    candidates[:, 0] = rollout.token
    return rollout.to(device)


def ask(rollout: Rollout, active: float) -> Questions:
    """Candidates at this share of the positions, those of highest entropy, spread at random."""
    T = len(rollout.token)
    chosen = rollout.entropy.topk(round(active * T)).indices
    candidates = torch.full_like(rollout.candidates, -1)
    candidates[chosen] = rollout.candidates[chosen]
    return Questions(candidates)


def nothing(rollout: Rollout) -> Questions:
    """What OPD asks: no candidate."""
    return Questions(torch.full_like(rollout.candidates[:, :0], -1))
