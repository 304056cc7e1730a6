"""The text that cuts are scored on: a file, or what the model itself answers."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from opdlab.configuration import loader
from opdlab.errors import DataError
from opdlab.files import read_file
from opdlab.modelling import models
from opdlab.prompts import encode, open_prompts
from opdlab.sampling import CachedEngine
from opdlab.shapes import Int, Tensor

ROWS = 8
QUESTIONS = (
    "Why is the sky blue?",
    "Write a short story about a lighthouse keeper.",
    "Tom has 12 apples. He buys 7 more and gives 4 to Ann. How many apples does he have?",
    "Explain how a bicycle stays upright.",
    "Write a Python function that returns the sum of the even numbers in a list.",
    "What should I cook with rice, eggs and spinach?",
    "Summarise the causes of the First World War.",
    "Translate into French: The train leaves at nine in the morning.",
)


def sample_of(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    source: str | None,
    tokens: int,
    seed: int,
) -> list[Int[Tensor, "1 S"]]:
    """Rows of token ids on a model's device.

    Args:
        source: a text file; an experiment, whose first prompts the model answers; by default the model
            answers `QUESTIONS`.
        tokens: of all rows together, about; prompts come on top.

    Raises:
        DataError: there is too little text, or the model's tokenizer does not know the questions.
    """
    length = max(2, tokens // ROWS)
    if source is not None and source.endswith((".txt", ".md")):
        return _of_file(model, tokenizer, Path(source).expanduser(), length)
    prompts = _prompts(tokenizer, source)
    engine = CachedEngine(max_new_tokens=length)
    rollout = engine.sample(
        model,
        prompts,
        [seed + number for number in range(len(prompts))],
        eos_ids=models.eos_ids(model, tokenizer),
        pad_id=models.pad_id(model, tokenizer),
    )
    ends = (rollout.prompt_lengths + rollout.response_lengths).tolist()
    return [row[None, :end].to(model.device) for row, end in zip(rollout.tokens, ends, strict=True)]


def _of_file(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, file: Path, length: int
) -> list[Int[Tensor, "1 S"]]:
    try:
        text = read_file(file).decode()
    except (OSError, ValueError) as error:
        raise DataError(f"--sample {file}: {error}; give a text file in UTF-8") from error
    ids = torch.tensor(tokenizer(text, verbose=False)["input_ids"], device=model.device)
    if len(ids) < ROWS * length:
        raise DataError(
            f"--sample {file} has {len(ids)} tokens, and {ROWS * length} are asked for; give a longer "
            "text, or fewer --tokens"
        )
    return list(ids[: ROWS * length].reshape(ROWS, 1, length))


def _prompts(tokenizer: PreTrainedTokenizerBase, source: str | None) -> list[tuple[int, ...]]:
    if source is None:
        found = [encode(tokenizer, one, "auto") for one in QUESTIONS]
        if any(tokenizer.unk_token_id in ids for ids in found):
            raise DataError(
                "--sample: this model's tokenizer lacks characters of the built-in questions; name an "
                "experiment whose prompts it is for, or a text file"
            )
        return found
    config = loader.load_experiment(source)
    prompts = open_prompts(config.prompts, tokenizer, config.seed)
    return [prompts.prompt(number).tokens for number in range(ROWS)]
