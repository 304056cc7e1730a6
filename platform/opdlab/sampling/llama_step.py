"""A small Llama's decode step in few operations.

At width 48 nine tenths of a step of the library's forward are the overhead of its 200 operations. Written
out it takes 70, and less than half of the time. Everything else (prefill, cache, larger or other models)
stays with the library.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear, rms_norm, silu
from transformers import LlamaForCausalLM, PreTrainedModel
from transformers.activations import SiLUActivation
from transformers.models.llama import modeling_llama as llama

from opdlab.modelling import foreign_code
from opdlab.sampling.decode_step import DecodeStep, additive
from opdlab.sampling.growing_cache import GrowingCache
from opdlab.shapes import Float, Int, Tensor

_KNOWN = {
    LlamaForCausalLM,
    llama.LlamaModel,
    llama.LlamaDecoderLayer,
    llama.LlamaAttention,
    llama.LlamaMLP,
    llama.LlamaRMSNorm,
    llama.LlamaRotaryEmbedding,
    nn.Embedding,
    nn.Linear,
    nn.ModuleList,
    nn.SiLU,
    SiLUActivation,
}
# Above it the products outweigh the overhead.
_WIDEST = 512


def fits(model: PreTrainedModel) -> bool:
    """Whether `LlamaStep` may compute what this model does: nothing replaced, hooked, biased or cast.

    That it does is found by trying (`opdlab.sampling.manner`).
    """
    return (
        {type(module) for module in model.modules()} <= _KNOWN
        and isinstance(model, LlamaForCausalLM)
        and model.config.hidden_size <= _WIDEST
        and not any(name.endswith("bias") for name, _ in model.model.named_parameters())
        and not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
        and not foreign_code(model)
        and all(p.device.type == "cpu" and p.dtype == torch.float32 for p in model.parameters())
        and not torch.is_autocast_enabled("cpu")
    )


@dataclass(frozen=True, eq=False)
class _Layer:
    """Weights of one layer. `inner` gives queries and keys, both a quarter turn further, and values."""

    scaling: float
    epsilons: tuple[float, float]
    norm: Tensor
    inner: Tensor
    outer: Tensor
    mlp_norm: Tensor
    gate_up: Tensor
    down: Tensor


class LlamaStep(DecodeStep):
    """The step of a Llama that `fits`."""

    def __init__(self, model: PreTrainedModel, cache: GrowingCache) -> None:
        self.cache = cache
        self.model: Any = model
        self.decoder: Any = model.base_model
        attention = self.decoder.layers[0].self_attn
        self.head_dim: int = attention.head_dim
        self.groups: int = attention.num_key_value_groups
        self.key_heads: int = self.decoder.config.num_key_value_heads
        self.width: int = self.decoder.config.hidden_size
        self.epsilon: float = self.decoder.norm.variance_epsilon
        self.layers = [self._weights(layer) for layer in self.decoder.layers]

    def _weights(self, layer: Any) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp
        straight = torch.cat([attention.q_proj.weight, attention.k_proj.weight])
        # Rotary positions turn each head's halves (a, b) into a cos - b sin, b cos + a sin: this gives
        # (-b, a) without moving halves about in every step.
        first, second = straight.unflatten(0, (-1, 2, self.head_dim // 2)).unbind(1)
        quarter = torch.stack([-second, first], 1).flatten(0, 2)
        norms = layer.input_layernorm, layer.post_attention_layernorm
        return _Layer(
            attention.scaling,
            (norms[0].variance_epsilon, norms[1].variance_epsilon),
            layer.input_layernorm.weight,
            torch.cat([straight, quarter, attention.v_proj.weight]),
            attention.o_proj.weight.t(),
            layer.post_attention_layernorm.weight,
            torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]),
            mlp.down_proj.weight.t(),
        )

    def start(self, positions: Int[Tensor, "B steps"]) -> None:
        like = self.decoder.embed_tokens.weight
        cosines, sines = self.decoder.rotary_emb(like, position_ids=positions)
        self.cosines, self.sines = (x.unsqueeze(2).unbind(1) for x in (cosines, sines))
        mask = additive(self.cache.visible(), like.dtype)
        self.mask = mask.repeat_interleave(self.key_heads, 0)[:, None]

    def logits(self, tokens: Int[Tensor, "B one"], step: int) -> Float[Tensor, "B V"]:
        mask = self.mask[..., self.cache.begin : self.cache.end + 1]
        x = self.decoder.embed_tokens(tokens[:, 0])
        for layer, cached in zip(self.layers, self.cache.layers, strict=True):
            first, second = layer.epsilons
            y = linear(self._normed(x, layer.norm, first), layer.inner)
            attended = self._attend(y, cached.buffers, mask, step, layer.scaling)
            x = torch.addmm(x, attended, layer.outer)
            gate, up = linear(self._normed(x, layer.mlp_norm, second), layer.gate_up).chunk(2, -1)
            x = torch.addmm(x, silu(gate).mul_(up), layer.down)
        return self.model.lm_head(self._normed(x, self.decoder.norm.weight, self.epsilon))

    def _normed(
        self, x: Float[Tensor, "B H"], weight: Float[Tensor, "H"], epsilon: float
    ) -> Float[Tensor, "B H"]:
        return rms_norm(x, (self.width,), weight, epsilon)

    def _attend(
        self,
        y: Float[Tensor, "B n"],
        buffers: tuple[Tensor, Tensor],
        mask: Float[Tensor, "rows one columns"],
        step: int,
        scaling: float,
    ) -> Float[Tensor, "B H"]:
        begin, end, heads = self.cache.begin, self.cache.end, self.key_heads
        y = y.unflatten(-1, (-1, self.head_dim))
        turned = heads * (self.groups + 1)
        straight, quarter, value = y.split([turned, turned, heads], 1)
        rotated = (straight * self.cosines[step]).addcmul_(quarter, self.sines[step])
        query, key = rotated.split([heads * self.groups, heads], 1)
        keys, values = buffers
        keys[:, :, end] = key
        values[:, :, end] = value
        keys, values = (buffer[:, :, begin : end + 1].flatten(0, 1) for buffer in buffers)
        # The queries that share a key head are the rows of one small matrix.
        query = query.reshape(-1, self.groups, self.head_dim)
        scores = torch.baddbmm(mask, query, keys.transpose(1, 2), alpha=scaling)
        return torch.bmm(scores.softmax(-1), values).view(len(y), -1)
