"""How large a model is and what memory its training takes, found without its weights.

The model runs once on tensors that have a shape and no content, so the numbers hold for any architecture
that transformers has, whatever its layers keep for the backward pass.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from transformers import AutoModelForCausalLM, PretrainedConfig, masking_utils
from transformers.cache_utils import Cache, DynamicLayer
from transformers.initialization import no_init_weights

from opdlab.configuration import Lora, Model
from opdlab.errors import ModelError, OutOfReachError
from opdlab.modelling import (
    KeyStore,
    Lines,
    PackedPass,
    UnsupportedError,
    adapters,
    checkpointed,
    flat_states,
    hooked,
    layers_of,
    models,
    quicker_packed,
    recurrent_layers,
    rotary,
    running,
    unpacked_rows,
)
from opdlab.planning.hub_shapes import shape_of
from opdlab.sampling import FAILURES, cache_argument, held_of_a_token
from opdlab.shapes import Int, Tensor


@dataclass(frozen=True)
class Footprint:
    """Sizes of one model.

    Attributes:
        kind: class of the model in transformers.
        parameters: numbers in all weights, tied ones once.
        layered: those of them in layers, which training that is sharded gathers one at a time.
        bytes: of one weight.
        cache: numbers that sampling keeps of one token, over all layers.
        attended: numbers of the keys and values of one token, over all layers, which scoring keeps.
        states: bytes of what recurrent layers keep of a row that is sampled.
    """

    kind: str
    layers: int
    width: int
    vocabulary: int
    parameters: int
    layered: int
    bytes: int
    cache: int
    attended: int
    states: int

    @property
    def weights(self) -> int:
        """Bytes of all weights."""
        return self.parameters * self.bytes

    @property
    def gathered(self) -> int:
        """Numbers that a device has whole at a time where weights are sharded: two layers, and the rest."""
        return self.parameters - self.layered + 2 * self.layered // self.layers


def footprint(model: Model) -> Footprint:
    """Sizes of a model that an experiment names.

    Raises:
        ModelError: its configuration cannot be found.
    """
    return sizes(shape_of(model), models.DTYPES[model.dtype])


def sizes(config: PretrainedConfig, dtype: torch.dtype) -> Footprint:
    """Sizes of a model of this configuration."""
    return _sizes(Shape.of(config), dtype)


@dataclass(frozen=True)
class Shape:
    """A configuration, equal to others of the same content."""

    text: str
    config: PretrainedConfig = field(compare=False)

    @classmethod
    def of(cls, config: PretrainedConfig) -> Shape:
        return cls(f"{type(config).__name__} {config.to_json_string(use_diff=False)}", config)


# It takes seconds for a model of many layers, and is asked for again and again.
@cache
def _sizes(shape: Shape, dtype: torch.dtype) -> Footprint:
    config = shape.config
    with contentless():
        made = build(config, dtype).eval()
        parameters = sum(p.numel() for p in made.parameters())
        # Layers may share weights, which are there once.
        layered = sum({p: p.numel() for layer in layers(made) for p in layer.parameters()}.values())
        states = over_layers(made, lambda some: _with_states(some)[0])
        attended = over_layers(made, kept_of_a_token)
        cached = over_layers(made, _handed_to_cache) or attended
        if not cached and not states:
            cached = _keys_and_values(config)
    text = config.get_text_config()
    return Footprint(
        kind=type(made).__name__,
        layers=text.num_hidden_layers,
        width=text.hidden_size,
        vocabulary=text.vocab_size,
        parameters=parameters,
        layered=layered,
        bytes=dtype.itemsize,
        cache=cached,
        attended=attended or cached,
        states=states,
    )


def layers(model: Any) -> list[torch.nn.Module]:
    try:
        return layers_of(model)
    except ModelError:
        return []


def over_layers(model: Any, measured: Callable[[Any], int]) -> int:
    """What is measured of a model, as the sum over its layers that it is, found by a few of them.

    Layers of a kind add alike: one of each is looked at, and for each kind another one. Where nothing is
    found of one of these alone, as of layers that need others, all are looked at.
    """
    kinds = alike(model)
    first = [one[0] for one in kinds]
    with reduced_to(model, first):
        once = measured(model)
    total = once
    for one in kinds:
        if len(one) > 1:
            with reduced_to(model, [*first, one[1]]):
                both = measured(model)
            if bool(both) != bool(once):
                return measured(model)
            total += (len(one) - 1) * (both - once)
    return total


def _handed_to_cache(model: Any) -> int:
    """Numbers that a model hands to its cache for one token: keys and values, or what makes them."""
    if recurrent_layers(model):
        return _with_states(model)[1]
    return sum(one.numel() for one in cached(model, torch.zeros(1, 1, dtype=torch.long)))


def _keys_and_values(config: PretrainedConfig) -> int:
    text = config.get_text_config()
    if getattr(text, "num_attention_heads", None) is None:
        return 0
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return 2 * text.num_hidden_layers * heads * head


def _with_states(model: Any) -> tuple[int, int]:
    """Bytes of states, and numbers in the cache, of a model whose states can be kept beside it."""
    try:
        return held_of_a_token(model) if recurrent_layers(model) else (0, 0)
    except FAILURES:
        return 0, 0


def kept_of_a_token(model: Any) -> int:
    """Numbers of one token's keys and values; 0 where the hook does not see them."""
    return sum(one.numel() for one in attended(model, torch.zeros(1, dtype=torch.long)))


