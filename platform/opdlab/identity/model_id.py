"""Who answered: a model, known by what decides its answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, final

from opdlab.files import built
from opdlab.identity.digests import digest


def network(weights: str, config: str, tokenizer: str) -> str:
    """Digest of a model's weights, settings and tokenizer."""
    return digest([weights, config, tokenizer])


@final
@dataclass(frozen=True, kw_only=True)
class ModelId:
    """A model with all that decides what it says to a prompt, but for the sampling.

    Attributes:
        weights: SHA-256 of names, types and values of the weights; empty behind a server.
        config: digest of the architecture and its settings, such as the rotary base; empty behind a server.
        tokenizer: digest of how text becomes tokens and back, special tokens included.
        template: digest of the chat template; of `none`, of that word.
        ends: tokens that end an answer.
        entries: vocabulary entries that it answers from; None for all.
        server: what a server says it is, and its fingerprint; empty in this process.
        name: where it was loaded from; for people alone, so two ids may differ in it and be equal.
        trained_by: id of the execution that made it; empty where no training here did.
    """

    weights: str
    tokenizer: str
    template: str
    ends: tuple[int, ...]
    config: str = ""
    entries: int | None = None
    server: Mapping[str, str] = field(default_factory=dict)
    name: str = ""
    trained_by: str = ""

    @property
    def key(self) -> str:
        """Equal for models that answer alike."""
        told = asdict(self)
        return digest({k: v for k, v in told.items() if k not in ("name", "trained_by")})

    @property
    def model(self) -> str:
        """Equal for the same network and tokenizer, however they are prompted; behind a server, `key`."""
        return network(self.weights, self.config, self.tokenizer) if self.weights else self.key

    @classmethod
    def read(cls, stored: Mapping[str, Any]) -> ModelId:
        """From plain values; raises TypeError where it is another version's."""
        return replace(built(cls, stored), ends=tuple(stored["ends"]))
