"""The training itself, for a `lightning.Trainer` of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from opdlab.api.commands import as_experiment
from opdlab.errors import DataError, ModelError
from opdlab.methods import Method
from opdlab.prompts import ListedPrompts, Text
from opdlab.training import Distillation, load_module, load_pair

if TYPE_CHECKING:
    from datasets import Dataset

    from opdlab.configuration import Experiment


def distillation(
    experiment: Experiment | str | Path,
    *,
    method: Method | None = None,
    student: PreTrainedModel | None = None,
    teacher: PreTrainedModel | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    prompts: Sequence[Text] | Dataset | None = None,
    column: str = "prompt",
) -> Distillation:
    """The LightningModule that an experiment trains, with models and prompts of one's own if wanted.

    `lightning.Trainer(max_steps=...).fit(module)` trains it; metrics go to the trainer's loggers. After it
    `module.settle()` gives the student the averaged weights, where `training.average` asks for some.

    Args:
        experiment: its first run: method, sampling and settings of training.
        method: in place of the experiment's; it need not be installed as a plugin.
        student, teacher: models in memory, in place of the experiment's; they are used as they are, and the
            student is trained in place.
        tokenizer: theirs; needed with either.
        prompts: texts or chats, or a data set with a `column` of them, in place of the experiment's. They
            cannot be graded.

    Raises:
        DataError: no prompts, or ones that are neither; or the method needs graded answers.
        ModelError: the pair does not fit together.

    Example:
        >>> module = distillation("quickstart", prompts=["1+2=", "3+4="])
        >>> import lightning
        >>> lightning.Trainer(max_steps=10).fit(module)  # doctest: +SKIP
    """
    from opdlab.configuration import loader

    config = as_experiment(experiment)
    _, config = loader.variants(config)[0]
    if (student is not None or teacher is not None) and tokenizer is None:
        raise ModelError("distillation: models in memory need their tokenizer=...")
    own = [None if one is None else (one, tokenizer) for one in (student, teacher)]
    pair = load_pair(config, *own)  # pyright: ignore[reportArgumentType]
    if method is not None:
        config = config.model_copy(update={"method": method})
    return load_module(pair, config, _source(prompts, column, pair.tokenizer, config))


def _source(
    prompts: Sequence[Text] | Dataset | None, column: str, tokenizer: Any, config: Experiment
) -> ListedPrompts | None:
    if prompts is None:
        return None
    if config.method.graded:
        raise DataError("distillation: the method needs graded answers, and a list has no grader")
    given: Any = prompts
    if (names := getattr(given, "column_names", None)) is not None:
        if column not in names:
            raise DataError(
                f"distillation: the data set has no column {column!r}; its columns: {', '.join(names)}"
            )
        given = given[column]
    return ListedPrompts(list(given), tokenizer, config.prompts.wording, config.seed)
