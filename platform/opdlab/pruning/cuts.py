"""Which layers and MLP channels matter least on a sample, and the model without them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from opdlab.errors import ModelError
from opdlab.modelling import hidden_states, keep_layers, layer_list, left_out, log_distribution
from opdlab.shapes import Float, Int, Tensor

By = Literal["kl", "change"]
Sample = Sequence[Int[Tensor, "1 S"]]
"""Texts in tokens, one a row."""


@dataclass(frozen=True)
class Cut:
    """One layer that was cut, numbered as in the whole model.

    Attributes:
        scores: of every layer that could have been cut then, by its number; the lowest was.
        kl: KL(whole || what is left), nats a token, after this cut and those before it.
    """

    layer: int
    scores: dict[int, float]
    kl: float


def cut_layers(
    model: PreTrainedModel,
    sample: Sample,
    count: int,
    by: By = "kl",
    advance: Callable[[], None] = lambda: None,
) -> list[Cut]:
    """Cut so many layers, one after the other, each time that of the lowest score; in place.

    `kl` scores a layer by the KL divergence of the whole model's distributions from those of the model
    without it and without those cut before; `change` by 1 - cosine between what goes into it and what comes
    out (ShortGPT, arXiv:2403.03853), which takes one forward a cut.

    Args:
        advance: called after each cut, by `kl` after each layer that was scored.

    Raises:
        ModelError: it has no more layers than are to be cut.
    """
    layers = len(layer_list(model))
    if not 0 < count < layers:
        raise ModelError(
            f"{model.name_or_path} has {layers} layers; cut at least 1 and at most {layers - 1}"
        )
    before = log_probs(model, sample)
    numbers, cuts = list(range(layers)), []
    for _ in range(count):
        if by == "kl":
            scores = _by_kl(model, sample, before, advance)
        else:
            scores = changes(model, sample)
            advance()
        place = min(range(len(scores)), key=scores.__getitem__)
        keep_layers(model, [one for one in range(len(scores)) if one != place])
        kl = scores[place] if by == "kl" else divergence(before, log_probs(model, sample))
        cuts.append(Cut(numbers[place], dict(zip(numbers, scores, strict=True)), kl))
        del numbers[place]
    return cuts


@torch.no_grad()
def log_probs(model: PreTrainedModel, sample: Sample) -> list[Float[Tensor, "S V"]]:
    """Next-token log-probabilities at every token of a sample, in nats."""
    return [log_distribution(model, hidden_states(model, row)[0], None) for row in sample]


def divergence(
    before: Sequence[Float[Tensor, "S V"]], after: Sequence[Float[Tensor, "S V"]]
) -> float:
    """KL(before || after), mean over all tokens, in nats."""
    total = sum(
        float((p.exp() * (p - q)).sum(dtype=torch.float64))
        for p, q in zip(before, after, strict=True)
    )
    return total / sum(map(len, before))


def _by_kl(
    model: PreTrainedModel,
    sample: Sample,
    before: Sequence[Float[Tensor, "S V"]],
    advance: Callable[[], None],
) -> list[float]:
    """The divergence without each layer in turn; the model is as it was afterwards."""
    scores = []
    for place in range(len(layer_list(model))):
        with left_out(model, place):
            scores.append(divergence(before, log_probs(model, sample)))
        advance()
    return scores


@torch.no_grad()
def changes(model: PreTrainedModel, sample: Sample) -> list[float]:
    """1 - cosine between input and output of each layer, mean over all tokens."""
    layers = layer_list(model)
    sums, tokens = [0.0] * len(layers), sum(row.shape[1] for row in sample)

    def seen(place: int) -> Callable[..., None]:
        def hook(_module: nn.Module, inputs: Any, options: Any, output: Any) -> None:
            before = inputs[0] if inputs else options["hidden_states"]
            after = output if isinstance(output, torch.Tensor) else output[0]
            cosine = nn.functional.cosine_similarity(before.float(), after.float(), dim=-1)
            sums[place] += float((1 - cosine).sum(dtype=torch.float64))

        return hook

    _run_hooked(
        model,
        sample,
        [
            layer.register_forward_hook(seen(place), with_kwargs=True)
            for place, layer in enumerate(layers)
        ],
    )
    return [one / tokens for one in sums]


def _run_hooked(model: PreTrainedModel, sample: Sample, handles: Sequence[RemovableHandle]) -> None:
    """Run the sample through a model whose hooks look on; they are gone afterwards."""
    try:
        for row in sample:
            hidden_states(model, row)
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def cut_width(model: PreTrainedModel, sample: Sample, width: int) -> float:
    """Keep so many channels of every MLP, those that carry most on a sample; in place.

    A channel counts by the mean of its absolute activation times the norm of the weights that read it.

    Returns:
        KL(before || after) on the sample, nats a token.

    Raises:
        ModelError: layers have no MLP of `up_proj` and `down_proj`, or are no wider than that.
    """
    mlps = [_mlp(model, layer) for layer in layer_list(model)]
    widest = min(mlp.down_proj.in_features for mlp in mlps)
    if not 0 < width < widest:
        raise ModelError(
            f"{model.name_or_path}: its MLPs have {widest} channels; keep between 1 and {widest - 1}"
        )
    before = log_probs(model, sample)
    sums: list[Tensor] = [torch.zeros(()) for _ in mlps]

    def seen(place: int) -> Callable[..., None]:
        def hook(_module: nn.Module, inputs: Any) -> None:
            sums[place] = sums[place] + inputs[0].detach().float().abs().sum((0, 1))

        return hook

    _run_hooked(
        model,
        sample,
        [mlp.down_proj.register_forward_pre_hook(seen(place)) for place, mlp in enumerate(mlps)],
    )
    for mlp, activation in zip(mlps, sums, strict=True):
        weight = activation.to(mlp.down_proj.weight.device) * mlp.down_proj.weight.float().norm(
            dim=0
        )
        _narrow(mlp, weight.topk(width).indices.sort().values)
    model.config.get_text_config(decoder=True).intermediate_size = width
    return divergence(before, log_probs(model, sample))


def _mlp(model: PreTrainedModel, layer: nn.Module) -> Any:
    found = [
        one
        for one in layer.modules()
        if all(isinstance(getattr(one, name, None), nn.Linear) for name in ("up_proj", "down_proj"))
    ]
    if len(found) != 1:
        raise ModelError(
            f"{type(model).__name__}: a layer has {len(found)} MLPs with up_proj and down_proj, and one is "
            "needed to cut its width; cut only layers"
        )
    return found[0]


def _narrow(mlp: Any, kept: Int[Tensor, "W"]) -> None:
    for name in ("up_proj", "gate_proj"):
        if isinstance(layer := getattr(mlp, name, None), nn.Linear):
            layer.weight = nn.Parameter(layer.weight[kept].clone())
            layer.out_features = len(kept)
            if layer.bias is not None:
                layer.bias = nn.Parameter(layer.bias[kept].clone())
    mlp.down_proj.weight = nn.Parameter(mlp.down_proj.weight[:, kept].clone())
    mlp.down_proj.in_features = len(kept)
    if hasattr(mlp, "intermediate_size"):
        mlp.intermediate_size = len(kept)
