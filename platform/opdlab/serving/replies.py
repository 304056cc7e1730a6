"""What a server's answer holds, after checking that it answers what was asked, and whole."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from opdlab.errors import ServerError
from opdlab.modelling import text_of
from opdlab.serving.client import ReplyError
from opdlab.serving.dialect import Draw

PASSING = ("abort", "error")
"""Ends for reasons of the server's own, which may pass: vLLM's `error` is one that is worth another try."""
_SHOWN = 300
ROUNDING = 1e-2
"""Nats above zero that a log-probability, and that of all told tokens together, may be."""


@dataclass(frozen=True)
class Reply:
    """One completion as the server returned it.

    Attributes:
        text: without special tokens.
        tokens: how many, the EOS included.
        stop: `eos` or `length`.
        ids: the tokens themselves; None where the server does not return them.
        log_probs: of the tokens, nats; None where the server does not return them.
    """

    text: str
    tokens: int
    stop: str
    ids: tuple[int, ...] | None
    log_probs: tuple[float, ...] | None

    @classmethod
    def read(cls, stored: Mapping[str, Any]) -> Reply:
        """As `asdict` made it, through JSON; raises LookupError or TypeError for anything else."""
        ids, values = stored["ids"], stored["log_probs"]
        return cls(
            stored["text"],
            stored["tokens"],
            stored["stop"],
            None if ids is None else tuple(ids),
            None if values is None else tuple(values),
        )


def read_reply(
    answer: Any, ids: Sequence[int], draw: Draw, tokenizer: PreTrainedTokenizerBase | None
) -> Reply:
    """The completion in an answer.

    Args:
        ids: the prompt's tokens.
        tokenizer: turns returned token ids into text; None takes the server's text.

    Raises:
        ReplyError: the server read another prompt, or its answer is not whole.
    """
    choice, usage = completion(answer, ids)
    text, reason, count = (
        choice.get("text"),
        choice["finish_reason"],
        usage.get("completion_tokens"),
    )
    tokens = _token_ids(choice.get("token_ids"), draw)
    if tokens is not None and tokenizer is not None:
        text = text_of(tokenizer, tokens)
    if not isinstance(text, str):
        raise ReplyError(f"the server's answer has no text: {short(answer)}")
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ReplyError(
            "the server's answer holds half of a character, which is not a text (a surrogate)"
        )
    if reason not in ("stop", "length"):
        raise ReplyError(
            f"an answer ended by {reason!r}, neither at its end nor at the length limit"
        )
    count = len(tokens) if tokens is not None else count
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise ReplyError(f"the server does not say how many tokens it answered: {short(answer)}")
    if tokens is None and tokenizer is not None and _least(tokenizer, text) > count:
        raise ReplyError(
            f"the server says that it answered {count} tokens, and {len(text)} characters are more"
        )
    _check_length(count, reason, tokens, draw)
    # The length limit may fall on the EOS.
    ended = reason == "stop" or bool(tokens and tokens[-1] in draw.eos_ids)
    return Reply(
        text,
        count,
        "eos" if ended else "length",
        None if tokens is None else tuple(tokens),
        _log_probs(choice.get("logprobs"), len(tokens or ())),
    )


def _least(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    """Tokens that a text was made of at least: not as the tokenizer would write it, but half as many."""
    # A token may be a part of a character, each of which is shown as one.
    whole = text.replace("\ufffd", "")
    ids = tokenizer(whole, add_special_tokens=False)["input_ids"] if whole else []
    return -(-len(ids) // 2)  # pyright: ignore[reportArgumentType]


def completion(answer: Any, ids: Sequence[int]) -> tuple[Any, Any]:
    """The one completion in an answer, and its `usage`.

    Args:
        ids: the prompt's tokens.

    Raises:
        ReplyError: there is none, the server aborted it, or it read another prompt.
    """
    try:
        count, choice = len(answer["choices"]), answer["choices"][0]
        usage = answer.get("usage") or {}
        given, reason = choice.get("prompt_token_ids"), choice["finish_reason"]
        told = usage.get("prompt_tokens")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ReplyError(f"the server's answer is not a completion: {short(answer)}") from error
    if count > 1:
        # The first may be the likeliest of them.
        raise ReplyError(f"the server gave {count} answers where one was asked for")
    if reason in PASSING:
        raise ReplyError(f"the server aborted it (finish_reason: {reason})", again=True)
    check_prompt(given, told, ids)
    return choice, usage


def _token_ids(found: Any, draw: Draw) -> list[int] | None:
    """The tokens of an answer; None where the server does not return them."""
    if found is None:
        return None
    if not isinstance(found, list) or not found:
        raise ReplyError(f"the server's answer has no tokens: token_ids is {short(found)}")
    for token in found:
        if isinstance(token, bool) or not isinstance(token, int) or token < 0:
            raise ReplyError(f"the server answered token {token!r}, which is not a token's number")
        if draw.vocabulary is not None and token >= draw.vocabulary:
            raise ReplyError(
                f"the server sampled token {token}, beyond the {draw.vocabulary} of the vocabulary; it "
                "serves a model with more entries"
            )
    early = [token for token in found[:-1] if token in draw.eos_ids]
    if early:
        raise ReplyError(
            f"the server continued after the EOS {early[0]}, although the request names it in "
            "stop_token_ids"
        )
    return found


def _check_length(count: int, reason: str, tokens: list[int] | None, draw: Draw) -> None:
    """Refuse answers that end where nobody told them to."""
    last = tokens[-1] if tokens else None
    if count > draw.max_new_tokens:
        raise ReplyError(
            f"the server answered {count} tokens where {draw.max_new_tokens} were asked for at most"
        )
    if reason == "length" and count < draw.max_new_tokens and last not in draw.eos_ids:
        raise ReplyError(
            f"an answer ended by its length after {count} of {draw.max_new_tokens} tokens: the server has "
            "a limit of its own. Servers cut at their context (start them with a longer one, or ask for "
            "fewer tokens), and at max_new_tokens of --override-generation-config or of the model's "
            "generation_config.json (start vLLM with --generation-config vllm)"
        )
    if reason == "stop" and tokens is not None and last not in draw.eos_ids:
        raise ReplyError(
            f"an answer ended by token {last}, which is no EOS ({draw.eos_ids}): the server stops at "
            "something else, or cuts the EOS off"
        )


def check_prompt(returned: Any, count: Any, ids: Sequence[int]) -> None:
    """See that a server read what it was sent.

    Args:
        returned: the prompt's tokens as it tells them; None where it does not.
        count: how many it says they were; None where it does not.
        ids: what was sent.

    Raises:
        ReplyError: it read something else, or says nothing of it.
    """
    if returned is None and count is None:
        raise ReplyError(
            "the server does not say how many tokens it read the prompt as, so that it cannot be known "
            "whether it answered what was asked"
        )
    if returned is None:
        if count != len(ids):
            raise ReplyError(_read_as(f"{count} tokens", len(ids)))
    elif not isinstance(returned, list) or len(returned) != len(ids):
        size = len(returned) if isinstance(returned, list) else 0
        raise ReplyError(_read_as(f"{size} tokens", len(ids)))
    elif returned != list(ids):
        place = next(
            i for i, (told, sent) in enumerate(zip(returned, ids, strict=True)) if told != sent
        )
        other = f"other tokens (at {place} {returned[place]!r}, not {ids[place]})"
        raise ReplyError(_read_as(other, len(ids)))


def _read_as(other: str, count: int) -> str:
    return (
        f"the server read a prompt as {other} that has {count}: it serves a model with another tokenizer, "
        "or adds special tokens of its own"
    )


def _log_probs(found: Any, count: int) -> tuple[float, ...] | None:
    """Log-probabilities of the tokens.

    Raises:
        ReplyError: one is not a number, or that of no probability.
    """
    values = found.get("token_logprobs") if isinstance(found, dict) else None
    if not isinstance(values, list) or not values or len(values) != count or None in values:
        return None
    for value in values:
        if not is_log_prob(value):
            raise ReplyError(f"the server says a log-probability of {value!r}")
    return tuple(float(value) for value in values)


def is_log_prob(value: Any) -> bool:
    """Whether something that a server said is the logarithm of a probability."""
    # JSON has whole numbers beyond any float.
    return type(value) in (int, float) and -sys.float_info.max <= value <= ROUNDING


def read_scores(answer: Any, ids: Sequence[int]) -> list[float]:
    """Log-probabilities of all tokens but the first, given those before, nats.

    Raises:
        ServerError: the server does not return them.
    """
    try:
        listed = answer["choices"][0].get("prompt_logprobs")
        if not listed or len(listed) != len(ids):
            raise ServerError("the server returned no prompt_logprobs; vLLM does")
        pairs = zip(listed[1:], ids[1:], strict=True)
        return [float(row[str(token)]["logprob"]) for row, token in pairs]
    except (LookupError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise ServerError(f"the server's prompt_logprobs are none: {short(answer)}") from error


def short(answer: Any) -> str:
    """The beginning of something that a server said, for a message."""
    return str(answer)[:_SHOWN]
