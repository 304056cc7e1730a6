"""What a model is made of, in hashes: weights, settings, tokenizer, template, and who trained it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from opdlab.files import is_there, read_json, write_whole
from opdlab.identity import ModelId
from opdlab.modelling import adapters
from opdlab.modelling.vocabularies import rows_of
from opdlab.shapes import Tensor

TRAINED_BY = "opdlab.json"
"""Beside the weights of a model that was trained here: the id of the execution."""
UNTOLD = (
    *("architectures", "transformers_version", "dtype", "torch_dtype", "use_cache"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "name_or_path"),
)
"""Settings of a model that decide nothing, or that the weights, the tokenizer and the end ids tell."""


def identify(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    ends: tuple[int, ...],
    entries: int | None,
) -> ModelId:
    """A model in this process, known by its contents.

    Args:
        template: as `opdlab.prompts.encode` takes it.
        ends, entries: see `ModelId`.
    """
    name = str(model.name_or_path)
    return ModelId(
        weights=weights_sha256(model),
        config=config_sha256(model),
        tokenizer=tokenizer_sha256(tokenizer),
        template=template_sha256(tokenizer, template),
        ends=ends,
        entries=None if entries is None or entries >= rows_of(model) else entries,
        name=name,
        trained_by=trained_by(name),
    )


def tokenizer_sha256(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of how text becomes tokens: vocabulary, merges, normalisation, special tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        told: Any = [type(tokenizer).__name__, sorted(tokenizer.get_vocab().items())]
    else:
        told = json.loads(backend.to_str())
        # How the last caller had rows filled up or cut.
        told = {key: told[key] for key in told if key not in ("padding", "truncation")}
    special = {name: str(value) for name, value in tokenizer.special_tokens_map.items()}
    text = json.dumps([told, special], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def template_sha256(tokenizer: PreTrainedTokenizerBase, template: str) -> str:
    """SHA-256 of the chat template that prompts are rendered in; of `none` where they are not."""
    used = None if template == "none" else tokenizer.chat_template
    text = json.dumps(used, sort_keys=True) if used else "none"
    return hashlib.sha256(text.encode()).hexdigest()


def sign(folder: Path, execution: str) -> None:
    """Write into a saved model which execution trained it."""
    write_whole(folder / TRAINED_BY, json.dumps({"execution": execution}) + "\n")


def trained_by(path: str) -> str:
    """Id of the execution that trained the model in a folder; empty where none here did.

    Raises:
        DataError: the record is damaged.
    """
    record = Path(path).expanduser() / TRAINED_BY
    if not is_there(record):
        return ""
    remedy = "restore it from a copy, or delete it where the model was not trained by opdlab"
    return str(read_json(record, "execution", remedy=remedy)["execution"])


def config_sha256(model: PreTrainedModel) -> str:
    """SHA-256 of the architecture and its settings, such as the rotary base, which no weight tells.

    Settings with their default value are left out: a later transformers has more of them.
    """
    told: list[Any] = [type(model).__name__, _decisive(model.config.to_diff_dict())]
    if kept := adapters.settings(model):
        told.append(kept)
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()


def _decisive(settings: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _decisive(value) if isinstance(value, dict) else value
        for key, value in settings.items()
        if not (key in UNTOLD or key.startswith("_"))
    }


def _state(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """What `state_dict` holds; asked for that, a sharded model that was gathered would be parted again."""
    yield from model.named_parameters(remove_duplicate=False)
    for prefix, module in model.named_modules():
        for name, buffer in module.named_buffers(prefix, recurse=False):
            if name.rpartition(".")[2] not in module._non_persistent_buffers_set:
                yield name, buffer


def weights_sha256(model: PreTrainedModel) -> str:
    """SHA-256 over names, types, shapes and bytes of all weights, wherever they were loaded from."""
    digest = hashlib.sha256()
    for name, weight in sorted(_state(model), key=itemgetter(0)):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}\n".encode())
        # A copy: memory that numpy has seen cannot be given back, as that of gathered weights is.
        flat = weight.detach().to("cpu", copy=True).contiguous().reshape(-1).view(torch.uint8)
        digest.update(flat.numpy().data)
    return digest.hexdigest()
