"""What a served model says to a few fixed prompts: other weights under the same name show in it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

from transformers import PreTrainedTokenizerBase

from opdlab import identity
from opdlab.errors import DataError
from opdlab.identity import digest
from opdlab.prompts import encode, rendered
from opdlab.serving.client import Client
from opdlab.serving.dialect import (
    TOKEN_SERVERS,
    Draw,
    Identity,
    completion_body,
    prompt_text,
    read_reply,
)

PROMPTS = ("The capital of France is", "12+7=", "def area(r):\n    return", "Once upon a time")
TOKENS = 12
LARGEST_GAP = 0.05
"""Mean difference in nats that the same weights show: servers batch, and round, as they please."""
PRINTS = "fingerprint"


@final
@dataclass(frozen=True)
class Prints:
    """The likeliest answers to the fixed prompts.

    Attributes:
        texts: one a prompt.
        log_probs: of their tokens, nats; empty where the server does not return them.
    """

    texts: tuple[str, ...]
    log_probs: tuple[tuple[float, ...], ...] = ()

    @property
    def id(self) -> str:
        return digest(asdict(self))

    def plain(self) -> str:
        """As it is stored."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, stored: str) -> Prints:
        """Raises ValueError or TypeError where it is none."""
        told = json.loads(stored)
        return cls(tuple(told["texts"]), tuple(map(tuple, told["log_probs"])))

    def like(self, other: Prints) -> bool:
        """Whether the same weights may have said both."""
        if not (self.log_probs and other.log_probs):
            return self.texts == other.texts
        gaps = [
            abs(mine - theirs)
            for rows in zip(self.log_probs, other.log_probs, strict=True)
            for mine, theirs in zip(*rows, strict=False)
        ]
        # Rounding turns a tie another way; from there on the two speak of different texts.
        same = self.texts == other.texts
        first = [abs(a[0] - b[0]) for a, b in zip(self.log_probs, other.log_probs, strict=True)]
        shown = gaps if same else first
        return sum(shown) / len(shown) < LARGEST_GAP


def take(
    client: Client, server: Identity, tokenizer: PreTrainedTokenizerBase, ends: Sequence[int]
) -> Prints:
    """Ask a server for its fingerprint.

    Raises:
        ServerError: it refuses, or does not answer.
    """
    draw = Draw(0.0, 1.0, TOKENS, tuple(ends), ends[0])
    replies = []
    for text in PROMPTS:
        ids = encode(tokenizer, text, "none")
        shown = rendered(tokenizer, text, "none")
        if server.software not in TOKEN_SERVERS:
            shown = prompt_text(tokenizer, ids, shown)
        body = completion_body(server, draw, ids, shown, 0, log_probs=True)
        answer = client.post(client.access.api("/completions"), body)
        replies.append(read_reply(answer, ids, draw, tokenizer))
    texts = tuple(reply.text for reply in replies)
    told = tuple(reply.log_probs or () for reply in replies)
    return Prints(texts, told if all(told) else ())


def as_known(prints: Prints, server: dict[str, Any], output: Path) -> Prints:
    """The fingerprint under which the same weights of this server were measured before, or this one.

    Args:
        server: what it says it is.
        output: folder of runs; its evaluations are looked through.
    """
    return next((one for one in _known(server, output) if one.like(prints)), prints)


def _known(server: dict[str, Any], output: Path) -> Iterable[Prints]:
    for path in sorted((output / "evaluations").glob(f"*/samples/{identity.MEASUREMENTS}")):
        try:
            measured = identity.read(path.parent)
        except DataError:
            continue  # whoever reads that folder is told
        for one in measured:
            theirs = {k: v for k, v in one.subject.server.items() if k != PRINTS}
            if theirs == server and PRINTS in one.software:
                yield Prints.read(one.software[PRINTS])
