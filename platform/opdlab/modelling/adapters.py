"""Low-rank adapters (LoRA, arXiv:2106.09685) in the layers of a model, made and kept by peft.

A model with adapters stays what it is, class and interface; its chosen linear layers are wrapped. So all
that samples, scores and trains takes it like any other. Nothing is merged while it learns: a merged weight
in half precision would lose what small updates say.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

from opdlab.errors import ModelError
from opdlab.files import read_json
from opdlab.modelling.forward_code import weights_read
from opdlab.modelling.places import ADAPTERS
from opdlab.shapes import Tensor

CONFIG, WEIGHTS, BASE = ADAPTERS, "adapter_model.safetensors", "base.json"
"""Files of a folder with adapters: peft's two, and how the model that they were trained on was held."""
ALL_LINEAR = "all-linear"
_NAME = "default"
_PREFIX = "base_model.model."
_SHOWN = 12
_DECISIVE = ("lora_alpha", "alpha_pattern", "use_rslora", "use_dora")


def add(
    model: PreTrainedModel,
    *,
    rank: int,
    alpha: float,
    targets: str | Sequence[str] = ALL_LINEAR,
    dropout: float = 0.0,
    seed: int = 0,
) -> None:
    """Put new adapters into a model, in place; they change nothing yet, and they alone are trained.

    Args:
        rank, alpha: of each; its product counts `alpha / rank` times.
        targets: last names of linear layers, or `all-linear`.
        seed: of the first of its two matrices; the second is zero.

    Raises:
        ModelError: it has no such layers, one is tied to the vocabulary, or there are adapters already.
    """
    from peft import LoraConfig, inject_adapter_in_model

    if has(model):
        raise ModelError(
            f"{model.name_or_path} holds adapters already: merge them first (opdlab merge)"
        )
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # pyright: ignore[reportArgumentType] - its scale is a quotient
        target_modules=sorted({_last(name) for name in chosen(model, targets)}),
        lora_dropout=dropout,
        task_type="CAUSAL_LM",
    )
    model.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model, adapter_name=_NAME)
    _widen(model)


def chosen(model: PreTrainedModel, asked: str | Sequence[str]) -> dict[str, nn.Module]:
    """The layers that get adapters, by name.

    Args:
        asked: last names of linear layers, or `all-linear`.

    Raises:
        ModelError: there are none, or the vocabulary's is among them.
    """
    vocabulary = {id(model.get_output_embeddings()), id(model.get_input_embeddings())}
    layers = {name: one for name, one in model.named_modules() if _linear(one)}
    heads = {name for name, one in layers.items() if id(one) in vocabulary}
    unfit = _read_past(model)
    # peft goes by last names, of which a number in a list may be that of anything.
    others = {_last(name) for name, one in model.named_modules() if not _linear(one)}
    named = {_last(name) for name in layers.keys() - heads}
    known = sorted(named - _of_experts(model, layers) - unfit - others)
    wanted = known if asked == ALL_LINEAR else list(asked)
    of = f"{type(model).__name__} has the linear layers {', '.join(known[:_SHOWN]) or 'none'}"
    if past := sorted(unfit & set(wanted)):
        raise ModelError(
            f"student.lora.targets: {', '.join(past)} gets no adapter: kernels of state-space layers read "
            f"its weight past it; {of}"
        )
    if missing := [name for name in wanted if name not in known]:
        tied = {_last(name) for name in heads} & set(missing)
        why = " (the vocabulary's own gets none: the loss reads its weights)" if tied else ""
        raise ModelError(f"student.lora.targets: no {', '.join(missing)}{why}; {of}")
    if not wanted:
        raise ModelError(f"student.lora.targets: nothing to adapt; {of}")
    if both := {_last(name) for name in heads} & set(wanted):
        raise ModelError(
            f"student.lora.targets: {', '.join(sorted(both))} is a name of the vocabulary's layer too, "
            "which gets no adapter; name others"
        )
    return {name: one for name, one in layers.items() if _last(name) in wanted}


def has(model: nn.Module) -> bool:
    """Whether it holds adapters."""
    return bool(getattr(model, "peft_config", None))


def settings(model: nn.Module) -> dict[str, Any]:
    """What decides what its adapters do beside their weights; empty where it has none."""
    if not has(model):
        return {}
    told = _config(model).to_dict()
    return {key: told.get(key) for key in _DECISIVE}


