"""What a served teacher is asked, and what its answers hold, after checking that they are whole.

vLLM's `prompt_logprobs` are those of the tokens of a prompt, with the likeliest tokens at each place, and
`logprobs` those after it. Both are asked for by token id, at temperature 1 and with nothing cut off.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final, overload

from opdlab.serving.client import ReplyError
from opdlab.serving.dialect import NO_PENALTY, OFF
from opdlab.serving.identify import Identity
from opdlab.serving.replies import ROUNDING, completion, is_log_prob, short

NEVER = -9990.0
"""vLLM writes -9999 for a token that the model rules out: JSON has no infinity."""
MARK = "token_id:"
LONGEST = 18
"""Digits of a token's number, which fits 64 bits."""

Top = list[tuple[int, float]]
"""Tokens and log-probabilities, likeliest first."""


@dataclass(frozen=True)
class Said:
    """What a server says of one answer of n tokens.

    Attributes:
        log_prob: of each token, nats; n.
        tops: the likeliest tokens before each token and after the last; n + 1.
    """

    log_prob: list[float]
    tops: list[Top]


@final
class Bodies(Sequence[dict[str, Any]]):
    """Requests that are made when they are sent: a step's candidates hold its answers many times over."""

    def __init__(self, size: int, make: Callable[[int], dict[str, Any]]) -> None:
        self.size, self.make = size, make

    def __len__(self) -> int:
        return self.size

    @overload
    def __getitem__(self, place: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[dict[str, Any]]: ...
    def __getitem__(self, place: int | slice) -> dict[str, Any] | Sequence[dict[str, Any]]:
        if isinstance(place, slice):
            return [self.make(one) for one in range(self.size)[place]]
        return self.make(range(self.size)[place])


def scoring_body(server: Identity, ids: Sequence[int], top: int) -> dict[str, Any]:
    """A request for the log-probability of every token, and for the likeliest at each place."""
    return after_body(server, ids, top) | {"prompt_logprobs": top}


def after_body(server: Identity, ids: Sequence[int], top: int) -> dict[str, Any]:
    """A request for the likeliest tokens after some."""
    return {
        "model": server.model,
        "prompt": list(ids),
        "max_tokens": 1,
        "temperature": 1.0,
        "top_p": 1.0,
        "seed": 0,
        **NO_PENALTY,
        **OFF["vllm"],
        "logprobs": top,
        # Names of tokens are not unique.
        "return_tokens_as_token_ids": True,
        "return_token_ids": True,
    }


def read_said(answer: Any, ids: Sequence[int], first: int, top: int) -> Said:
    """What an answer says of the tokens from a place on.

    Args:
        ids: all tokens that were sent.
        first: place of the first that is scored.
        top: likeliest tokens that were asked for.

    Raises:
        ReplyError: the server read other tokens, or its answer is not whole.
    """
    choice, _ = completion(answer, ids)
    listed = choice.get("prompt_logprobs")
    if not isinstance(listed, list) or len(listed) != len(ids):
        size = len(listed) if isinstance(listed, list) else "no"
        raise ReplyError(
            f"the server returned {size} prompt_logprobs for {len(ids)} tokens; a teacher must be a vLLM "
            "that returns them"
        )
    rows = [_by_id(row) for row in listed[first:]]
    log_prob = []
    for row, token in zip(rows, ids[first:], strict=True):
        if token not in row:
            raise ReplyError(f"the server's prompt_logprobs lack token {token}, which it was sent")
        log_prob.append(row[token])
    tops = [_likeliest(row, top) for row in rows]
    return Said(log_prob, [*tops, _after(choice, top)])


def read_after(answer: Any, ids: Sequence[int], top: int) -> Top:
    """The likeliest tokens after what was sent.

    Raises:
        ReplyError: the server read other tokens, or its answer is not whole.
    """
    return _after(completion(answer, ids)[0], top)


def _after(choice: Mapping[str, Any], top: int) -> Top:
    found = choice.get("logprobs")
    listed = found.get("top_logprobs") if isinstance(found, dict) else None
    if not isinstance(listed, list) or not listed or not isinstance(listed[0], dict):
        raise ReplyError("the server returned no logprobs of the likeliest tokens after a prompt")
    named = {name: {"logprob": value} for name, value in listed[0].items()}
    return _likeliest(_by_id(named), top)


def _by_id(row: Any) -> dict[int, float]:
    """Log-probabilities by token id; raises ReplyError where they are none."""
    if not isinstance(row, dict) or not row:
        raise ReplyError(f"the server's log-probabilities of a place are {short(row)}")
    found: dict[int, float] = {}
    for name, cell in row.items():
        number = str(name).removeprefix(MARK)
        value: Any = cell.get("logprob") if isinstance(cell, dict) else None
        if not (number.isascii() and number.isdigit() and len(number) <= LONGEST):
            raise ReplyError(f"the server names a token {name!r:.80}, not by its id")
        if not is_log_prob(value):
            raise ReplyError(f"the server says a log-probability of {value!r}")
        found[int(number)] = -math.inf if value < NEVER else float(value)
    return found


def _likeliest(row: Mapping[int, float], top: int) -> Top:
    """The tokens that were asked for; the sampled one may come in addition."""
    ordered = sorted(row.items(), key=lambda one: -one[1])[:top]
    if len(ordered) < top:
        raise ReplyError(f"the server tells {len(ordered)} likeliest tokens of the {top} asked for")
    if sum(math.exp(value) for _, value in ordered) > 1 + ROUNDING:
        raise ReplyError("the server's probabilities of the likeliest tokens exceed 1 together")
    return ordered
