"""What a program hands over in place of a path, and what it may have meant instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from opdlab.configuration import Experiment, Student, require_fitting
from opdlab.errors import ModelError, OutOfReachError
from opdlab.modelling import DTYPES, models


def require_model(what: str, given: Any) -> PreTrainedModel:
    """A model in memory.

    Returns:
        The model as it was given.

    Raises:
        ModelError: it is something else, with what to give in its place.
    """
    kind = type(given).__name__
    if isinstance(given, str | Path):
        raise ModelError(
            f"{what}: {str(given)!r} is not a model in memory; name it in the experiment: "
            f'load(..., "{what}.path={given}")'
        )
    if callable(getattr(given, "get_base_model", None)):
        raise ModelError(
            f"{what}: {kind} wraps a model; give its get_base_model(), in which LoRA layers stay, or "
            "merge_and_unload()"
        )
    if hasattr(given, "_orig_mod"):
        raise ModelError(
            f"{what}: a compiled model cannot be looked into; give it before torch.compile"
        )
    if not isinstance(given, PreTrainedModel):
        raise ModelError(f"{what}: {kind} is not a causal language model of transformers")
    if given.get_output_embeddings() is None:
        raise ModelError(
            f"{what}: {kind} has no head over a vocabulary; load it by AutoModelForCausalLM"
        )
    return given


def require_apart(student: PreTrainedModel, teacher: PreTrainedModel) -> None:
    """Refuse a student whose training would change its teacher.

    Raises:
        ModelError: they share weights.
    """
    own = {weight.data_ptr() for weight in student.parameters()}
    shared = [name for name, one in teacher.named_parameters() if one.data_ptr() in own]
    if shared:
        raise ModelError(
            f"student and teacher share {len(shared)} weights in memory ({shared[0]}), so training would "
            "change the teacher; give one of them as copy.deepcopy(model)"
        )


def with_student(config: Experiment, model: PreTrainedModel) -> Experiment:
    """The experiment, with the settings of its student taken from a model in memory.

    Returns:
        A changed copy of the experiment.

    Raises:
        ConfigError: the experiment cannot be trained with weights of this number format.
        ModelError: adapters are to be trained that belong to no file.
    """
    known = {dtype: name for name, dtype in DTYPES.items()}
    path, revision = model.name_or_path, getattr(model.config, "_commit_hash", None)
    here = Path(path).is_dir() if path else False
    told = {"path": path, "revision": None if here else revision}
    changes = {"dtype": known.get(model.dtype, "float32"), **(told if path else {})}
    student: Student = config.student.model_copy(update=changes)
    if student.lora is not None:
        _require_base(student, bool(path))
    changed = config.model_copy(update={"student": student})
    require_fitting(changed)
    return changed


def _require_base(student: Student, named: bool) -> None:
    lora: Any = student.lora
    if lora.quantize != "none":
        raise ModelError(
            "student.lora.quantize: a model in memory is taken as it is; load it in four bits, or leave "
            "this out"
        )
    try:
        found = named and models.files_sha256(student.path, student.revision)
    except (ModelError, OutOfReachError):
        found = ""
    if not found:
        raise ModelError(
            "student.lora: adapters name the files of the model that they belong to, and this one in "
            "memory has none; write it by save_pretrained and name its folder as student.path"
        )
