"""One served model while it is asked, by whoever asks: rollouts, evaluations, fingerprints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

from transformers import PreTrainedTokenizerBase

from opdlab.serving.access import Access
from opdlab.serving.client import Client
from opdlab.serving.dialect import Draw, completion_body
from opdlab.serving.identify import NAMING, TOKEN_SERVERS, Identity, identify
from opdlab.serving.replies import Reply, read_reply


@dataclass(frozen=True)
class Ask:
    """One prompt, as tokens and, for servers that take no tokens, as a text that gives these."""

    ids: Sequence[int]
    seed: int
    text: str = ""


@final
@dataclass(frozen=True)
class Session:
    """A client, and what the server said it is: every answer that counts comes through here."""

    client: Client
    server: Identity

    @classmethod
    def open(
        cls,
        access: Access,
        wanted: str | None,
        usual: str | None = None,
        naming: str = NAMING,
    ) -> Session:
        """Ask who is there (see `identify`); raises ServerError."""
        client = Client(access)
        return cls(client, identify(client, wanted, usual, naming))

    @property
    def takes_tokens(self) -> bool:
        """Whether prompts go over as token ids, and answers come back as such."""
        return self.server.software in TOKEN_SERVERS

    @property
    def alone(self) -> bool:
        """Whether one request may be under way at a time: `transformers serve` works on one, and its seed
        is the whole process's, so that another would change what this one draws."""
        return self.server.software == "transformers"

    def complete(
        self,
        draw: Draw,
        asks: Sequence[Ask],
        on_reply: Callable[[int, Reply], None],
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        log_probs: bool = False,
        at_once: int | None = None,
        on_tick: Callable[[], None] | None = None,
    ) -> None:
        """One checked completion of each prompt, in whatever order; raises what `Client.post_all` does.

        Args:
            on_reply: called with the place and the completion.
            tokenizer: turns token ids into text; None takes the server's text.
        """
        bodies = [
            completion_body(self.server, draw, one.ids, one.text, one.seed, log_probs)
            for one in asks
        ]

        def came(place: int, answer: Any) -> None:
            on_reply(place, read_reply(answer, asks[place].ids, draw, tokenizer))

        url = self.client.access.api("/completions")
        self.client.post_all(url, bodies, came, on_tick, 1 if self.alone else at_once)