@torch.no_grad()
def cached(model: Any, tokens: Int[Tensor, "B L"]) -> list[Tensor]:
    """Keys and values that a model hands to its cache; none where it keeps a state of its own."""
    cache = Cache(layer_class_to_replicate=DynamicLayer)
    try:
        model(input_ids=tokens, use_cache=True, **{cache_argument(model): cache})
    except FAILURES:
        return []
    called = {getattr(one, "layer_idx", None) for one in model.modules()}
    layers: Any = [layer for place, layer in enumerate(cache.layers) if place in called]
    held = [one for layer in layers for one in (layer.keys, layer.values)]
    return held if all(one is not None for one in held) else []


@torch.no_grad()
def attended(model: Any, tokens: Int[Tensor, "L"]) -> list[Tensor]:
    """Keys and values that scoring keeps of a row; none where the hook does not see them."""
    count = len(tokens)
    place = torch.arange(count)
    store = KeyStore(1, count)
    try:
        with hooked(model) as own, running(PackedPass(own, Lines(1, count, place, place), store)):
            flat_states(model, tokens, place)
    except (UnsupportedError, *FAILURES):
        return []
    return [one for kept in (store.keys, store.values) for one in kept.values()]


def kept_for_backward(model: Any, tokens: Int[Tensor, "B L"]) -> int:
    """Bytes that a forward keeps for its backward pass, weights excluded."""
    weights = {t.untyped_storage()._cdata for t in (*model.parameters(), *model.buffers())}
    # Storages are kept alive, else the next one may take over the identity of one.
    kept: dict[int, Any] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model.base_model(input_ids=tokens, use_cache=False)
    del output
    return sum(storage.nbytes() for storage in kept.values())


@contextmanager
def contentless() -> Iterator[None]:
    """Tensors within have a shape and no content, and are treated as those of rows by themselves."""
    ignore, chunked = masking_utils._ignore_causal_mask_sdpa, masking_utils.chunked_overlay
    # Positions without content might be those of several texts in one row, and a mask without content might
    # hide filler: masks would be made for both, and where chunks begin would not be known.
    masking_utils._ignore_causal_mask_sdpa = lambda padding_mask, *rest, **named: ignore(
        None, *rest, **named
    )
    masking_utils.chunked_overlay = lambda size, padding: chunked(size, _zeros(len(padding)))
    try:
        with unpacked_rows(), FakeTensorMode(allow_non_fake_inputs=True), _ExpertProducts():
            yield
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        raise OutOfReachError(
            "what this model computes depends on what its tensors hold, which a plan does not know "
            f"({error})"
        ) from error
    finally:
        masking_utils._ignore_causal_mask_sdpa = ignore
        masking_utils.chunked_overlay = chunked


