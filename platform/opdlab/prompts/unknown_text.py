"""How much of texts a tokenizer does not know."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LOOKED_AT = 256
"""Prompts whose text is looked at before anything is trained."""


@dataclass(frozen=True)
class Unknown:
    """How much of prompts the tokenizer does not know.

    Attributes:
        prompts, tokens: how many were looked at.
        bad_prompts, bad_tokens: how many of them hold, or are, the token for unknown text.
        example: the first text that holds one; empty for none.
    """

    prompts: int
    tokens: int
    bad_prompts: int
    bad_tokens: int
    example: str

    @property
    def most(self) -> bool:
        """Whether most of the prompts hold something unknown."""
        return 2 * self.bad_prompts > self.prompts

    def __str__(self) -> str:
        share = self.bad_tokens / max(self.tokens, 1)
        said = f"{self.bad_prompts} of {self.prompts} prompts hold unknown text, {share:.1%} of all tokens"
        return f"{said}; the first is {self.example[:80]!r}" if self.example else said


def unknown(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> Unknown:
    """How much of the texts becomes the tokenizer's token for what it does not know."""
    listed = list(texts)
    ids: Any = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in listed]
    mark = tokenizer.unk_token_id
    counts = [0 if mark is None else tokens.count(mark) for tokens in ids]
    bad = [text for text, count in zip(listed, counts, strict=True) if count]
    return Unknown(len(listed), sum(map(len, ids)), len(bad), sum(counts), bad[0] if bad else "")
