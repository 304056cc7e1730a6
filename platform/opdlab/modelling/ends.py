"""The token that ends an answer where nobody said one: as the chat template closes a turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from opdlab.modelling.wording import Wording, as_wording

_TURN = "opdlab-turn"


def closing(
    tokenizer: PreTrainedTokenizerBase, ends: Sequence[int], template: Wording | str = "auto"
) -> int:
    """Of a model's ends, the one that its answers are trained to have.

    It is the one by which the chat template closes an assistant's turn, where it is applied and names one;
    else the tokenizer's EOS, else the first. A template's is another than the tokenizer's in Gemma, say.

    Args:
        ends: tokens by which the model ends its answers.
        template: how prompts are put to the model.
    """
    found = [token for token in _after_a_turn(tokenizer, as_wording(template)) if token in ends]
    eos = tokenizer.eos_token_id
    return next(iter([*found, *([eos] if isinstance(eos, int) and eos in ends else []), ends[0]]))


def _after_a_turn(tokenizer: PreTrainedTokenizerBase, wording: Wording) -> list[int]:
    """Tokens that the chat template writes after what an assistant says; none where it is not applied."""
    if wording.template == "none" or not tokenizer.chat_template:
        return []
    turns = [{"role": "user", "content": "1"}, {"role": "assistant", "content": _TURN}]
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False, **wording.options)
    except (TemplateError, TypeError, ValueError):
        # One that takes no answers says nothing of their end.
        return []
    _, said, rest = str(text).rpartition(_TURN)
    ids: Any = tokenizer(rest, add_special_tokens=False)["input_ids"] if said else []
    return list(ids)
