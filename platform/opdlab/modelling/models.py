"""Models and tokenizers, found and loaded; beside it what identifies them and what they share."""

from __future__ import annotations

import hashlib
import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from opdlab.errors import ModelError, OutOfReachError
from opdlab.files import is_there, read_file, read_json, sha256_of
from opdlab.modelling import adapters, cut_layers, gguf_files
from opdlab.modelling.model_contents import (
    TRAINED_BY as TRAINED_BY,
    config_sha256 as config_sha256,
    identify as identify,
    sign as sign,
    template_sha256 as template_sha256,
    tokenizer_sha256 as tokenizer_sha256,
    trained_by as trained_by,
    weights_sha256 as weights_sha256,
)
from opdlab.modelling.places import EMBEDDED as EMBEDDED, adapted as adapted, place_of
from opdlab.modelling.position_table import positions as positions
from opdlab.modelling.vocabularies import (
    common_end as common_end,
    count_shared as count_shared,
    eos_ids as eos_ids,
    pad_id as pad_id,
    reach as reach,
    require_end as require_end,
    shared_vocabulary as shared_vocabulary,
    soft_differences as soft_differences,
)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
READ = (".safetensors", ".bin", ".json", ".jinja", ".model", ".txt")
"""Endings of the files of a model that decide what it says."""
_SHOWN = 5


def use_threads(count: int | None) -> None:
    """Give torch so many CPU threads; None leaves its own choice."""
    if count is not None:
        torch.set_num_threads(count)


def device(accelerator: str) -> str:
    """Where a model works outside Lightning's loop: a GPU where there is one and it is wanted.

    Apple's lacks float64, which sampling needs.
    """
    if accelerator == "cpu" or not torch.accelerator.is_available():
        return "cpu"
    found = torch.accelerator.current_accelerator()
    return "cpu" if found is None or found.type == "mps" else found.type


def load_model(
    path: str,
    revision: str | None = None,
    dtype: str = "float32",
    device: torch.device | str = "cpu",
    quantize: str = "none",
    drop_layers: Sequence[int] = (),
) -> PreTrainedModel:
    """Load a causal language model, in evaluation mode.

    Args:
        path: `embedded:NAME`, a folder, a GGUF file, or a name on the Hugging Face hub; a folder with
            adapters gives the model that they belong to, with them.
        revision: commit or tag; required for the hub.
        dtype: number format of the weights, one of `DTYPES`.
        quantize: `nf4` for linear layers of four bits a weight (`opdlab.modelling.adapters`).
        drop_layers: numbers of layers that are left out, from 0.

    Raises:
        ModelError: nothing there, or not a model.
        OutOfReachError: a model of the hub that is not here, and no way to the hub.
    """
    if dtype not in DTYPES:
        raise ModelError(f"unknown number format {dtype!r}; use one of {', '.join(DTYPES)}")
    if (folder := adapted(path)) is not None:
        return _with_adapters(folder, dtype, device)
    source = locate(path, revision)
    if quantize != "none":
        source |= {"quantization_config": adapters.quantization(DTYPES[dtype])}
        source |= {"device_map": {"": str(device)}}
    model: Any
    with _told(path, "no causal language model can be loaded"):
        model, report = AutoModelForCausalLM.from_pretrained(
            **source,
            dtype=DTYPES[dtype],
            output_loading_info=True,
            # With peft the library also looks for adapters there, by settings of their own.
            adapter_kwargs={"local_files_only": source["local_files_only"]},
        )
    # The library makes up what a file lacks, at random, and goes on.
    if absent := sorted(report["missing_keys"]):
        raise ModelError(
            f"{path}: {len(absent)} weights are not in its files ({', '.join(absent[:_SHOWN])} ...); "
            "the folder holds another architecture or was not saved whole"
        )
    if quantize != "none":
        adapters.plain_products(model)
    if gguf_files.is_gguf(path):
        # Not the folder in the cache.
        model.name_or_path = model.config._name_or_path = path
    cut_layers.drop_layers(model, drop_layers)
    return model.to(device).eval()


