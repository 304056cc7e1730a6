"""mean@k, pass@k and maj@k as `evaluate` metrics, for use with or without the rest of opdlab.

    >>> from opdlab_evaluators.metrics import MeanAtK
    >>> metric = MeanAtK(keep_in_memory=True)
    >>> metric.compute(predictions=[["4", "5"], ["7", "7"]], references=["4", "7"])["mean_at_2"]
    0.75

Make them directly, with `keep_in_memory=True`: `evaluate.load` looks for a file or a hub instead, and
without it `evaluate` writes its inputs to a cache in the home folder.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

from opdlab.errors import DataError
from opdlab_evaluators.statistics.answer_sheets import pass_at_every_k
from opdlab_evaluators.statistics.intervals import mean_interval
from opdlab_evaluators.statistics.voting import Same, majority

ANSWERS = datasets.Features(
    {
        "predictions": datasets.Sequence(datasets.Value("string")),
        "references": datasets.Value("string"),
    }
)
VERDICTS = datasets.Features({"predictions": datasets.Sequence(datasets.Value("bool"))})

INPUTS = """
Args:
    predictions: for each problem a list of k answers as strings, None for no answer. Under the
        configuration "verdicts" a list of k booleans instead, graded elsewhere, and no references.
    references: for each problem the gold answer.
    equal: judges (answer, reference), and for maj@k two answers; by default they must be the same but for
        spaces at the ends.
Returns:
    the score, `<score>_low` and `<score>_high` (95 % interval over problems), `problems`, `samples`.
"""

Equal = Callable[[str, str], bool]


def same_text(answer: str, reference: str) -> bool:
    """Equal but for spaces at the ends."""
    return answer.strip() == reference.strip()


class AtK(evaluate.Metric):
    """Base of the metrics over k samples a problem."""

    about: str
    configurations: Mapping[str, datasets.Features]

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name not in self.configurations:
            raise DataError(
                f"unknown configuration {self.config_name!r} of {type(self).__name__}; "
                f"use one of {sorted(self.configurations)}"
            )
        return evaluate.MetricInfo(
            description=self.about,
            citation="",
            inputs_description=INPUTS,
            features=self.configurations[self.config_name],
        )

    def _compute(
        self,
        *,
        predictions: Any = None,
        references: Any = None,
        equal: Equal = same_text,
        **options: Any,
    ) -> dict[str, float]:
        empty = [i for i, samples in enumerate(predictions) if not samples]
        if empty or not len(predictions):
            where = f"problem {empty[0]} has" if empty else "there are"
            raise DataError(f"{where} no samples to score: leave such problems out, or sample them")
        verdicts = _verdicts(predictions, references, equal)
        total = np.array([len(row) for row in verdicts])
        scores = self.scores(
            predictions, verdicts, total, lambda pairs: [equal(*pair) for pair in pairs], **options
        )
        result = {"problems": float(len(total)), "samples": float(total.sum())}
        for name, values in scores.items():
            low, high = mean_interval(values)
            result |= {name: values.mean(), f"{name}_low": low, f"{name}_high": high}
        return {name: float(value) for name, value in result.items()}

    @abstractmethod
    def scores(
        self,
        predictions: Sequence[Sequence[Any]],
        verdicts: Sequence[Sequence[bool]],
        total: np.ndarray,
        same: Same,
    ) -> dict[str, np.ndarray]:
        """One number a problem, by name of the score; `same` says which answers mean the same."""


class MeanAtK(AtK):
    """Share of correct samples, averaged over problems; k is the fewest samples that a problem has."""

    about = "mean@k: share of correct samples, averaged over problems"
    configurations = {"default": ANSWERS, "verdicts": VERDICTS}

    def scores(
        self,
        predictions: Sequence[Sequence[Any]],
        verdicts: Sequence[Sequence[bool]],
        total: np.ndarray,
        same: Same,
    ) -> dict[str, np.ndarray]:
        """See `AtK.scores`."""
        return {f"mean_at_{total.min()}": _correct(verdicts) / total}


class PassAtK(AtK):
    """Chance that k samples hold a correct one, unbiased where there are more (arXiv:2107.03374)."""

    about = "pass@k: chance that k samples hold a correct one, unbiased estimate"
    configurations = {"default": ANSWERS, "verdicts": VERDICTS}

    def scores(
        self,
        predictions: Sequence[Sequence[Any]],
        verdicts: Sequence[Sequence[bool]],
        total: np.ndarray,
        same: Same,
        k: int | Sequence[int] | None = None,
    ) -> dict[str, np.ndarray]:
        """See `AtK.scores`; for the given k, by default all that the samples allow."""
        fewest = int(total.min())
        asked = range(1, fewest + 1) if k is None else [k] if isinstance(k, int) else k
        if any(not 1 <= j <= fewest for j in asked):
            raise DataError(
                f"pass@k for k in {list(asked)} needs as many samples, and a problem has {fewest}: "
                "ask for a smaller k or sample more"
            )
        values = pass_at_every_k(_correct(verdicts), total)
        return {f"pass_at_{j}": values[:, j - 1] for j in asked}


class MajAtK(AtK):
    """Accuracy of the most frequent answer of each problem; tied answers share (see `majority`)."""

    about = "maj@k: accuracy of the most frequent answer; tied answers share"
    configurations = {"default": ANSWERS}

    def scores(
        self,
        predictions: Sequence[Sequence[Any]],
        verdicts: Sequence[Sequence[bool]],
        total: np.ndarray,
        same: Same,
    ) -> dict[str, np.ndarray]:
        """See `AtK.scores`."""
        votes = [list(zip(*pair, strict=True)) for pair in zip(predictions, verdicts, strict=True)]
        return {f"maj_at_{total.min()}": np.array([majority(row, same) for row in votes])}


def _verdicts(
    predictions: Sequence[Sequence[Any]], references: Sequence[str] | None, equal: Equal
) -> list[list[bool]]:
    if references is None:
        return [[bool(verdict) for verdict in row] for row in predictions]
    return [
        [answer is not None and equal(answer, reference) for answer in row]
        for row, reference in zip(predictions, references, strict=True)
    ]


def _correct(verdicts: Sequence[Sequence[bool]]) -> np.ndarray:
    return np.array([sum(row) for row in verdicts])
