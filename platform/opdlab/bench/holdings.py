"""What a model holds while it trains, samples and scores: measured, beside what `opdlab plan` counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich import box
from rich.table import Table
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer

from opdlab.attention_hook import KeyStore, Lines, PackedPass, UnsupportedError, hooked, running
from opdlab.bench.race import machine, show_machine, write
from opdlab.decode_step import cache_argument
from opdlab.footprint import activations, sizes
from opdlab.head import flat_states
from opdlab.manner import FAILURES
from opdlab.models import DTYPES, load_config
from opdlab.shapes import Int, Tensor
from opdlab.terminal import console, progress_bar


@dataclass(frozen=True)
class Holding:
    """One thing that is held.

    Attributes:
        what: of which, in words.
        measured: bytes.
        planned: bytes.
    """

    what: str
    measured: int
    planned: int

    @property
    def ratio(self) -> float:
        """Planned to measured."""
        return self.planned / self.measured


def bench_models(
    paths: Sequence[str], rows: int, length: int, dtype: str, json_file: str | None
) -> None:
    """Print what models of these configurations hold, with random weights, on the CPU."""
    found: dict[str, Any] = {
        "machine": machine("cpu"),
        "rows": rows,
        "tokens": length,
        "models": {},
    }
    show_machine(found["machine"])
    table = Table(
        title=f"{rows} rows of {length} tokens, {dtype}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("model", overflow="fold")
    table.add_column("held", no_wrap=True)
    for name in ("MB", "plan", "plan / MB"):
        table.add_column(name, justify="right")
    with progress_bar() as progress:
        for path in progress.track(paths, description="building models"):
            holdings = list(measure(build(load_config(path), dtype), rows, length))
            found["models"][path] = [asdict(one) for one in holdings]
            for place, one in enumerate(holdings):
                sizes_in_mb = (f"{size / 1e6:,.3f}" for size in (one.measured, one.planned))
                table.add_row("" if place else path, one.what, *sizes_in_mb, f"{one.ratio:.3f}")
    console.print(table)
    write(json_file, found)


def build(config: PretrainedConfig, dtype: str) -> PreTrainedModel:
    """A model of a configuration with random weights, which its memory does not depend on."""
    return AutoModelForCausalLM.from_config(config, dtype=DTYPES[dtype]).eval()


def measure(model: PreTrainedModel, rows: int, length: int) -> Iterator[Holding]:
    """Weights, and what is held of rows of so many tokens; nothing of what a model does not have."""
    dtype = model.dtype
    plan, tokens = sizes(model.config, dtype), torch.full((rows, length), 3)
    weights = sum(weight.numel() for weight in model.parameters()) * dtype.itemsize
    yield Holding("weights", weights, plan.weights)
    planned = activations(model.config, rows, length, dtype)
    yield Holding("activations of a step", kept_for_backward(model, tokens), planned)
    with_dropout = activations(model.config, rows, length, dtype, dropout=True)
    if with_dropout != planned:
        kept = kept_for_backward(model.train(), tokens)
        model.eval()
        yield Holding("activations of a step, with dropout", kept, with_dropout)
    if cached := cached_while_sampling(model, tokens):
        planned = plan.cache * dtype.itemsize * rows * length
        yield Holding("keys and values while sampling", cached, planned)
    if attended := attended_while_scoring(model, length):
        planned = plan.attended * dtype.itemsize * length
        yield Holding("keys and values while scoring a row", attended, planned)


def kept_for_backward(model: PreTrainedModel, tokens: Int[Tensor, "B L"]) -> int:
    """Bytes that a forward keeps for its backward pass, weights excluded."""
    weights = {t.untyped_storage()._cdata for t in (*model.parameters(), *model.buffers())}
    found: dict[int, Any] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            found[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model.base_model(input_ids=tokens, use_cache=False)
    del output
    return sum(storage.nbytes() for storage in found.values())


@torch.no_grad()
def cached_while_sampling(model: PreTrainedModel, tokens: Int[Tensor, "B L"]) -> int:
    """Bytes of the keys and values that the model hands to its cache; 0 where it keeps a state."""
    cache = Cache(layer_class_to_replicate=DynamicLayer)
    argument: dict[str, Any] = {cache_argument(model): cache}
    try:
        model(input_ids=tokens, use_cache=True, **argument)
        layers: list[Any] = cache.layers
        return sum(one.nbytes for layer in layers for one in (layer.keys, layer.values))
    except FAILURES:
        return 0


@torch.no_grad()
def attended_while_scoring(model: PreTrainedModel, length: int) -> int:
    """Bytes of the keys and values that scoring keeps of a row; 0 where the hook does not see them."""
    place = torch.arange(length)
    store = KeyStore(1, length)
    try:
        with hooked(model) as own, running(PackedPass(own, Lines(1, length, place, place), store)):
            flat_states(model, torch.full_like(place, 3), place)
    except (UnsupportedError, *FAILURES):
        return 0
    return sum(one.nbytes for kept in (store.keys, store.values) for one in kept.values())