def _base(folder: Path) -> tuple[str, str | None]:
    """Path and revision of the model that a folder's adapters belong to."""
    told = read_json(folder / adapters.CONFIG)
    path = told.get("base_model_name_or_path")
    if not isinstance(path, str) or not path:
        raise ModelError(
            f"{folder / adapters.CONFIG}: base_model_name_or_path names no model; write there which one "
            "the adapters were trained on"
        )
    return path, told.get("revision")


def _with_adapters(folder: Path, dtype: str, device: torch.device | str) -> PreTrainedModel:
    """The model that a folder's adapters belong to, with them, held as it was while they were trained."""
    path, revision = _base(folder)
    told = read_json(folder / adapters.BASE) if is_there(folder / adapters.BASE) else {}
    where = f"base_model_name_or_path in {folder / adapters.CONFIG}"
    try:
        now = files_sha256(path, revision)
        if told.get("files_sha256", now) != now:
            raise ModelError(
                f"{path} holds another model than the adapters were trained on: its files have changed "
                "since; name the right one"
            )
        model = load_model(path, revision, dtype, device, told.get("quantize", "none"))
    except ModelError as error:
        raise type(error)(f"{where}: {error}") from error
    with _told(str(folder), "its adapters cannot be loaded"):
        adapters.load_onto(model, folder)
    model.config._name_or_path = str(folder)
    return model.to(device)  # pyright: ignore[reportArgumentType]


def load_tokenizer(
    path: str, revision: str | None = None, alone: bool = False
) -> PreTrainedTokenizerBase:
    """Load the tokenizer that stands beside a model; same arguments and errors as `load_model`.

    Adapters without one have their model's.

    Args:
        alone: a folder may hold a tokenizer and no model.
    """
    if alone and holds_tokenizer_alone(Path(path).expanduser()):
        with _told(path, "no tokenizer can be loaded"):
            return AutoTokenizer.from_pretrained(
                str(Path(path).expanduser()), local_files_only=True
            )
    if (folder := adapted(path)) is not None and not (folder / "tokenizer_config.json").exists():
        return load_tokenizer(*_base(folder))
    source = locate(path, revision)
    with _told(path, "no tokenizer can be loaded"):
        return AutoTokenizer.from_pretrained(**source)


def holds_tokenizer_alone(folder: Path) -> bool:
    """Whether a folder has a tokenizer's files and no model's."""
    return (folder / "tokenizer_config.json").is_file() and not (
        (folder / "config.json").is_file() or (folder / adapters.CONFIG).is_file()
    )


def load_config(path: str, revision: str | None = None) -> PretrainedConfig:
    """The shape of a model, without its weights; same arguments and errors as `load_model`."""
    if (folder := adapted(path)) is not None:
        return load_config(*_base(folder))
    source = locate(path, revision)
    with _told(path, "no model configuration can be read"):
        return AutoConfig.from_pretrained(**source)


def load_shell(path: str, revision: str | None = None) -> PreTrainedModel:
    """A model without its weights, for what its shape and settings say; same errors as `load_model`."""
    if (folder := adapted(path)) is not None:
        return load_shell(*_base(folder))
    source = locate(path, revision)
    with _told(path, "no causal language model can be made"), torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(load_config(path, revision))
    name = source.pop("pretrained_model_name_or_path")
    with suppress(OSError):  # a folder may have none
        model.generation_config = GenerationConfig.from_pretrained(name, **source)
    model.name_or_path = path
    return model.eval()


@contextmanager
def _told(path: str, what: str) -> Iterator[None]:
    """Say of a model's files what the library met in them: it lets errors of every type through.

    Raises:
        ModelError: in place of whatever was raised.
    """
    try:
        yield
    except Exception as error:
        said = str(error).strip() or "no reason is given"
        if not isinstance(error, (OSError, ValueError)):
            # "'nope'" or "Padding_idx must be within num_embeddings" alone would help nobody.
            said = (
                f"transformers ends in {type(error).__name__}: {said}. A file there is damaged, or "
                "config.json does not fit the weights: look at it, or save the model again"
            )
        if fault := broken(Path(path).expanduser()):
            said = f"{fault}: restore it from a copy, or save the model again"
        raise ModelError(f"{path}: {what}: {said}") from error


