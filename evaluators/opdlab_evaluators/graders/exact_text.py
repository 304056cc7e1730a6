"""`exact`: the answer is the reference answer, letter for letter."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import Any

from opdlab.plugins import Grader
from opdlab.records import Problem, Verdict, option
from opdlab_evaluators.graders.references import bare_text, number_text, said, text_list


@dataclass(frozen=True)
class ExactText(Grader):
    """A text, equal but for whitespace, case, a final full stop and marks around it (`**`, quotes, `$`)."""

    whole: bool = option(
        False, "Compare the whole completion, not what it names as its answer or its last line."
    )
    case: bool = option(False, "Compare case-sensitively.")

    @property
    def version(self) -> str:
        return f"exact-2{'-whole' if self.whole else ''}{'-case' if self.case else ''}"

    def gold(self, value: Any) -> list[str]:
        """The reference answer, or a list of those that are all right."""
        value = text_list(value)
        listed = value if isinstance(value, list) else [value]
        texts = [str(one).lower() if isinstance(one, bool) else number_text(one) for one in listed]
        if not texts or not all(text.strip() for text in texts):
            raise ValueError("it is empty")
        return texts

    def grade(self, problem: Problem, completion: str) -> Verdict:
        answer = completion.strip() if self.whole else said(completion)
        if not answer:
            return Verdict("no_answer", reason="nothing is said")
        told = {self._plain(answer)}
        wanted = {self._plain(gold) for gold in problem.gold}
        if not self.whole:
            told.add(self._plain(bare_text(answer)))
            wanted |= {self._plain(bare_text(gold)) for gold in problem.gold}
        right = not told.isdisjoint(wanted)
        return Verdict("correct" if right else "wrong", answer)

    def _plain(self, text: str) -> str:
        text = " ".join(unicodedata.normalize("NFC", text).split()).removesuffix(".").strip()
        return text if self.case else text.casefold()

    def right_answer(self, problem: Problem) -> str | None:
        return problem.gold[0]