def twin(model: PreTrainedModel) -> PreTrainedModel:
    """A second model with the same weights in memory, which has no part in adapters that the first gets."""
    shared: dict[int, Any] = {id(weight): weight for weight in model.parameters()}
    return copy.deepcopy(model, shared)


def trained(model: nn.Module, state: Mapping[str, Any]) -> dict[str, Any]:
    """Of a state by names those entries that are trained.

    Args:
        state: its names end as the model's own do.
    """
    names = {name for name, weight in model.named_parameters() if weight.requires_grad}
    return {name: value for name, value in state.items() if name in names}


def save(
    model: PreTrainedModel,
    folder: Path,
    base: Mapping[str, Any],
    state: Mapping[str, Tensor] | None = None,
) -> None:
    """Write the adapters as peft reads them.

    Args:
        base: `path` and `revision` of the model that they belong to, its `dtype` and `quantize`.
        state: weights by name, where the model's own lie in parts.
    """
    from peft import get_peft_model_state_dict

    config = copy.copy(_config(model))
    path = Path(base["path"]).expanduser()
    # A folder is found from anywhere.
    config.base_model_name_or_path = str(path.absolute()) if path.exists() else base["path"]
    config.revision, config.inference_mode = base["revision"], True
    config.save_pretrained(str(folder))
    found = get_peft_model_state_dict(
        model,
        state_dict=None if state is None else dict(state),
        save_embedding_layers=False,
    )
    kept = {f"{_PREFIX}{name}": one.detach().cpu().contiguous() for name, one in found.items()}
    save_file(kept, folder / WEIGHTS, metadata={"format": "pt"})
    told = {key: base[key] for key in ("dtype", "quantize", "files_sha256") if key in base}
    (folder / BASE).write_text(json.dumps(told, indent=2) + "\n")


def load_onto(model: PreTrainedModel, folder: Path) -> None:
    """Put the adapters of a folder into the model that they belong to; nothing is trained.

    Raises:
        ModelError: they are of another kind or of another model.
    """
    from peft import (
        PeftConfig,
        get_peft_model_state_dict,
        inject_adapter_in_model,
        set_peft_model_state_dict,
    )

    kind = read_json(folder / CONFIG).get("peft_type")
    if kind != "LORA":
        raise ModelError(f"{folder}: adapters of type {kind}; only LORA is read")
    config: Any = PeftConfig.from_pretrained(str(folder))
    if config.modules_to_save or getattr(config, "trainable_token_indices", None):
        raise ModelError(
            f"{folder}: {CONFIG} names whole layers or tokens that were trained beside the adapters "
            "(modules_to_save); merge them by the tool that made them, and give the merged model"
        )
    if not (folder / WEIGHTS).is_file():
        raise ModelError(
            f"{folder}: {CONFIG} is there, and {WEIGHTS} is not; save the adapters again"
        )
    # Leaves what the adapters are filled with to the file, and torch's random state as it was.
    with torch.random.fork_rng(devices=[]):
        inject_adapter_in_model(config, model, adapter_name=_NAME)
    if config.target_parameters:
        raise ModelError(
            f"{folder}: {CONFIG} names weights of experts ({', '.join(sorted(config.target_parameters))}), "
            "which are no layers here; merge them by the tool that made them, and give the merged model"
        )
    state = {name.removeprefix(_PREFIX): one for name, one in load_file(folder / WEIGHTS).items()}
    wanted = get_peft_model_state_dict(model, save_embedding_layers=False)
    odd = sorted(
        (wanted.keys() ^ state.keys())
        | {k for k in wanted.keys() & state.keys() if wanted[k].shape != state[k].shape}
    )
    if odd:
        raise ModelError(
            f"{folder}: {len(odd)} adapters do not fit the model {model.name_or_path} (first {odd[0]}): "
            f"base_model_name_or_path in {CONFIG} names another model than they were trained on"
        )
    _widen(model)
    set_peft_model_state_dict(model, state)
    model.requires_grad_(False).eval()


