"""The decode step of Llama, Qwen2 and Qwen3 in few operations, for a recording on an accelerator.

A replayed operation costs two microseconds however little it does, and a step of the library's forward has
ninety a layer. Written out it has eighteen, and the products are most of the time.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear, rms_norm, silu
from transformers import LlamaForCausalLM, PreTrainedModel, Qwen2ForCausalLM, Qwen3ForCausalLM
from transformers.activations import SiLUActivation
from transformers.models.llama import modeling_llama as llama
from transformers.models.qwen2 import modeling_qwen2 as qwen2
from transformers.models.qwen3 import modeling_qwen3 as qwen3

from opdlab.modelling import foreign_code
from opdlab.sampling.decode_attention import Ranges, flash_by_parts, over_ranges, parts_for
from opdlab.sampling.growing_cache import GrowingCache
from opdlab.sampling.static_step import StaticStep
from opdlab.scoring import flash_takes
from opdlab.shapes import Float, Tensor

_MODELS = (LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM)
LEAN = tuple(one.__name__ for one in _MODELS)
"""Classes of models that an accelerator decodes so, with keys and values in the format of products."""
_PARTS = ("Model", "DecoderLayer", "Attention", "MLP", "RMSNorm", "RotaryEmbedding")
_KNOWN = {
    *_MODELS,
    *(getattr(llama, f"Llama{part}") for part in _PARTS),
    *(getattr(qwen2, f"Qwen2{part}") for part in _PARTS),
    *(getattr(qwen3, f"Qwen3{part}") for part in _PARTS),
    nn.Embedding,
    nn.Linear,
    nn.ModuleList,
    nn.SiLU,
    SiLUActivation,
}


def fits(model: PreTrainedModel) -> bool:
    """Whether `LeanStep` may compute what this model does: nothing replaced, hooked or windowed.

    That it does is found by trying (`opdlab.sampling.manner`).
    """
    config: Any = model.config
    biased = ("o_proj.bias", "gate_proj.bias", "up_proj.bias", "down_proj.bias", "lm_head.bias")
    return (
        isinstance(model, _MODELS)
        and {type(module) for module in model.modules()} <= _KNOWN
        and set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
        and not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
        and not foreign_code(model)
        and not any(name.endswith(biased) for name, _ in model.named_parameters())
    )


@dataclass(frozen=True, eq=False)
class _Layer:
    """Weights of one layer, in the format of products; `inner` gives queries, keys and values."""

    scaling: float
    norms: tuple[tuple[Tensor, float], tuple[Tensor, float]]
    inner: tuple[Tensor, Tensor | None]
    head_norms: tuple[tuple[Tensor, float], tuple[Tensor, float]] | None
    outer: Tensor
    gate: Tensor
    up: Tensor
    down: Tensor


class LeanStep(StaticStep):
    """The step of a model that `fits`."""

    def __init__(self, model: PreTrainedModel, cache: GrowingCache) -> None:
        super().__init__(model, cache)
        self.decoder: Any = model.base_model
        first = self.decoder.layers[0].self_attn
        self.width: int = first.head_dim
        self.heads: int = self.decoder.config.num_attention_heads
        self.key_heads: int = self.decoder.config.num_key_value_heads
        kind = model.device.type
        autocast = torch.is_autocast_enabled(kind)
        self.dtype = torch.get_autocast_dtype(kind) if autocast else model.dtype
        cache.dtype = self.dtype
        head: Any = model.get_output_embeddings()
        self.head = self._short(head.weight)
        self.layers = [self._weights(layer) for layer in self.decoder.layers]
        self.flash = flash_takes(self.head.new_empty(1, 1, 1, self.width))
        self.kernels = _kernels(kind) if self.flash else None

    def _short(self, weight: Tensor) -> Tensor:
        return weight.detach().to(self.dtype)

    def _weights(self, layer: Any) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp
        inner = [attention.q_proj, attention.k_proj, attention.v_proj]
        bias = inner[0].bias is not None
        head_norms = None
        if hasattr(attention, "q_norm"):
            head_norms = _norm(attention.q_norm), _norm(attention.k_norm)
        return _Layer(
            attention.scaling,
            (_norm(layer.input_layernorm), _norm(layer.post_attention_layernorm)),
            (
                self._short(torch.cat([one.weight for one in inner])),
                self._short(torch.cat([one.bias for one in inner])) if bias else None,
            ),
            head_norms,
            self._short(attention.o_proj.weight),
            self._short(mlp.gate_proj.weight),
            self._short(mlp.up_proj.weight),
            self._short(mlp.down_proj.weight),
        )

    def forward(self) -> Float[Tensor, "B V"]:
        with torch.autocast(self.first.device.type, enabled=False):
            return self._forward()

    def _forward(self) -> Float[Tensor, "B V"]:
        x = self.decoder.embed_tokens(self.token[:, 0])
        position = self.column - self.first
        cosine, sine = self.decoder.rotary_emb(x, position_ids=position)
        # Both halves of a head turn by the same angles.
        half = self.width // 2
        turn = tuple(y[..., :half].to(self.dtype).contiguous() for y in (cosine, sine))
        B, S = len(x), self.cache.capacity
        # Merging many parts by one kernel costs no more than laying out one.
        several = 2 if self.kernels is not None else 1
        parts = several * parts_for(B * self.key_heads, S // several) if self.flash else 1
        ranges = Ranges.of(self.first, position + 1, S, parts)
        for layer, cached in zip(self.layers, self.cache.layers, strict=True):
            y = linear(self._normed(x, layer.norms[0]), *layer.inner)
            attended = self._attend(y.view(B, -1, self.width), layer, cached.buffers, turn, ranges)
            x = _plus(x, attended, layer.outer)
            y = self._normed(x, layer.norms[1])
            x = _plus(x, self._gated(linear(y, layer.gate), linear(y, layer.up)), layer.down)
        return linear(self._normed(x, _norm(self.decoder.norm)), self.head)

    def check(self) -> None:
        """Every row sees all of its columns."""

    def _normed(self, x: Float[Tensor, "B H"], norm: tuple[Tensor, float]) -> Float[Tensor, "B H"]:
        weight, epsilon = norm
        return rms_norm(x.to(weight.dtype), (x.shape[-1],), weight, epsilon).to(self.dtype)

    def _attend(
        self,
        y: Float[Tensor, "B n D"],
        layer: _Layer,
        buffers: tuple[Tensor, Tensor],
        turn: tuple[Tensor, ...],
        ranges: Ranges,
    ) -> Float[Tensor, "B H"]:
        keys, values = buffers
        if self.kernels is not None:
            norms = layer.head_norms
            query = self.kernels.turn_and_write(y, turn, norms, keys, values, self.column)
            parts = query[:, None].expand(-1, ranges.first.shape[1], -1, -1, -1)
            output, lse = flash_by_parts(parts, keys, values, ranges, layer.scaling)
            return self.kernels.merged(output, lse, ranges.count)
        both, value = y.split([self.heads + self.key_heads, self.key_heads], 1)
        if layer.head_norms is not None:
            parts = both.split([self.heads, self.key_heads], 1)
            normed = [self._normed(*each) for each in zip(parts, layer.head_norms, strict=True)]
            both = torch.cat(normed, 1)
        query, key = _turned(both, *turn).split([self.heads, self.key_heads], 1)
        keys.index_copy_(2, self.column, key[:, :, None])
        values.index_copy_(2, self.column, value[:, :, None])
        output, _ = over_ranges(query[:, :, None], keys, values, ranges, layer.scaling)
        return output.flatten(1)

    def _gated(self, gate: Float[Tensor, "B n"], up: Float[Tensor, "B n"]) -> Float[Tensor, "B n"]:
        if self.kernels is not None:
            return self.kernels.gated(gate, up)
        return silu(gate).mul_(up)


@cache
def _kernels(device: str) -> Any:
    """`opdlab.sampling.step_kernels`, where there is a compiler for them."""
    if device != "cuda" or find_spec("triton") is None:
        return None
    from opdlab.sampling import step_kernels

    return step_kernels


def _norm(module: Any) -> tuple[Tensor, float]:
    return module.weight, module.variance_epsilon


def _turned(
    x: Float[Tensor, "B n D"], cosine: Float[Tensor, "B 1 half"], sine: Float[Tensor, "B 1 half"]
) -> Float[Tensor, "B n D"]:
    """Rotary positions: halves (a, b) become a cos - b sin, b cos + a sin."""
    found = torch.empty_like(x)
    (a, b), (one, other) = x.chunk(2, -1), found.chunk(2, -1)
    torch.mul(a, cosine, out=one)
    one.addcmul_(b, sine, value=-1)
    torch.mul(b, cosine, out=other)
    other.addcmul_(a, sine)
    return found


def _plus(
    x: Float[Tensor, "B H"], y: Float[Tensor, "B n"], weight: Float[Tensor, "H n"]
) -> Float[Tensor, "B H"]:
    """x with the product added to it; in one operation where formats are the same."""
    if x.dtype == weight.dtype:
        return x.addmm_(y, weight.t())
    return x.add_(linear(y, weight))
