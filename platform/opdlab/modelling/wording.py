"""How a prompt is put to a model: chat template and its options, system prompt, start of the answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Wording:
    """What stands around a prompt's own text.

    As a text it is part of every measurement's protocol: `auto` alone, or followed by all that is set.

    Attributes:
        template: `chat` applies the tokenizer's chat template, `none` does not, `auto` does where there is
            one.
        options: what the template is given beside the messages, such as `enable_thinking`.
        system: system prompt, in place of a prompt's own; empty for none.
        prefill: text with which every answer begins; the model goes on from it.
    """

    template: str = "auto"
    options: Mapping[str, Any] = field(default_factory=dict)
    system: str = ""
    prefill: str = ""

    def __str__(self) -> str:
        told = {"options": dict(self.options), "system": self.system, "prefill": self.prefill}
        told = {name: value for name, value in told.items() if value}
        if not told:
            return self.template
        return f"{self.template} {json.dumps(told, sort_keys=True, ensure_ascii=False)}"

    @classmethod
    def read(cls, text: str) -> Wording:
        """The wording that a text as above tells."""
        template, _, told = text.partition(" ")
        return cls(template, **json.loads(told or "{}"))


def as_wording(template: Wording | str) -> Wording:
    """A wording, which the name of a template alone may stand for."""
    return Wording(template) if isinstance(template, str) else template