def whole(model: PreTrainedModel, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """The model without adapters that says the same: each product added to its layer, on the host.

    Args:
        dtype: of its weights, None for the model's own; sums are made in float32.

    Raises:
        ModelError: its adapters do more than add a product.
    """
    if _config(model).use_dora:
        raise ModelError(
            f"{model.name_or_path}: its adapters also scale whole columns (DoRA), which only peft merges"
        )
    config: Any = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    kind: Any = type(model)
    with torch.device("meta"):
        made = kind(config)
    state = _merged(model, dtype or model.dtype)
    made.load_state_dict(state, strict=False, assign=True)
    made.tie_weights()
    if absent := sorted(made.state_dict().keys() - state.keys()):
        raise ModelError(f"{model.name_or_path}: {absent[0]} is not among the merged weights")
    made.config.dtype = dtype or model.dtype
    made.generation_config = model.generation_config
    return made


def _merged(model: PreTrainedModel, dtype: torch.dtype) -> dict[str, Tensor]:
    """The state of the model without adapters that says the same."""
    from peft.tuners.lora import LoraLayer

    layers = {name: one for name, one in model.named_modules() if isinstance(one, LoraLayer)}
    found: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        owner, _, last = name.rpartition(".base_layer.")
        if owner in layers and last:
            # Of a quantised layer, what its codes are widened by stands beside its weight.
            if last in ("weight", "bias"):
                found[f"{owner}.{last}"] = _sum(layers[owner], last, value, dtype)
        elif not any(name.startswith(f"{each}.") for each in layers):
            found[name] = _as(value, dtype)
    return found


def quantization(dtype: torch.dtype) -> Any:
    """How transformers is told to hold linear layers in four bits (NF4), widened to `dtype`.

    Raises:
        ModelError: bitsandbytes is not installed.
    """
    if find_spec("bitsandbytes") is None:
        raise ModelError(
            "student.lora.quantize: nf4 needs bitsandbytes (pip install 'opdlab[qlora]'), which is not "
            "installed here; install it, or set quantize: none"
        )
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
    )


def plain_products(model: nn.Module) -> None:
    """Let layers of four bits compute alike in training and in evaluation.

    On some CPUs bitsandbytes repacks weights at the first evaluation, and then multiplies in bfloat16.
    """
    for module in model.modules():
        layer: Any = module
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False


def _config(model: Any) -> Any:
    return model.peft_config[_NAME]


def _widen(model: nn.Module) -> None:
    """Adapters in float32 whatever the model's format: in a lower one small steps are lost."""
    for name, weight in model.named_parameters():
        if ".lora_" in name:
            weight.data = weight.data.float()


def _of_experts(model: PreTrainedModel, names: Iterable[str]) -> set[str]:
    """Last names among these that peft takes for those of experts, which are no layers of their own."""
    from peft import LoraConfig
    from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers

    asked = {_last(name) for name in names}
    config = LoraConfig(target_modules=sorted(asked))
    convert_peft_config_for_transformers(config, model, None)
    return asked - set(config.target_modules or ())


def _read_past(model: PreTrainedModel) -> set[str]:
    """Last names of linear layers whose weights a state-space layer hands to its kernels itself.

    An adapter would have a part in one way through the layer and none in the other; peft refuses some too.
    """
    found = set()
    for module in model.modules():
        if "conv1d" in dict(module.named_children()):
            read = weights_read(module)
            found |= {
                name for name, one in module.named_children() if _linear(one) and name in read
            }
    return found


def _linear(module: nn.Module) -> bool:
    # transformers' Conv1D is a linear layer of GPT-2 whose weight is turned; quantised ones are subclasses.
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _sum(layer: Any, last: str, value: Tensor, dtype: torch.dtype) -> Tensor:
    """Weight or bias of an adapted layer, with the adapter's product."""
    base = layer.get_base_layer()
    if last == "bias":
        return _as(value, dtype)
    if getattr(base.weight, "quant_state", None) is not None:
        from bitsandbytes.functional import dequantize_4bit

        own = dequantize_4bit(base.weight.data, base.weight.quant_state)
    else:
        own = value
    product = layer.get_delta_weight(_NAME).float().to(own.device)
    return (own.float() + product).to(dtype).cpu()


def _as(value: Tensor, dtype: torch.dtype) -> Tensor:
    return (value.to(dtype) if value.is_floating_point() else value).detach().cpu()