def broken(folder: Path) -> str:
    """The first file of a model's folder that cannot be read, and why; empty where each by itself can."""
    for file in sorted(folder.glob("*.json")) + sorted(folder.glob("*.safetensors")):
        try:
            if file.suffix == ".json":
                json.loads(read_file(file))
            else:
                _open_weights(file)
        except (OSError, ValueError, RecursionError, SafetensorError) as error:
            return f"{file} is damaged ({error})"
    return ""


def _open_weights(file: Path) -> None:
    if not file.is_file():
        raise OSError("it is not a file")
    with safe_open(file, "pt"):
        pass


def locate(path: str, revision: str | None) -> dict[str, Any]:
    """Arguments of `from_pretrained`.

    Args:
        path: a folder, `embedded:NAME`, or a name on the hub; there also `NAME@REVISION`. A GGUF file
            is dequantised when it is first used.
    """
    folder, path, revision = place_of(path, revision)
    if folder is not None:
        folder = gguf_files.dequantised(folder) if folder.is_file() else folder
        return {"pretrained_model_name_or_path": str(folder), "local_files_only": True}
    assert revision is not None
    return {
        "pretrained_model_name_or_path": path,
        "revision": revision,
        "local_files_only": not _hub_answers(path, revision),
    }


def _hub_answers(path: str, revision: str) -> bool:
    """Whether to ask the hub; False where only what was downloaded before can be used.

    One connection without retries: the hub's own client tries for half a minute.
    """
    cached = Path(constants.HF_HUB_CACHE) / f"models--{path.replace('/', '--')}"
    if not constants.HF_HUB_OFFLINE and _reachable(constants.ENDPOINT):
        return True
    if not cached.is_dir():
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "it cannot be reached"
        raise OutOfReachError(
            f"{path}@{revision}: not a folder here, not downloaded before (looked in {cached.parent}), "
            f"and the hub {constants.ENDPOINT} was not asked: {why}. Give the folder of a model on this "
            "machine, or download it where there is a network"
        )
    return False


@cache
def _reachable(endpoint: str) -> bool:
    try:
        urllib.request.urlopen(endpoint, timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def manifest(
    model: PreTrainedModel, path: str, revision: str | None = None, template: str = "auto"
) -> dict[str, Any]:
    """What identifies a model: a run that resumes compares it and refuses another one.

    Args:
        template: as `opdlab.prompts.encode` takes it.
    """
    tokenizer = load_tokenizer(path, revision)
    return {
        "name": path,
        "revision": revision,
        "architecture": type(model).__name__,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "dtype": str(model.dtype).removeprefix("torch."),
        "weights_sha256": weights_sha256(model),
        "config_sha256": config_sha256(model),
        "tokenizer_sha256": tokenizer_sha256(tokenizer),
        "template_sha256": template_sha256(tokenizer, template),
        "ends": list(eos_ids(model, tokenizer)),
        "trained_by": trained_by(path),
        **gguf_files.told(path),
    }


def files_sha256(path: str, revision: str | None = None) -> str:
    """SHA-256 of a model's files without loading it; of one on the hub, its name and commit."""
    folder = Path(locate(path, revision)["pretrained_model_name_or_path"])
    if not folder.is_dir():
        return f"{path}@{revision}"
    digest = hashlib.sha256()
    if adapted(path) is not None:
        digest.update(f"{files_sha256(*_base(folder))}\n".encode())
    for file in sorted(folder.iterdir()):
        if file.suffix in READ and file.name != TRAINED_BY:
            digest.update(f"{file.name} {sha256_of(file)}\n".encode())
    return digest.hexdigest()
