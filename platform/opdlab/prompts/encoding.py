"""A prompt as the model reads it: token ids, and the text that they are."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from opdlab.datafiles import Message
from opdlab.errors import ModelError
from opdlab.modelling import Wording, as_wording
from opdlab.records import Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

OWN_SYSTEM = "own_system"
"""Key of a problem's `extra` that says that its own system prompt stays."""
Asked = str | Sequence[Message] | Problem
"""A text, the turns of a chat, or a problem that holds either."""


def encode(
    tokenizer: PreTrainedTokenizerBase, asked: Asked, template: Wording | str
) -> tuple[int, ...]:
    """Token ids of a prompt: special tokens included, BOS once, and the start of the answer.

    Args:
        template: how it is put to the model; the name of a template for that alone.

    Raises:
        ModelError: `chat` without a chat template, or the template takes no such messages.
    """
    wording = as_wording(template)
    if wording.template == "chat" and not tokenizer.chat_template:
        raise ModelError(
            f"the tokenizer {tokenizer.name_or_path} has no chat template; set prompts.template: none"
        )
    return as_tokens(tokenizer, rendered(tokenizer, asked, wording), wording)


def as_tokens(
    tokenizer: PreTrainedTokenizerBase, text: str, template: Wording | str
) -> tuple[int, ...]:
    """Token ids of a prompt as `rendered` gives it; see `encode`."""
    if not _templated(tokenizer, as_wording(template)):
        return _one_bos(tokenizer, _without_end(tokenizer, text))
    ids: Any = tokenizer(text, add_special_tokens=False)["input_ids"]
    return _one_bos(tokenizer, tuple(ids))


def continued(tokenizer: PreTrainedTokenizerBase, shown: str, text: str) -> list[int]:
    """Token ids of a text that follows a prompt, as the tokens of both together have them.

    Alone a text may have others: SentencePiece's puts a blank before its first word. Where a token of both
    reaches over the end of the prompt, whose tokens are fixed, the text has those of its own.

    Args:
        shown: the prompt as `rendered` gives it.
    """
    both, before, alone = (
        list(map(int, tokenizer(each, add_special_tokens=False)["input_ids"]))  # pyright: ignore[reportArgumentType]
        for each in (shown + text, shown, text)
    )
    return both[len(before) :] if both[: len(before)] == before else alone


def rendered(tokenizer: PreTrainedTokenizerBase, asked: Asked, template: Wording | str) -> str:
    """The prompt as the model reads it: with the chat template where `encode` applies it.

    Raises:
        ModelError: the chat template takes no such messages.
    """
    wording = as_wording(template)
    turns = messages_of(asked, wording.system)
    if not _templated(tokenizer, wording):
        return plain_text(turns) + wording.prefill
    from jinja2 import TemplateError

    try:
        text = tokenizer.apply_chat_template(
            [dict(turn) for turn in turns],
            add_generation_prompt=True,
            tokenize=False,
            **wording.options,
        )
    except (TemplateError, TypeError, ValueError) as error:
        roles = ", ".join(turn["role"] for turn in turns)
        raise ModelError(
            f"the chat template of {tokenizer.name_or_path} does not take messages of {roles} "
            f"({str(error).strip()[:200]}); change prompts.system, prompts.template_options or the data, "
            "or set prompts.template: none"
        ) from error
    return str(text) + wording.prefill


def _templated(tokenizer: PreTrainedTokenizerBase, wording: Wording) -> bool:
    return wording.template != "none" and bool(tokenizer.chat_template)


def messages_of(asked: Asked, system: str = "") -> list[Message]:
    """The turns of a prompt, with a system prompt in place of its own where one is given."""
    if isinstance(asked, Problem):
        system = "" if asked.extra.get(OWN_SYSTEM) else system
        asked = asked.asked
    turns: list[Message] = (
        [{"role": "user", "content": asked}] if isinstance(asked, str) else list(asked)
    )
    if not system:
        return turns
    others = [turn for turn in turns if turn["role"] not in ("system", "developer")]
    return [{"role": "system", "content": system}, *others]


def plain_text(turns: Sequence[Message]) -> str:
    """Turns as one text: a user's alone as it is, after the system's if there is one; more with roles."""
    system = [turn["content"] for turn in turns if turn["role"] in ("system", "developer")]
    others = [turn for turn in turns if turn["role"] not in ("system", "developer")]
    if len(others) == 1:
        return "\n\n".join([*system, others[0]["content"]])
    said = [f"{turn['role'].capitalize()}: {turn['content']}" for turn in others]
    return "\n\n".join([*system, *said, "Assistant:"])


def require_wording(tokenizer: PreTrainedTokenizerBase, template: Wording | str) -> None:
    """Refuse options that the chat template does not read: it would ignore them without a word.

    Raises:
        ModelError: naming the option.
    """
    options: Mapping[str, Any] = as_wording(template).options
    if not options:
        return
    if not _templated(tokenizer, as_wording(template)):
        raise ModelError(
            "prompts.template_options: no chat template is applied (the tokenizer "
            f"{tokenizer.name_or_path} has none, or prompts.template is none); remove them"
        )
    text = str(tokenizer.chat_template)
    for name in options:
        if not re.search(rf"\b{re.escape(name)}\b", text):
            raise ModelError(
                f"prompts.template_options.{name}: the chat template of {tokenizer.name_or_path} reads no "
                f"`{name}`, so it would change nothing; correct its name or remove it"
            )


def _without_end(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    """Token ids of a text to be gone on with: an EOS that the tokenizer appends would end it."""
    ids: Any = tokenizer(text)["input_ids"]
    own: Any = tokenizer(text, add_special_tokens=False)["input_ids"]
    eos = tokenizer.eos_token_id
    # An EOS that the text itself ends in stays.
    kept = next((n for n, token in enumerate(reversed(own)) if token != eos), len(own))
    added = next((n for n, token in enumerate(reversed(ids)) if token != eos), len(ids) - 1)
    return tuple(ids[: len(ids) - max(0, added - kept)])


def _one_bos(tokenizer: PreTrainedTokenizerBase, ids: tuple[int, ...]) -> tuple[int, ...]:
    """A text that begins with BOS itself gets no second one, from the tokenizer or the template."""
    bos = tokenizer.bos_token_id
    while bos is not None and ids[:2] == (bos, bos):
        ids = ids[1:]
    return ids
