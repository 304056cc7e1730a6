"""Figures printed elsewhere, with those that cannot be what they are said to be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files

import yaml

from opdlab.errors import DataError
from opdlab_evaluators.statistics import granularity_ok


@dataclass(frozen=True)
class Published:
    """One figure of a publication, in per cent as printed.

    Attributes:
        benchmark: named as evaluators name it, or what the figure is an average of.
        problems: of the benchmark; None where it is an average over several.
        mean, passed: mean@k and pass@k; `passed` None where it was not printed.
    """

    source: str
    model: str
    setting: str
    benchmark: str
    k: int
    mean: str
    passed: str | None
    problems: int | None

    @property
    def impossible(self) -> str:
        """Why the figure cannot be right; empty where nothing speaks against it.

        A share of n problems with k samples is a multiple of 1 / (n k).
        """
        return "; ".join(self._faults())

    def _faults(self) -> Iterator[str]:
        if self.problems is None:
            return
        if not granularity_ok(self.mean, self.problems, self.k):
            yield f"{self.mean} is no mean@{self.k} over {self.problems} problems"
        if self.passed is not None and not granularity_ok(self.passed, self.problems, 1):
            yield f"{self.passed} is no pass@{self.k} over {self.problems} problems"


def read(text: str | None = None) -> list[Published]:
    """The figures that come with the package, or those of a YAML like it.

    Raises:
        DataError: it is not of that form.
    """
    text = text or (files("opdlab_dashboards") / "results" / "published.yaml").read_text()
    try:
        content = yaml.safe_load(text)
        return [_figure(content["source"], row) for row in content["figures"]]
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise DataError(
            f"published figures cannot be read ({error!r}); see published.yaml for the form"
        ) from error


def _figure(source: str, row: dict) -> Published:
    return Published(
        source=source,
        model=row["model"],
        setting=row["setting"],
        benchmark=row["benchmark"],
        k=row["k"],
        mean=str(row["mean"]),
        passed=row.get("pass"),
        problems=row.get("problems"),
    )
