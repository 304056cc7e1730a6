"""Models in GGUF files: dequantised once, into a folder in the cache that every loader reads."""

from __future__ import annotations

import importlib.util
import json
import os
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from transformers import AutoModelForCausalLM, AutoTokenizer

from opdlab.console import console
from opdlab.errors import ModelError
from opdlab.files import sha256_of, whole_folder
from opdlab.modelling.places import GGUF, place_of

SOURCE = "opdlab-gguf.json"
"""In a folder of the cache: the file that it was made of, and with which versions."""
_QUANTISED = ("is_quantized", "quantization_method")


def is_gguf(path: str) -> bool:
    """Whether a path, as experiments name models, is that of a GGUF file."""
    return path.endswith(GGUF) and not Path(path).expanduser().is_dir()


def told(path: str) -> dict[str, str]:
    """What a manifest says of the file that a model comes from; nothing where it is no GGUF file."""
    place = place_of(path, None)[0] if is_gguf(path) else None
    return {} if place is None else {"gguf_sha256": sha256(place)}


def sha256(file: Path) -> str:
    """SHA-256 of a file; computed once a process while it stays as it is."""
    told = file.stat()
    return _sha256(file.resolve(), told.st_size, told.st_mtime_ns)


@cache
def _sha256(file: Path, _size: int, _changed: int) -> str:
    return sha256_of(file)


def cache_folder() -> Path:
    """Where dequantised models are kept."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "opdlab" / "models"


def dequantised(file: Path) -> Path:
    """The folder of a GGUF file's model in float32, made when it is first asked for.

    Its name holds the hash of the file, so a changed file is dequantised anew.

    Raises:
        ModelError: the package gguf is not here, or transformers cannot read the file.
    """
    digest = sha256(file)
    folder = cache_folder() / f"{file.stem}-{digest[:16]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if not folder.is_dir():
            _dequantise(file, folder, digest)
    return folder


def _dequantise(file: Path, folder: Path, digest: str) -> None:
    if importlib.util.find_spec("gguf") is None:
        raise ModelError(
            f"{file}: GGUF files are read by the package gguf, which is not installed: "
            "`pip install 'opdlab[gguf]'`"
        )
    console.print(f"{file.name}: dequantising once, into {folder}", soft_wrap=True)
    try:
        model, tokenizer = _read(file)
    except Exception as error:
        # transformers lets errors of every type through.
        said = str(error).strip() or "no reason is given"
        raise ModelError(
            f"{file}: transformers cannot read it ({type(error).__name__}: {said}). Is the file whole, and "
            "its architecture known to transformers? Else give a folder in Hugging Face's format"
        ) from error
    origin = {"file": file.name, "sha256": digest}
    origin |= {name: version(name) for name in ("gguf", "transformers")}
    with whole_folder(folder) as partial:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        (partial / SOURCE).write_text(json.dumps(origin, indent=1) + "\n", encoding="utf-8")


def _read(file: Path) -> tuple[Any, Any]:
    """Model, in float32, and tokenizer, ready to be saved; raises what transformers raises."""
    place: dict[str, Any] = {"gguf_file": file.name, "local_files_only": True}
    tokenizer = AutoTokenizer.from_pretrained(str(file.parent), **place)
    model: Any
    model, report = AutoModelForCausalLM.from_pretrained(
        str(file.parent), dtype=torch.float32, output_loading_info=True, **place
    )
    # The library makes up what a file lacks, at random.
    if absent := sorted(report["missing_keys"]):
        raise ValueError(f"{len(absent)} weights are not in it, such as {absent[0]}")
    # It refuses to save what came from GGUF until it forgets that it was quantised.
    model.hf_quantizer = None
    for name in _QUANTISED:
        vars(model).pop(name, None)
    vars(model.config).pop("quantization_config", None)
    return model, tokenizer
