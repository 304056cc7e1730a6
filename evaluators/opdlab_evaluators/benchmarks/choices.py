"""Multiple choice: the choices of a row, their order, the right one, and how a model chooses."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from opdlab.configuration import DataSource
from opdlab.datafiles import MISSING, RowError, is_text, opened, value_at
from opdlab.errors import DataError
from opdlab.prompts import Asked, Reader
from opdlab.records import Problem, Verdict
from opdlab_evaluators.graders.choice_letter import LETTERS

CHOICES = "choices"
"""What stands in `wrap` for the listed choices, and `letters` for their letters (`ABCD`)."""
WORDINGS = {
    "letter": "{prompt}\n\n{choices}\n\nThink first. The last line of your answer must be `Answer: X`, "
    "where X is one of {letters}.",
    "likelihood": "Question: {prompt}\nAnswer:",
    "likelihood_per_byte": "Question: {prompt}\nAnswer:",
}
"""Wordings by way of choosing, where the options name none."""
LIKELIHOODS = {"likelihood": "likelihood-1", "likelihood_per_byte": "likelihood-per-byte-1"}
VARIED = 10
"""Problems of which not all can have the same letter by chance."""


class ChoiceReader(Reader):
    """Rows as questions with choices.

    The gold is the letter of the right choice; where probabilities choose, `right` (its place from 0) and
    the texts of all `choices`.

    Args:
        columns_of: one column that holds the list, or a column for each choice.
        labels: column of the names of the choices.
        answer_is: how the answer names the right one.
        seed: of the order; None for that of the data.
        choose: `letter`, or how probabilities choose.
    """

    def __init__(
        self,
        source: DataSource,
        columns_of: Sequence[str],
        labels: str | None,
        answer_is: str,
        seed: int | None,
        choose: str,
    ) -> None:
        super().__init__(source)
        self.columns_of, self.labels, self.answer_is = columns_of, labels, answer_is
        self.seed, self.choose = seed, choose

    @property
    def paths(self) -> dict[str, str]:
        made = {CHOICES, "letters"}
        named = {
            path: key for path, key in super().paths.items() if key != "wrap" or path not in made
        }
        for path in self.columns_of:
            named.setdefault(path, "choices")
        if self.labels:
            named.setdefault(self.labels, "labels")
        return named

    def asked(self, row: Mapping[str, Any]) -> Asked:
        texts = self._texts(row)
        right = self._right(row, texts)
        if texts.count(texts[right]) > 1:
            raise RowError("broken", "a right choice that is there twice")
        order = list(range(len(texts)))
        if self.seed is not None:
            question = json.dumps([value_at(row, self.column), sorted(texts)], default=str)
            order.sort(
                key=lambda n: hashlib.sha256(f"{self.seed}/{question}/{texts[n]}".encode()).digest()
            )
        texts = [texts[n] for n in order]
        right = order.index(right)
        letters = LETTERS[: len(texts)]
        listed = "\n".join(f"{letter}. {text}" for letter, text in zip(letters, texts, strict=True))
        gold = letters[right] if self.choose == "letter" else {"right": right, "choices": texts}
        # The row's own columns keep their names for everything but the wording.
        self._gold_of_row = json.dumps(gold, ensure_ascii=False, sort_keys=True)
        return super().asked({**row, CHOICES: listed, "letters": letters})

    def _gold(self, row: Mapping[str, Any]) -> str | None:
        return self._gold_of_row

    def _texts(self, row: Mapping[str, Any]) -> list[str]:
        values = [value_at(row, path) for path in self.columns_of]
        where = f"in column {self.columns_of[0]!r}"
        if len(values) == 1:
            values = opened(values[0])
            if isinstance(values, Mapping):
                raise RowError(
                    "broken",
                    f"no list of choices {where}, but {', '.join(map(str, values))}; name one",
                )
        if not isinstance(values, list) or any(one is None or one is MISSING for one in values):
            raise RowError("broken", f"no list of choices {where}")
        texts = [one if isinstance(one, str) else json.dumps(one) for one in values]
        if not 2 <= len(texts) <= len(LETTERS):
            raise RowError("broken", f"{len(texts)} choices {where}, wanted 2 to {len(LETTERS)}")
        if not all(text.strip() and is_text(text) for text in texts):
            raise RowError("broken", f"an empty choice {where}")
        return [text.strip() for text in texts]

    def _right(self, row: Mapping[str, Any], texts: Sequence[str]) -> int:
        """Place of the right choice, from 0."""
        if self.source.answer_column in self.columns_of and len(self.columns_of) > 1:
            return self.columns_of.index(self.source.answer_column)
        value = value_at(row, self.source.answer_column or "")
        where = f"in column {self.source.answer_column!r}"
        if value is None or value is MISSING or isinstance(value, bool | float | list | Mapping):
            raise RowError("broken", f"no answer {where}")
        said = str(value).strip()
        if self.labels:
            labels = value_at(row, self.labels)
            if not isinstance(labels, list) or len(labels) != len(texts):
                raise RowError("broken", f"not as many labels in column {self.labels!r} as choices")
            places = {n for n, label in enumerate(labels) if str(label).strip() == said}
        else:
            places = _places(said, texts, self.answer_is)
        if len(places) > 1:
            raise RowError(
                "broken",
                f"an answer {where} that is the text of one choice and names another (`answer_is` decides)",
            )
        if not places:
            raise RowError("broken", f"an answer {where} that is none of the choices")
        return places.pop()


def _places(said: str, texts: Sequence[str], answer_is: str) -> set[int]:
    """Choices that an answer names, by each way of naming them that is allowed."""
    found = set()
    if answer_is in ("any", "text") and said in texts:
        found.add(texts.index(said))
    letter = said.strip("().").upper()
    if answer_is in ("any", "letter") and len(letter) == 1 and letter in LETTERS[: len(texts)]:
        found.add(LETTERS.index(letter))
    if answer_is in ("any", "index") and said.isdecimal() and int(said) < len(texts):
        found.add(int(said))
    return found


def require_varied(problems: Sequence[Problem], section: str) -> None:
    """Refuse data whose right answer always stands in the same place.

    Raises:
        DataError: a model that always says that letter would be right.
    """
    places = {
        str(p.gold if isinstance(p.gold, str) else LETTERS[p.gold["right"]]) for p in problems
    }
    if len(problems) >= VARIED and len(places) == 1:
        raise DataError(
            f"{section}: in all {len(problems)} problems the right choice is {places.pop()}, so whoever "
            "always says so is right; set `shuffle_seed` to a number"
        )


def likeliest(problem: Problem, completion: str, per_byte: bool) -> Verdict:
    """The verdict on log-probabilities of the choices, as `opdlab.evaluation` writes them: one a line.

    Source of the division by bytes: `acc_norm` of EleutherAI's lm-evaluation-harness.
    """
    choices = problem.gold["choices"]
    try:
        found = [float(line.split("\t", 1)[0]) for line in completion.splitlines()]
    except ValueError:
        found = []
    if len(found) != len(choices):
        return Verdict("no_answer", reason="no log-probability for each choice")
    if any(math.isnan(value) for value in found) or not any(map(math.isfinite, found)):
        return Verdict("grader_error", reason=f"log-probabilities that order nothing: {found}")
    sizes = [len(text.encode()) if per_byte else 1 for text in choices]
    scores = [value / size for value, size in zip(found, sizes, strict=True)]
    best = max(range(len(scores)), key=scores.__getitem__)
    right = best == problem.gold["right"]
    return Verdict("correct" if right else "wrong", choices[best])
