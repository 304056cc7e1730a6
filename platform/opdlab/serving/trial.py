"""Whether a server that fails at one request works otherwise: it is asked again what it has answered."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic
from typing import Any, final

import torch

from opdlab.serving.transport import Body

TOKENS = 16
"""Of the answer that is asked for again, at most: a whole one may take an hour."""
_ANSWERED: dict[tuple[str, Any], Body] = {}
"""The last request that was answered, by address and model: each round has a client of its own."""


def remember(url: str, body: Body) -> None:
    """Keep a request that was answered, and that can be asked again."""
    _ANSWERED[url, _model(body)] = body


def can_be_asked_again(body: Body | None) -> bool:
    """Whether a request changes nothing at the server."""
    return isinstance(body, bytes) or (body is not None and bool(body.get("prompt")))


def known(url: str, body: Body) -> Body:
    """A request that this server answers if it works: one that it has answered, with a short answer.

    Before the first it is the failing one with the first token of its prompt, of a teacher's service with
    the first two of all that it is asked about, as a prompt and its answer.
    """
    answered = _ANSWERED.get((url, _model(body)))
    if isinstance(body, bytes):
        return answered or _two_tokens(body)
    assert not isinstance(answered, bytes)
    answered = answered or {**body, "prompt": body["prompt"][:1]}
    return {**answered, "max_tokens": min(answered.get("max_tokens", TOKENS), TOKENS)}


def _two_tokens(body: bytes) -> bytes:
    from opdlab.serving.wire import pack, unpack  # they use torch, which a client does not need

    asked, told = unpack(body)
    parts = ("prompt_lengths", "response_lengths")
    lengths = {part: torch.ones(1, dtype=torch.int32) for part in parts}
    return pack({"tokens": asked["tokens"][:2], **lengths}, {"vocabulary": told["vocabulary"]})


def _model(body: Body) -> Any:
    return None if isinstance(body, bytes) else body.get("model")


@final
class Trial:
    """One trial at a time for all threads, whose outcome counts for whoever failed before it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._began, self._works = -1.0, False

    def works(
        self, since: float, ask: Callable[[], object], failures: tuple[type[Exception], ...]
    ) -> bool:
        """Whether the server answers now.

        Args:
            since: when the request was sent that failed.
            ask: sends the request that is known to be answered.
            failures: that it raises where the server does not answer.
        """
        with self._lock:
            if self._began < since:
                self._began = monotonic()
                try:
                    ask()
                    self._works = True
                except failures:
                    self._works = False
            return self._works
