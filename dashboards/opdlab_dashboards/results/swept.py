"""A sweep on a report: its best trials, how many are left out, and what its keys explain."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opdlab.files import damaged, is_there, read_json
from opdlab_dashboards.results.measured import Measured

FINDINGS = "sweep.json"
_REMEDY = "run the sweep's command again, which writes it anew"
SHOWN = 8


@dataclass(frozen=True, eq=False)
class Swept:
    """A sweep's findings.

    Attributes:
        metric: the objective that ranks the trials.
        complete: how many trials came to an end.
        best: numbers of the best trials that lie here, the best first.
        importance: by objective and key, the share in what all keys explain, with a 95 % interval.
    """

    folder: Path
    metric: str
    complete: int
    best: tuple[int, ...]
    importance: Mapping[str, Mapping[str, Mapping[str, float]]]

    def kept(self, found: Sequence[Measured]) -> list[Measured]:
        """The runs of the best trials, the best first, then what belongs to no trial."""
        places = {number: place for place, number in enumerate(self.best)}
        kept = [(n, one) for one in found if (n := number_of(one)) is None or n in places]
        return [one for _, one in sorted(kept, key=lambda pair: _place(pair[0], places))]

    @property
    def caveat(self) -> str:
        """What is left out, and what the best trial's lead is worth."""
        left_out = self.complete - len(self.best)
        words = f"{self.folder.name}: of {self.complete} complete trials "
        if left_out:
            words += (
                f"the best {len(self.best)} by {self.metric} are shown and {left_out} left out; "
                f"{FINDINGS} and plots/ in the sweep's folder hold all. "
            )
        else:
            words += f"the best by {self.metric} comes first. "
        return words + (
            "The best of many is best partly by luck, which no interval here takes into account: "
            "train it with new seeds before relying on it."
        )

    @property
    def shares(self) -> Iterator[tuple[str, str, str]]:
        """Objective, key, and its share with the interval."""
        for metric, keys in self.importance.items():
            for key, share in keys.items():
                value, low, high = (100 * share[name] for name in ("share", "low", "high"))
                yield metric, key, f"{value:.0f} % [{low:.0f}, {high:.0f}]"


def number_of(one: Measured) -> int | None:
    """The trial that a run belongs to; None where it belongs to none."""
    return one.execution.trial.get("number") if one.execution else None


def _place(number: int | None, places: Mapping[int, int]) -> int:
    return SHOWN if number is None else places[number]


def read(folder: Path, found: Sequence[Measured]) -> Swept | None:
    """The findings in a sweep's folder; None where it is not one, or no trial was completed.

    Args:
        found: what was measured there.

    Raises:
        DataError: they cannot be read.
    """
    if not is_there(folder / FINDINGS):
        return None
    content = read_json(folder / FINDINGS, "objectives", "trials", remedy=_REMEDY)
    try:
        return _of(content, folder, found)
    except (LookupError, TypeError, AttributeError) as error:
        raise damaged(folder / FINDINGS, repr(error), _REMEDY) from error


def _of(content: Mapping[str, Any], folder: Path, found: Sequence[Measured]) -> Swept | None:
    objective = content["objectives"][0]
    sign = -1 if objective["direction"] == "maximize" else 1
    complete = [trial for trial in content["trials"] if trial["state"] == "complete"]
    complete.sort(key=lambda trial: (not _feasible(trial), sign * trial["values"][0]))
    lie_here = {number_of(one) for one in found}
    here = [trial["trial"] for trial in complete if trial["trial"] in lie_here]
    importance = content.get("importance", {})
    swept = Swept(folder, objective["metric"], len(complete), tuple(here[:SHOWN]), importance)
    return swept if here else None


def _feasible(trial: Mapping[str, Any]) -> bool:
    return all(value <= 0 for value in trial["constraints"].values())
