"""What a served model says to a few fixed prompts: other weights under the same name show in it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, final

from transformers import PreTrainedTokenizerBase

from opdlab import identity
from opdlab.errors import DataError, RefusedError, ServerError, UnservedError, naming_requests
from opdlab.identity import digest
from opdlab.prompts import encode, rendered
from opdlab.serving import Ask, Draw, Reply, Session, prompt_text

PROMPTS = ("The capital of France is", "12+7=", "def area(r):\n    return", "Once upon a time")
TOKENS = 24
REPEATS = 2
"""Requests for each prompt that are under way at once when a server's rounding is looked at."""
SMALLEST_GAP, LARGEST_GAP = 1e-4, 0.05
"""Differences in nats that are always, and never, laid to rounding."""
ROUNDINGS = 3.0
"""The same weights differ by less than so many times what the server differs from itself."""
PRINTS = "fingerprint"


@final
@dataclass(frozen=True)
class Prints:
    """The likeliest answers to the fixed prompts.

    Attributes:
        texts: one a prompt.
        tokens, log_probs: their tokens, and how likely each is, nats; empty where the server returns none.
        rounding: how far the server is from itself, root mean square in nats: with other requests beside it
            a prompt is computed in another order.
    """

    texts: tuple[str, ...]
    tokens: tuple[tuple[int, ...], ...] = ()
    log_probs: tuple[tuple[float, ...], ...] = ()
    rounding: float = 0.0

    @property
    def id(self) -> str:
        return digest(asdict(self))

    def plain(self) -> str:
        """As it is stored."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, stored: str) -> Prints:
        """Raises ValueError, TypeError or LookupError where it is none."""
        told = json.loads(stored)
        ids, values = (tuple(map(tuple, told[name])) for name in ("tokens", "log_probs"))
        return cls(tuple(map(str, told["texts"])), ids, values, float(told["rounding"]))

    def like(self, other: Prints) -> bool:
        """Whether the same weights may have said both."""
        if not (self.log_probs and other.log_probs):
            return self.texts == other.texts
        rounding = ROUNDINGS * max(self.rounding, other.rounding)
        return self.gap(other) <= min(max(SMALLEST_GAP, rounding), LARGEST_GAP)

    def gap(self, other: Prints) -> float:
        """Root mean square difference of log-probabilities, up to where the answers part, nats.

        Where the same weights part, rounding decided a tie: what each went on with is equally likely.
        """
        squares = []
        for row in zip(self.tokens, other.tokens, self.log_probs, other.log_probs, strict=True):
            for mine, theirs, a, b in zip(*row, strict=False):
                squares.append((a - b) ** 2)
                if mine != theirs:
                    break
        return (sum(squares) / len(squares)) ** 0.5


def take(
    session: Session, tokenizer: PreTrainedTokenizerBase, ends: Sequence[int], alone: bool = False
) -> Prints:
    """Ask a server for its fingerprint: every prompt alone, then all beside each other.

    Args:
        alone: without the second, so that its rounding is not known.

    Raises:
        ServerError: it refuses, or does not answer.
    """
    draw = Draw(0.0, 1.0, TOKENS, tuple(ends), ends[0])
    asks = []
    for text in PROMPTS:
        ids, shown = encode(tokenizer, text, "none"), rendered(tokenizer, text, "none")
        if not session.takes_tokens:
            shown = prompt_text(tokenizer, ids, shown)
        asks.append(Ask(ids, 0, shown))

    def answers(some: Sequence[Ask], at_once: int | None = None) -> list[Reply]:
        found: dict[int, Reply] = {}
        with _fixed(lambda row: PROMPTS[row % len(PROMPTS)]):
            session.complete(
                draw, some, found.__setitem__, tokenizer=tokenizer, log_probs=True, at_once=at_once
            )
        return [found[place] for place in range(len(some))]

    found = _prints(answers(asks, at_once=1))
    if alone or not found.log_probs:
        return found
    # Each by turns: of several servers behind one address another one answers.
    beside = answers([one for one in asks for _ in range(REPEATS)])
    rows = [beside[first::REPEATS] for first in range(REPEATS)]
    return replace(found, rounding=max(found.gap(_prints(row)) for row in rows))


def repeats(session: Session, tokenizer: PreTrainedTokenizerBase, ends: Sequence[int]) -> bool:
    """Whether a prompt is answered alike twice with one seed: some servers draw by one of their own.

    Raises:
        ServerError: it refuses, or does not answer.
    """
    ids = encode(tokenizer, PROMPTS[-1], "none")
    shown = rendered(tokenizer, PROMPTS[-1], "none")
    text = shown if session.takes_tokens else prompt_text(tokenizer, ids, shown)
    found: dict[int, Reply] = {}
    draw = Draw(1.0, 1.0, TOKENS, tuple(ends), ends[0])
    twice = [Ask(ids, 0, text)] * 2
    with _fixed(lambda _: PROMPTS[-1]):
        session.complete(draw, twice, found.__setitem__, tokenizer=tokenizer, at_once=1)
    return found[0].text == found[1].text


@contextmanager
def _fixed(prompt: Callable[[int], str]) -> Iterator[None]:
    """Say of refused requests which fixed prompt it was: their rows are none of what is measured."""
    try:
        with naming_requests(lambda row: f"the fixed prompt {prompt(row)!r}"):
            yield
    except RefusedError as error:
        kind = UnservedError if error.unusable else ServerError
        raise kind(str(error)) from error


def _prints(replies: Sequence[Reply]) -> Prints:
    texts = tuple(reply.text for reply in replies)
    ids, told = (
        tuple(row or () for row in column)
        for column in zip(*((reply.ids, reply.log_probs) for reply in replies), strict=True)
    )
    return Prints(texts, ids, told) if all(ids) and all(told) else Prints(texts)


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
            if theirs == server:
                with suppress(ValueError, TypeError, LookupError):
                    yield Prints.read(one.software[PRINTS])
