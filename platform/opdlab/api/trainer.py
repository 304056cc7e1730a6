"""The training itself, for a `lightning.Trainer` of one's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from opdlab.api.commands import as_experiment
from opdlab.api.in_memory import require_apart, require_model, with_student
from opdlab.configuration import require_fitting
from opdlab.console import quieten
from opdlab.errors import ConfigError, DataError, ModelError
from opdlab.methods import Method
from opdlab.plugins import declared
from opdlab.prompts import ListedPrompts, Text
from opdlab.training import Distillation, load_module, load_pair, require_askable

if TYPE_CHECKING:
    from datasets import Dataset

    from opdlab.configuration import Experiment
    from opdlab.training import Loaded


def distillation(
    experiment: Experiment | str | Path,
    *,
    method: Method | None = None,
    student: PreTrainedModel | None = None,
    teacher: PreTrainedModel | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    prompts: Iterable[Text] | Dataset | None = None,
    column: str = "prompt",
) -> Distillation:
    """The LightningModule that an experiment trains, optionally with your own models and prompts.

    `lightning.Trainer().fit(module)` trains it for `training.steps`, or for `max_steps` if that is fewer;
    metrics go to the Trainer's loggers and callbacks. `fit(module, ckpt_path=...)` resumes. After the last
    step `module.settle()` gives the student the averaged weights, if `training.average` asks for them, and
    `module.save(folder)` writes it. Devices and precision are the Trainer's; clipping is
    `training.gradient_clip`, and a step has `training.prompts_per_step` prompts over all devices.

    Args:
        experiment: its first run provides method, sampling and training settings.
        method: instead of the experiment's; it does not have to be installed as a plugin.
        student: a model in memory, instead of the experiment's; it is trained in place.
        teacher: a model in memory, instead of the experiment's; it is used unchanged.
        tokenizer: of these models; required with either.
        prompts: texts or chats, or a data set or table, instead of the experiment's. They cannot be graded.
        column: name of the prompts' column in a data set or table.

    Returns:
        The module; its `student` is trained, its `teacher` is frozen.

    Raises:
        ConfigError: the method, or the number format of the student, does not fit the experiment.
        DataError: no prompts, or ones that are neither; or the method needs graded answers.
        ModelError: the pair does not fit together, no weight is trained, or a prompt is too long.

    Examples:
        >>> module = distillation("quickstart", prompts=["1+2=", "3+4="])
        >>> import lightning
        >>> lightning.Trainer(max_steps=10).fit(module)  # doctest: +SKIP
    """
    from opdlab.configuration import loader

    quieten()
    config = as_experiment(experiment)
    config = loader.variants(config)[0][1]
    if method is not None:
        config = _with_method(config, method)
    own, taught = _pairs(student, teacher, tokenizer)
    if own is not None:
        config = with_student(config, own[0])
    given = None if prompts is None else _listed(prompts, column, config)
    pair = load_pair(config, own, taught)
    require_apart(pair.student, pair.teacher)
    listed = None
    if given is not None:
        listed = ListedPrompts(given, pair.tokenizer, config.prompts.wording, config.seed)
    module = load_module(pair, config, listed)
    require_askable(module.prompts, config, pair)
    return module


def _with_method(config: Experiment, method: Method) -> Experiment:
    if not isinstance(method, Method):
        raise ConfigError(
            f"distillation: method={method!r:.80} is not a method; give an instance, such as LGR(top_k=4)"
        )
    declared.method(method)
    changed = config.model_copy(update={"method": method})
    require_fitting(changed)
    return changed


def _pairs(
    student: PreTrainedModel | None,
    teacher: PreTrainedModel | None,
    tokenizer: PreTrainedTokenizerBase | None,
) -> tuple[Loaded | None, Loaded | None]:
    """Models in memory with their tokenizer."""
    given = {"student": student, "teacher": teacher}
    checked = {name: require_model(name, one) for name, one in given.items() if one is not None}
    if (tokenizer is None) == bool(checked):
        raise ModelError(
            "distillation: models in memory and their tokenizer=... belong together; give both or neither"
        )
    if tokenizer is None:
        return None, None
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise ModelError(
            f"distillation: tokenizer={tokenizer!r:.80} is not a tokenizer; load it by "
            "AutoTokenizer.from_pretrained"
        )
    own, taught = (checked.get(name) for name in given)
    return own and (own, tokenizer), taught and (taught, tokenizer)


def _listed(prompts: Iterable[Text] | Dataset, column: str, config: Experiment) -> list[Text]:
    """Prompts in memory as a list."""
    if config.method.graded:
        raise DataError("distillation: the method needs graded answers, and a list has no grader")
    if config.prompts.type == "dataset" and config.prompts.given:
        raise DataError(
            "distillation: prompts.given needs answers, and a list has none; set it to 0"
        )
    if config.specialists:
        raise DataError(
            "distillation: specialists teach domains, and a list has none; leave them out"
        )
    given: Any = prompts
    # Of a `datasets.Dataset`, and of a table of pandas or polars.
    names = getattr(given, "column_names", getattr(given, "columns", None))
    if isinstance(given, Mapping):
        splits = ", ".join(map(str, given))
        raise DataError(
            f"distillation: prompts are a mapping; give one of its values: {splits:.200}"
        )
    if names is not None:
        if column not in list(names):
            known = ", ".join(map(str, names))
            raise DataError(
                f"distillation: the data set has no column {column!r}; its columns: {known}"
            )
        given = given[column]
    if isinstance(given, str | bytes | Set) or not isinstance(given, Iterable):
        kind = type(given).__name__
        raise DataError(f"distillation: prompts are a {kind}; give a list of texts or of chats")
    return list(given)
