"""`opdlab prune`: a smaller model in a folder of Hugging Face's format, with a card that tells the cuts."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from opdlab.console import console, progress_bar, quieten
from opdlab.errors import ConfigError, ModelError
from opdlab.files import is_there, whole_folder
from opdlab.modelling import drop_layers, layer_list, models, require_readable
from opdlab.pruning.cuts import By, Cut, cut_layers, cut_width, divergence, log_probs
from opdlab.pruning.sample import sample_of

RECORD = "pruning.json"
"""Beside the weights: what was cut, and every score."""


@dataclass(frozen=True)
class Asked:
    """What is to be cut, and by what it is scored.

    Attributes:
        layers: how many layers, those of the lowest scores.
        drop: layers by their numbers, from 0, in place of scores.
        width: channels of each MLP that stay; None for all.
        by, sample, tokens, seed: see `cut_layers` and `sample_of`.
    """

    layers: int = 0
    drop: tuple[int, ...] = ()
    width: int | None = None
    by: By = "kl"
    sample: str | None = None
    tokens: int = 512
    seed: int = 0


@dataclass(frozen=True)
class Pruned:
    """What was cut.

    Attributes:
        dropped: numbers of layers in the whole model, in the order of their cuts.
        cuts: each with its scores; none where layers were named.
        kl: KL(whole || pruned) on the sample, nats a token.
        parameters: before and after.
    """

    model: str
    weights_sha256: str
    asked: Asked
    dropped: tuple[int, ...]
    cuts: tuple[Cut, ...]
    kl: float
    layers: tuple[int, int]
    parameters: tuple[int, int]


def prune(model: str, target: Path, asked: Asked, dtype: str = "float32") -> Pruned:
    """Write a model without what matters least.

    Args:
        model: as `models.load_model` takes it; a revision behind `@`.
        target: a folder that is not there yet, or empty.
        dtype: number format of the weights that are written.

    Raises:
        ConfigError: nothing is to be cut, or layers in two ways at once.
        ModelError: `target` holds something, or the model cannot be cut so.
    """
    if bool(asked.layers) == bool(asked.drop) and (asked.layers or asked.width is None):
        raise ConfigError("prune: say one of --layers N and --drop NUMBERS, or --width N, or both")
    if is_there(target) and (not target.is_dir() or any(target.iterdir())):
        raise ModelError(f"{target} is there already; name a new folder")
    quieten()
    loaded, tokenizer = models.load_model(model), models.load_tokenizer(model)
    digest, size, depth = models.weights_sha256(loaded), _size(loaded), len(layer_list(loaded))
    sample = sample_of(loaded, tokenizer, asked.sample, asked.tokens, asked.seed)
    before = log_probs(loaded, sample)
    drop_layers(loaded, asked.drop)
    cuts = _scored(loaded, sample, asked) if asked.layers else []
    if asked.width is not None:
        cut_width(loaded, sample, asked.width)
    require_readable(loaded)
    dropped = asked.drop or tuple(one.layer for one in cuts)
    found = Pruned(
        model=model,
        weights_sha256=digest,
        asked=asked,
        dropped=dropped,
        cuts=tuple(cuts),
        kl=divergence(before, log_probs(loaded, sample)),
        layers=(depth, len(layer_list(loaded))),
        parameters=(size, _size(loaded)),
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    written: Any = loaded
    with whole_folder(target) as partial:
        written.to(models.DTYPES[dtype]).save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        (partial / RECORD).write_text(json.dumps(asdict(found), indent=1) + "\n", encoding="utf-8")
        (partial / "README.md").write_text(card(found, target.name), encoding="utf-8")
    return found


def _scored(model: PreTrainedModel, sample: Any, asked: Asked) -> list[Cut]:
    depth = len(layer_list(model))
    by_kl = sum(range(depth - asked.layers + 1, depth + 1))
    with progress_bar() as progress:
        total = by_kl if asked.by == "kl" else asked.layers
        task = progress.add_task("score layers", total=max(1, total))
        cuts = cut_layers(model, sample, asked.layers, asked.by, lambda: progress.advance(task))
    for cut in cuts:
        console.print(
            f"cut layer {cut.layer}: {asked.by} {min(cut.scores.values()):.4f}, KL {cut.kl:.4f}"
        )
    return cuts


def _size(model: PreTrainedModel) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def card(found: Pruned, name: str) -> str:
    """A model card that tells what was cut and how each cut scored."""
    asked = found.asked
    (deep, left), (large, small) = found.layers, found.parameters
    where = "the model's own answers to built-in questions"
    if asked.sample is not None:
        where = f"`{asked.sample}`"
    facts = [
        ("made of", f"`{found.model}`"),
        ("its weights, SHA-256", found.weights_sha256),
        ("layers", f"{left} of {deep}; without {', '.join(map(str, found.dropped)) or 'none'}"),
        ("parameters", f"{small:,} of {large:,}"),
        ("KL(whole \\|\\| pruned)", f"{found.kl:.4f} nats a token"),
        ("sample", f"{where}, about {asked.tokens} tokens, seed {asked.seed}"),
    ]
    if asked.width is not None:
        facts.insert(3, ("channels of each MLP", f"{asked.width}, those that carry most"))
    parts = [
        "---\nlibrary_name: transformers\npipeline_tag: text-generation\n---\n",
        f"# {name}\n",
        "A pruned model, made by `opdlab prune`. It is to be trained further: as it is it answers worse "
        "than the model it was made of. The licence is that model's.\n",
        _table(("", ""), facts),
    ]
    if found.cuts:
        what = {
            "kl": "KL divergence of the whole model from the model without the layer, nats a token",
            "change": "1 - cosine between what goes into the layer and what comes out",
        }
        rows = [
            (str(order), str(cut.layer), f"{min(cut.scores.values()):.4f}", f"{cut.kl:.4f}")
            for order, cut in enumerate(found.cuts, start=1)
        ]
        first = sorted(found.cuts[0].scores.items())
        parts += [
            f"## Cuts\n\nScore: {what[asked.by]}. Each cut is that of the lowest score.\n",
            _table(("cut", "layer", "score", "KL after it"), rows),
            f"## Scores of all layers before the first cut\n\nLater scores: `{RECORD}`.\n",
            _table(("layer", "score"), [(str(layer), f"{score:.4f}") for layer, score in first]),
        ]
    return "\n".join(parts)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
