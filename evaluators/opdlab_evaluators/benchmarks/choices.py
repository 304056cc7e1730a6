"""Multiple choice: the choices of a row, their order, the right one, and how a model chooses."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
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
LIKELIHOODS = {"likelihood": "likelihood-2", "likelihood_per_byte": "likelihood-per-byte-2"}
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
        texts, labels = self._choices(row)
        right = self._right(row, texts, labels)
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

    def _choices(self, row: Mapping[str, Any]) -> tuple[list[str], Any]:
        """Texts of the choices and their labels, None where they have none."""
        values: Any = [value_at(row, path) for path in self.columns_of]
        where = f"in column {self.columns_of[0]!r}"
        labels = value_at(row, self.labels) if self.labels else None
        if len(values) == 1:
            values = opened(values[0])
            if isinstance(values, Mapping):
                values, labels = _of_labels(values, labels, where)
        if isinstance(values, list) and values and all(map(_has_text, values)):
            names = [one.get("label", one.get("key")) for one in values]
            labels = names if labels is None and None not in names else labels
            values = [one["text"] for one in values]
        if not isinstance(values, list) or any(one is None or one is MISSING for one in values):
            raise RowError("broken", f"no list of choices {where}")
        if not 2 <= len(values) <= len(LETTERS):
            raise RowError("broken", f"{len(values)} choices {where}, wanted 2 to {len(LETTERS)}")
        texts = [_text(one) for one in values]
        if None in texts:
            raise RowError("broken", f"a choice {where} that is neither a text nor a number")
        if not all(text and text.strip() and is_text(text) for text in texts):
            raise RowError("broken", f"an empty choice {where}")
        return [str(text).strip() for text in texts], labels

    def _right(self, row: Mapping[str, Any], texts: Sequence[str], labels: Any) -> int:
        """Place of the right choice, from 0."""
        if self.source.answer_column in self.columns_of and len(self.columns_of) > 1:
            return self.columns_of.index(self.source.answer_column)
        value = value_at(row, self.source.answer_column or "")
        if isinstance(listed := opened(value), list) and len(listed) == 1:
            value = listed[0]
        where = f"in column {self.source.answer_column!r}"
        said = None if value is None or value is MISSING else _text(value)
        if said is None or not said.strip():
            raise RowError("broken", f"no answer {where}")
        said = said.strip()
        if isinstance(value, float) and value.is_integer() and said not in texts:
            # A table with a missing value holds its whole numbers as decimals.
            said = str(int(value))
        if self.labels and (not isinstance(labels, list) or len(labels) != len(texts)):
            raise RowError("broken", f"not as many labels in column {self.labels!r} as choices")
        places = {n for n, label in enumerate(labels or ()) if str(label).strip() == said}
        if not self.labels:
            places = _places(said, texts, self.answer_is, places if labels else None)
        if len(places) > 1:
            raise RowError(
                "broken",
                f"an answer {where} that is the text of one choice and names another (`answer_is` decides)",
            )
        if not places:
            raise RowError("broken", f"an answer {where} that is none of the choices")
        return places.pop()


def _of_labels(choices: Mapping[str, Any], labels: Any, where: str) -> tuple[Any, Any]:
    """Choices that stand under their labels, as MedQA has them; null ones are those of other rows."""
    held = {name: one for name, one in choices.items() if one is not None}
    if any(isinstance(one, list | Mapping) for one in held.values()):
        raise RowError(
            "broken", f"no list of choices {where}, but {', '.join(map(str, choices))}; name one"
        )
    return list(held.values()), list(held) if labels is None else labels


def _has_text(choice: Any) -> bool:
    return isinstance(choice, Mapping) and "text" in choice


def _text(value: Any) -> str | None:
    """A choice as it is shown; None for what is neither a text, a number nor a truth."""
    if isinstance(value, bool | str):
        return value if isinstance(value, str) else json.dumps(value)
    return str(value) if isinstance(value, int | float | Decimal) else None


def _places(
    said: str, texts: Sequence[str], answer_is: str, labelled: set[int] | None = None
) -> set[int]:
    """Choices that an answer names, by each way of naming them that is allowed.

    Args:
        labelled: those whose own label it is, which stand for letters; None where they have no labels.
    """
    found = set()
    if answer_is in ("any", "text") and said in texts:
        found.add(texts.index(said))
    letter = said.strip("().").upper()
    if answer_is in ("any", "letter") and labelled is not None:
        found |= labelled
    elif answer_is in ("any", "letter") and len(letter) == 1 and letter in LETTERS[: len(texts)]:
        found.add(LETTERS.index(letter))
    by_number = answer_is == "index" or (answer_is == "any" and not labelled)
    if by_number and said.isdecimal() and int(said) < len(texts):
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
