"""`exact`: the answer is the reference answer, letter for letter."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import Any

from opdlab.plugins import Grader
from opdlab.records import Problem, Verdict, option
from opdlab_evaluators.graders.references import number_text, said


@dataclass(frozen=True)
class ExactText(Grader):
    """A text, equal but for whitespace, case and a final full stop."""

    whole: bool = option(
        False, "Compare the whole completion, not what it names as its answer or its last line."
    )
    case: bool = option(False, "Tell capitals from small letters.")

    @property
    def version(self) -> str:
        return f"exact-1{'-whole' if self.whole else ''}{'-case' if self.case else ''}"

    def gold(self, value: Any) -> list[str]:
        """The reference answer, or a list of those that are all right."""
        listed = value if isinstance(value, list) else [value]
        texts = [str(one).lower() if isinstance(one, bool) else number_text(one) for one in listed]
        if not texts or not all(text.strip() for text in texts):
            raise ValueError("it is empty")
        return texts

    def grade(self, problem: Problem, completion: str) -> Verdict:
        answer = completion.strip() if self.whole else said(completion)
        if not answer:
            return Verdict("no_answer", reason="nothing is said")
        right = self._plain(answer) in {self._plain(gold) for gold in problem.gold}
        return Verdict("correct" if right else "wrong", answer)

    def _plain(self, text: str) -> str:
        text = " ".join(unicodedata.normalize("NFC", text).split()).removesuffix(".").strip()
        return text if self.case else text.casefold()

    def right_answer(self, problem: Problem) -> str | None:
        return problem.gold[0]