def _zeros(count: int) -> Tensor:
    """Numbers with content."""
    with unset_fake_temporarily():
        return torch.zeros(count, dtype=torch.long)


class _ExpertProducts(TorchDispatchMode):
    """Gives products of experts their shape in any number format; torch knows it in bfloat16 alone."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._grouped_mm.default and args[1].ndim == 3:
            rows, experts = args[:2]
            return rows.new_empty(*rows.shape[:-1], experts.shape[-1])
        return func(*args, **(kwargs or {}))


def activations(
    config: PretrainedConfig,
    rows: int,
    length: int,
    dtype: torch.dtype,
    dropout: bool = False,
    again: Literal["none", "layers"] = "none",
    lora: Lora | None = None,
) -> int:
    """Bytes that a forward of `rows` times `length` tokens keeps for its backward pass.

    Args:
        lora: adapters that are trained in place of the weights.
        dropout: whether the dropout that the configuration names acts.
        again: what is computed again in the backward pass: then it holds one layer's at a time.
    """
    with contentless():
        model = build(config, dtype)
        _adapt(model, lora)
        model.train(dropout)
        tokens = torch.zeros(rows, length, dtype=torch.long)
        whole = over_layers(model, lambda some: kept_for_backward(some, tokens))
        if again == "none":
            return whole
        count = len(layers_of(model))

        def inputs(some: Any) -> int:
            with checkpointed(some, again):
                return kept_for_backward(some, tokens)

        return over_layers(model, inputs) + whole // count


@cache
def trained(shape: Shape, lora: Lora) -> tuple[int, int]:
    """Numbers in the adapters of a model, and in the weights of the layers that have them."""
    with contentless():
        layers: Any = adapters.chosen(build(shape.config, torch.float32), lora.targets).values()
        sizes = [one.weight.shape for one in layers]
    return sum(lora.rank * sum(size) for size in sizes), sum(size.numel() for size in sizes)


class _Adapted(torch.nn.Module):
    """A layer with an adapter, as peft computes it; its own moves weights, which need content for it."""

    def __init__(self, base: torch.nn.Module, lora: Lora) -> None:
        super().__init__()
        self.base, self.dropout = base, torch.nn.Dropout(lora.dropout)
        weight: Any = base.weight
        outer, inner = weight.shape if isinstance(base, torch.nn.Linear) else weight.shape[::-1]
        self.first = torch.nn.Linear(inner, lora.rank, bias=False, dtype=torch.float32)
        self.second = torch.nn.Linear(lora.rank, outer, bias=False, dtype=torch.float32)
        self.scale = lora.alpha / lora.rank

    def forward(self, x: Tensor) -> Tensor:
        base = self.base(x)
        added = self.second(self.first(self.dropout(x.float()))) * self.scale
        return (base + added).to(base.dtype)


def _adapt(model: Any, lora: Lora | None) -> None:
    if lora is None:
        return
    model.requires_grad_(False)
    for name, layer in adapters.chosen(model, lora.targets).items():
        model.set_submodule(name, _Adapted(layer, lora))


def packed(config: PretrainedConfig, dtype: torch.dtype) -> int:
    """Bytes of the second copy of weights that sampling on a CPU holds."""
    with contentless():
        layers = quicker_packed(build(config, dtype))
        return sum(layer.weight.numel() * dtype.itemsize for layer in layers)


def build(config: PretrainedConfig, dtype: torch.dtype) -> Any:
    with no_init_weights():
        made: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)
    made.tie_weights()
    # Frequencies that look at positions take no memory to speak of, and positions have no content here.
    for one in rotary(made):
        kind: Any = one.module
        if one.layer_type is None:
            kind.rope_type = "default"
            # Some look there, in place of what they are told to be.
            kind.config = copy.copy(kind.config)
            kind.config.rope_parameters = {**kind.config.rope_parameters, "rope_type": "default"}
        else:
            kind.rope_type = {**kind.rope_type, one.layer_type: "default"}
    return made


def alike(model: Any) -> list[list[torch.nn.Module]]:
    """Layers by kind; none where they are not known."""
    found = layers(model)
    kinds = getattr(model.config.get_text_config(), "layer_types", None) or [None] * len(found)
    by_kind: dict[str, list[torch.nn.Module]] = {}
    for layer, kind in zip(found, kinds, strict=False):
        by_kind.setdefault(f"{kind} {layer}", []).append(layer)
    return list(by_kind.values())


@contextmanager
def reduced_to(model: Any, some: list[torch.nn.Module]) -> Iterator[None]:
    """The model has these layers only, in their order; all of them where there are none to choose."""
    text, found = model.config.get_text_config(), layers(model)
    types, left_out = getattr(text, "layer_types", None), _leave(model, some)
    whole = type(text)
    if types and found:
        # Some models find a layer's mask by its place. Some configurations compute it, and take no other.
        kinds = [kind for kind, one in zip(types, found, strict=False) if one in some]
        name = text.attribute_map.get("layer_types", "layer_types")
        text.__class__ = type(whole.__name__, (whole,), {name: property(lambda _: kinds)})
    try:
        yield
    finally:
        for one, modules in left_out:
            one._modules = modules
        text.__class__ = whole


def shortened(model: Any) -> Any:
    """The model with two layers of each kind: what it holds at a time is the same, and found sooner."""
    _leave(model, [layer for kind in alike(model) for layer in kind[:2]])
    return model


def _leave(model: Any, some: list[torch.nn.Module]) -> list[tuple[torch.nn.ModuleList, Any]]:
    """Take all other layers out of their lists; returns these lists and all that they had."""
    found, chosen = layers(model), {id(layer) for layer in some}
    lists = [
        one
        for one in model.modules()
        if isinstance(one, torch.nn.ModuleList) and found and len(one) and one[0] is found[0]
    ]
    whole = [(one, one._modules) for one in lists]
    for one in lists:
        kept = [layer for layer in one if id(layer) in chosen]
        one._modules = {str(place): layer for place, layer in enumerate(kept)}
    return whole


class Held(TorchDispatchMode):
    """Counts the bytes that are alive at a time, but for those of a model."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        weights = (*model.parameters(), *model.buffers())
        self.weights = {weight.untyped_storage()._cdata for weight in weights}
        self.alive: dict[int, int] = {}
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, torch.Tensor):
                self._take(tensor.untyped_storage())
        self.peak = max(self.peak, self.now)
        return output

    def _take(self, storage: Any) -> None:
        name = storage._cdata
        if name not in self.weights and name not in self.alive:
            self.alive[name] = storage.nbytes()
            self.now += self.alive[name]
            weakref.finalize(storage, self._leave, name)

    def _leave(self, name: int) -> None:
        self.now -= self.alive.pop(name)


def operations(config: PretrainedConfig, tokens: int) -> int:
    """Of the products of one forward over a row of so many tokens, vocabulary projection excluded.

    Of attention the half that looks back is counted; of experts those that a token asks.
    """
    with contentless(), torch.no_grad():
        model = build(config, torch.bfloat16).eval()
        counted = _Counted()
        with counted:
            model.base_model(input_ids=torch.zeros(1, tokens, dtype=torch.long), use_cache=False)
    return counted.operations


class _Counted(TorchDispatchMode):
    """Adds up multiplications and additions of matrix products."""

    operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        packet = func._overloadpacket
        if "scaled_dot_product" in packet.__name__:
            query, key = args[:2]
            self.operations += 2 * query.numel() * key.shape[-2]
        elif packet is torch.ops.aten._grouped_mm:
            self.operations += 2 * output.numel() * args[0].shape[-1]
        elif packet in flop_registry:
            self.operations += flop_registry[packet](*args, **(kwargs or {}), out_val=output)
        return output
