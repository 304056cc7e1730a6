"""`evaluate`: a metric of Hugging Face's `evaluate`, and the value from which an answer is right."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from opdlab.errors import ConfigError, MissingDataError, OpdlabError
from opdlab.plugins import Grader
from opdlab.records import REQUIRED, Problem, Verdict, option
from opdlab_evaluators.answers import after_thinking
from opdlab_evaluators.graders.references import number_text, text_list

PROBE = "a text"


@dataclass(frozen=True)
class EvaluateMetric(Grader):
    """A metric of `evaluate`, with a threshold from which an answer is correct.

    The metric is a program that the hub holds (`evaluate-metric/NAME`): give a `revision`, or a folder
    that you have read.
    """

    metric: str = option(
        REQUIRED, "Name of a metric on the hub, such as `rouge`, or a folder that holds one."
    )
    key: str | None = option(
        None, "Which of several values counts, such as `rougeL`; null if there is only one."
    )
    at_least: float | None = option(None, "Smallest value that counts as correct; by default 0.5.")
    at_most: float | None = option(
        None, "Largest value that counts as correct, for metrics of errors; instead of `at_least`."
    )
    revision: str | None = option(
        None, "Commit or tag of the metric; by default the tag of the installed `evaluate`."
    )

    def __post_init__(self) -> None:
        if self.at_least is not None and self.at_most is not None:
            raise ValueError("at_most: it is set beside at_least; set one of them")
        if self.revision is not None and Path(self.metric).exists():
            raise ValueError("revision: it is for metrics of the hub, and this one is a folder")

    @property
    def limit(self) -> float:
        """The value at which right and wrong part."""
        if self.at_most is not None:
            return self.at_most
        return 0.5 if self.at_least is None else self.at_least

    @property
    def version(self) -> str:
        way = "at-most" if self.at_most is not None else "at-least"
        named = Path(self.metric).stem if Path(self.metric).exists() else self.metric
        which = f"{named}{'' if self.key is None else f'.{self.key}'}"
        return f"evaluate-1-{which}-{way}-{self.limit!r}-{self._code}"

    @property
    def _code(self) -> str:
        """What the metric's program is, as far as it is known without loading it."""
        if not Path(self.metric).exists():
            return self.revision or metadata.version("evaluate")
        digest = hashlib.sha256()
        place = Path(self.metric)
        for file in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            digest.update(file.name.encode() + file.read_bytes())
        return digest.hexdigest()[:8]

    def gold(self, value: Any) -> list[str]:
        """The reference text, or a list of them, of which the one that fits best counts."""
        value = text_list(value)
        listed = value if isinstance(value, list) else [value]
        texts = [number_text(one) for one in listed]
        if not texts or not all(text.strip() for text in texts):
            raise ValueError("it is empty")
        return texts

    def require(self) -> None:
        """See `Grader.require`; raises ConfigError or MissingDataError."""
        try:
            self._value(PROBE, PROBE)
        except OpdlabError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"grader: the metric {self.metric} does not compare texts: {error}"
            ) from error

    def grade(self, problem: Problem, completion: str) -> Verdict:
        answer = after_thinking(completion).strip()
        if not answer:
            return Verdict("no_answer", reason="nothing is said")
        values = [self._value(answer, gold) for gold in problem.gold]
        low = self.at_most is not None
        best = min(values) if low else max(values)
        right = best <= self.limit if low else best >= self.limit
        named = self.key or Path(self.metric).stem
        return Verdict("correct" if right else "wrong", answer, f"{named} {best:.4f}")

    def right_answer(self, problem: Problem) -> str | None:
        return problem.gold[0]

    def _value(self, answer: str, gold: str) -> float:
        found = _loaded(self.metric, self.revision).compute(predictions=[answer], references=[gold])
        numbers = {key: value for key, value in (found or {}).items() if _is_number(value)}
        listed = ", ".join(map(str, numbers)) or "none"
        if self.key is None and len(numbers) != 1:
            raise ConfigError(f"grader.key: {self.metric} gives several values; choose of {listed}")
        if self.key is not None and self.key not in numbers:
            raise ConfigError(f"grader.key: {self.metric} gives no {self.key!r}, but {listed}")
        value = float(numbers[self.key or next(iter(numbers))])
        if not math.isfinite(value):
            raise ValueError(f"it is {value}")
        return value


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return not isinstance(value, str | bool)


@lru_cache(maxsize=8)
def _loaded(metric: str, revision: str | None) -> Any:
    """The metric's module.

    Raises:
        MissingDataError: neither the hub nor its cache has it.
        ConfigError: it needs a package that is not installed, or is no metric.
    """
    import evaluate

    try:
        return evaluate.load(metric, module_type="metric", revision=revision, keep_in_memory=True)
    except ImportError as error:
        raise ConfigError(f"grader: the metric {metric} cannot be loaded: {error}") from error
    except OSError as error:
        raise MissingDataError(
            f"grader: the metric {metric!r} is in no folder, and neither the hub nor its cache has it "
            f"({_first(error)}). Run `python -c 'import evaluate; evaluate.load(\"{metric}\")'` where the "
            "hub can be reached, or name a folder with the metric's program"
        ) from error
    except Exception as error:  # the metric is foreign code and may fail in any way
        said = f"{type(error).__name__}: {_first(error)}"
        raise ConfigError(f"grader: the metric {metric} cannot be loaded: {said}") from error


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
