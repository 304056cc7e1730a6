"""Prompts that a program has in memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from opdlab.errors import DataError
from opdlab.modelling import Wording
from opdlab.prompts.source import PromptSource
from opdlab.records import Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Text = str | Sequence[Mapping[str, str]]
"""A prompt: its text, or the turns of a chat (`role`, `content`)."""


class ListedPrompts(PromptSource):
    """Texts, or chats, shuffled anew in every pass.

    Raises:
        DataError: there are none, or one is neither.
    """

    def __init__(
        self,
        prompts: Sequence[Text],
        tokenizer: PreTrainedTokenizerBase,
        template: Wording | str,
        seed: int,
    ) -> None:
        super().__init__(tokenizer, template, seed)
        self.prompts = list(prompts)
        if not self.prompts:
            raise DataError("prompts: the list is empty; give at least one")
        for place, one in enumerate(self.prompts):
            if not (one.strip() if isinstance(one, str) else _is_chat(one)):
                raise DataError(
                    f"prompts: number {place} is {one!r:.80}; give a text that is not empty, or a list of "
                    'turns such as {"role": "user", "content": "..."}'
                )
        self.count = len(self.prompts)

    def problem(self, index: int) -> Problem:
        epoch, place = divmod(index, len(self.prompts))
        number = int(_shuffled(self.seed, epoch, len(self.prompts))[place])
        one = self.prompts[number]
        if isinstance(one, str):
            return Problem("prompts", str(number), one, None)
        messages = [dict(turn) for turn in one]
        return Problem(
            "prompts", str(number), messages[-1]["content"], None, {"messages": messages}
        )

    def manifest(self) -> dict[str, Any]:
        texts = json.dumps([one if isinstance(one, str) else list(one) for one in self.prompts])
        return {"count": self.count, "sha256": hashlib.sha256(texts.encode()).hexdigest()}


@lru_cache(maxsize=4)
def _shuffled(seed: int, epoch: int, count: int) -> np.ndarray:
    """The order of a pass."""
    return np.random.default_rng((seed, epoch)).permutation(count)


def _is_chat(one: object) -> bool:
    """Whether it is turns with text, of which there are some."""
    return isinstance(one, Sequence) and bool(one) and all(map(_is_turn, one))


def _is_turn(one: object) -> bool:
    return isinstance(one, Mapping) and all(
        isinstance(one.get(key), str) for key in ("role", "content")
    )
