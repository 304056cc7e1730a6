"""Student, teacher and tokenizer: where they are found, what identifies them, what they share."""

from __future__ import annotations

import hashlib
import json
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from operator import itemgetter
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
from opdlab.files import is_there, read_file, read_json, sha256_of, write_whole
from opdlab.identity import ModelId
from opdlab.modelling import adapters, cut_layers, gguf_files
from opdlab.modelling.end_mapping import map_end, mapped_ends, unmap_end
from opdlab.modelling.ends import closing
from opdlab.modelling.places import EMBEDDED as EMBEDDED, adapted as adapted, place_of
from opdlab.modelling.position_table import learned_positions
from opdlab.modelling.wording import Wording
from opdlab.shapes import Tensor

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TRAINED_BY = "opdlab.json"
"""Beside the weights of a model that was trained here: the id of the execution."""
READ = (".safetensors", ".bin", ".json", ".jinja", ".model", ".txt")
"""Endings of the files of a model that decide what it says."""
UNTOLD = (
    *("architectures", "transformers_version", "dtype", "torch_dtype", "use_cache"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "name_or_path"),
)
"""Settings of a model that decide nothing, or that the weights, the tokenizer and the end ids tell."""
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


def eos_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Tokens that end a response: the generation settings' and the tokenizer's, ascending; or what these
    were mapped to.

    Raises:
        ModelError: there are none, or the settings or the tokenizer name one that the model does not have.
    """
    if (mapped := mapped_ends(model)) is not None:
        return mapped
    settings: Any = model.generation_config
    found = None if settings is None else settings.eos_token_id
    named = [one for one in (found if isinstance(found, list) else [found]) if one is not None]
    for one in named:
        if not 0 <= one < _rows(model):
            raise ModelError(
                f"{model.config.name_or_path}: eos_token_id in generation_config.json is {found}, but the "
                f"model has {_rows(model)} tokens, from 0; correct it there (or in config.json, if it has "
                "no generation_config.json)"
            )
    own = _token_id(tokenizer, "eos")
    if own is not None and own >= _rows(model):
        raise ModelError(
            f"{model.config.name_or_path}: the EOS of its tokenizer is {tokenizer.eos_token!r} (id {own}), "
            f"but the model has {_rows(model)} tokens, from 0: its embeddings did not grow with it; "
            "call resize_token_embeddings(len(tokenizer)) before it is trained to end by it, or "
            "restore eos_token in tokenizer_config.json"
        )
    ids = {*named, own} - {None}
    if not ids:
        raise ModelError(
            f"{model.config.name_or_path}: neither the tokenizer nor generation_config.json names an "
            "EOS token, so no response could end; set eos_token_id in one of them"
        )
    return tuple(sorted(ids))


def pad_id(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, vocabulary: int | None = None
) -> int:
    """Filler for padded rows: the tokenizer's, else an EOS; lengths say what is real.

    Args:
        vocabulary: entries that every model which reads the rows has; one beyond them is not taken.
    """
    pad, ends = _token_id(tokenizer, "pad"), eos_ids(model, tokenizer)
    known = min(_rows(model), vocabulary or _rows(model))
    # Any token would do: nothing that is computed depends on it.
    return next((one for one in (pad, *ends) if one is not None and one < known), 0)


def reach(ends: tuple[int, ...], shared: int) -> int | None:
    """Entries that a teacher answers from: the shared ones, or all where those lack one of its ends."""
    return shared if max(ends) < shared else None


def require_end(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    shared: int,
    template: Wording | str = "auto",
    teachers: int | None = None,
) -> tuple[int, ...]:
    """End ids of a student that is sampled among the entries it shares with its teacher.

    One that it was trained to use and its teacher does not have is mapped to the teacher's, which is warned
    of; so is, of several, an end that is left out.

    Args:
        template: how prompts are put to the student.
        teachers: token by which the teachers end their answers; None where it is not to be mapped to.

    Raises:
        ModelError: an end that it was trained to use is not among them: the tokenizer's EOS, the one by
            which the chat template closes an answer, or all that its generation settings name.
    """
    if teachers is not None:
        # Of a model in memory: to the end of other teachers.
        unmap_end(model)
    ends = eos_ids(model, tokenizer)
    lost = [end for end in ends if end >= shared]
    if not lost:
        return ends
    settings: Any = model.generation_config
    named = None if settings is None else settings.eos_token_id
    own = named if isinstance(named, list) else [named]
    closes, eos = closing(tokenizer, ends, template), _token_id(tokenizer, "eos")
    needed = [end for end in (closes, eos) if end in lost]
    needed += lost if all(end in lost for end in own) else []
    words = {end: f"{tokenizer.convert_ids_to_tokens(end)!r} (id {end})" for end in lost}
    # An end that both have keeps its meaning.
    own_end = closes if closes in lost else next(iter(needed), None) if eos not in needed else None
    if own_end is not None and teachers is not None and teachers < shared:
        others = tuple(end for end in ends if end not in lost)
        unused = ", ".join(words[end] for end in lost if end != own_end)
        also = f"; {unused}, by which it may end too, is left out" if unused else ""
        warnings.warn(
            f"the student {model.config.name_or_path} ends its answers by {words[own_end]}, which "
            "its teacher does not have: in training and in comparisons it is the teacher's own end, "
            f"{tokenizer.convert_ids_to_tokens(teachers)!r} (id {teachers}){also}",
            UserWarning,
            stacklevel=2,
        )
        return map_end(model, own_end, teachers, others)
    if needed:
        raise ModelError(
            f"the student {model.config.name_or_path} ends its answers by {words[needed[0]]}, which is not "
            f"among the {shared} entries that it shares with its teacher, so none could end. Take "
            "a teacher whose vocabulary has it, or let the student end by a shared token: eos_token of its "
            "tokenizer, eos_token_id of its generation_config.json, and its chat template"
        )
    warnings.warn(
        f"the student {model.config.name_or_path} may end its answers by {', '.join(words.values())} too, "
        f"which is not among the {shared} entries that it shares with its teacher: in training its answers "
        f"end by {tokenizer.convert_ids_to_tokens(closes)!r}",
        UserWarning,
        stacklevel=2,
    )
    return ends


def common_end(
    teachers: Sequence[tuple[PreTrainedModel, PreTrainedTokenizerBase]],
    template: Wording | str = "auto",
) -> int | None:
    """The token by which all of some models are trained to end their answers; None where they differ."""
    found = {
        closing(tokenizer, eos_ids(model, tokenizer), template) for model, tokenizer in teachers
    }
    return found.pop() if len(found) == 1 else None


def _token_id(tokenizer: PreTrainedTokenizerBase, role: str) -> Any:
    return getattr(tokenizer, f"{role}_token_id")


def shared_vocabulary(
    student_tokenizer: PreTrainedTokenizerBase,
    teacher_tokenizer: PreTrainedTokenizerBase,
    student_model: PreTrainedModel,
    teacher_model: PreTrainedModel,
) -> int:
    """Number of leading vocabulary entries in which both models mean the same strings.

    Differences that leave the ids alone (EOS, BOS, chat template, another split of text into tokens) are
    warned of.

    Raises:
        ModelError: an id below the cut maps to different strings; the message names the first ones.
    """
    shared = count_shared(student_tokenizer, teacher_tokenizer, student_model, teacher_model)
    for difference in soft_differences(student_tokenizer, teacher_tokenizer):
        warnings.warn(f"teacher and student tokenizers: {difference}", UserWarning, stacklevel=2)
    return shared


def count_shared(
    student_tokenizer: PreTrainedTokenizerBase,
    teacher_tokenizer: PreTrainedTokenizerBase,
    student_model: PreTrainedModel,
    teacher_model: PreTrainedModel,
) -> int:
    """`shared_vocabulary` without its warnings.

    Models of one family pad their embeddings to different sizes and later members add special tokens
    at the end: logits are cut to the ids that both tokenizers and both models have.
    """
    student, teacher = _strings(student_tokenizer), _strings(teacher_tokenizer)
    shared = min(_rows(student_model), _rows(teacher_model), max(student) + 1, max(teacher) + 1)
    different = [i for i in range(shared) if student.get(i) != teacher.get(i)]
    if different:
        first = "; ".join(
            f"id {i}: student {student.get(i)!r}, teacher {teacher.get(i)!r}"
            for i in different[:_SHOWN]
        )
        raise ModelError(
            f"teacher and student do not share a vocabulary: {len(different)} of the first {shared} "
            f"token ids map to different strings ({first}); choose a teacher of the student's family"
        )
    return shared


def _strings(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    return {i: token for token, i in tokenizer.get_vocab().items()}


def _rows(model: PreTrainedModel) -> int:
    return model.config.get_text_config().vocab_size


_PROBE = "If 3*x = 12, then x = 4.\n\n\tdef f(n):\n        return n**2  # naïve 测试\n"


def soft_differences(
    student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase
) -> list[str]:
    """What differs between two tokenizers beyond what their ids mean, in words."""
    found = []
    uses = {
        "eos_token": "each ends its own answers by its own",
        "bos_token": "the student's is used for both",
    }
    for name, use in uses.items():
        ours, theirs = getattr(student, name), getattr(teacher, name)
        if ours != theirs:
            found.append(f"{name} is {ours!r} and {theirs!r}; {use}")
    if student.chat_template != teacher.chat_template:
        found.append(
            "chat templates differ; the teacher reads prompts in the student's template, which may "
            "be foreign to it"
        )
    split = [tokenizer.encode(_PROBE, add_special_tokens=False) for tokenizer in (student, teacher)]
    if split[0] != split[1]:
        found.append(
            "they split text into tokens differently, so the student's splits are rare to the teacher"
        )
    return found


def positions(model: PreTrainedModel) -> int | None:
    """Positions that a model was made for, stretched as its rotary embedding says; None for any number."""
    config = model.config.get_text_config(decoder=True)
    size = learned_positions(model)
    if size is not None:
        return size
    size = getattr(config, "max_position_embeddings", None)
    rope = getattr(config, "rope_parameters", None) or {}
    stretched = (rope.get("factor") or 1) * (rope.get("original_max_position_embeddings") or 0)
    return None if size is None else max(size, int(stretched))


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
        entries=None if entries is None or entries >= _rows(model) else entries,
        name=name,
        trained_by=trained_by(name),
    )


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
