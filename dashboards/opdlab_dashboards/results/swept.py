"""A sweep on a report: its trials, what was searched, and what its keys explain."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from opdlab.files import damaged, is_there, read_json
from opdlab_dashboards.results.measured import Measured

COLUMNS = ("rank", "trial", "state", "mean", "difference", "truncated", "tokens", "seconds")
"""What a report tells of each trial beside its keys and objectives."""
FINDINGS = "sweep.json"
_REMEDY = "run the sweep's command again, which writes it anew"
SHOWN = 8


@dataclass(frozen=True)
class Trial:
    """A trial as the sweep's findings hold it.

    Attributes:
        state: `complete`, `pruned` or `fail`, the latter two with a reason where one is known.
        values: one an objective; none where it is not complete.
        constraints: by how much each limit is exceeded; kept where not above 0.
    """

    number: int
    state: str
    params: Mapping[str, Any]
    values: tuple[float, ...]
    constraints: Mapping[str, float]
    reason: str

    @property
    def feasible(self) -> bool:
        """Whether it keeps every limit."""
        return all(value <= 0 for value in self.constraints.values())


@dataclass(frozen=True, eq=False)
class Swept:
    """A sweep's findings.

    Attributes:
        objectives: metric and direction of each; the first ranks the trials.
        trials: complete ones, the best first, then the others.
        best: numbers of the complete trials that lie here, the best first.
        space: range of each key that was searched; empty in findings of an earlier version.
        importance: by objective and key, the share in what all keys explain, with a 95 % interval.
    """

    folder: Path
    objectives: tuple[tuple[str, str], ...]
    trials: tuple[Trial, ...]
    best: tuple[int, ...]
    space: Mapping[str, Mapping[str, Any]]
    importance: Mapping[str, Mapping[str, Mapping[str, float]]]

    @property
    def metric(self) -> str:
        """The objective that ranks the trials."""
        return self.objectives[0][0]

    @cached_property
    def complete(self) -> list[Trial]:
        """Trials that came to an end, the best first."""
        return [trial for trial in self.trials if trial.state == "complete"]

    @cached_property
    def drawn(self) -> list[Trial]:
        """Of these those that can be drawn: none came out infinite, as a loss may."""
        return [trial for trial in self.complete if all(map(math.isfinite, trial.values))]

    def outcome(self, trial: Trial) -> dict[str, float]:
        """A trial's values by objective; nothing of one that is not complete."""
        return dict(zip((metric for metric, _ in self.objectives), trial.values, strict=False))

    def named(self, key: str) -> str:
        """A key's own name, without its sections; all of it where something else has that name."""
        last = _last(key)
        same = [one for one in (*map(_last, self.keys), *COLUMNS) if one == last]
        return key if len(same) > 1 else last

    @cached_property
    def keys(self) -> list[str]:
        """What was searched, in the order of the space."""
        found = (key for trial in self.trials for key in trial.params)
        return list(dict.fromkeys((*self.space, *found)))

    def kept(self, found: Sequence[Measured], most: int | None = None) -> list[Measured]:
        """The runs of the best trials, at most so many, the best first; then what belongs to no trial."""
        places = {number: place for place, number in enumerate((*self.best[:most], None))}
        kept = [one for one in found if number_of(one) in places]
        return sorted(kept, key=lambda one: places[number_of(one)])

    def caveat(self, most: int | None = None) -> str:
        """What is left out where at most so many trials are shown, and what the best's lead is worth."""
        count, shown = len(self.complete), len(self.best[:most])
        if count == 1:
            return f"{self.folder.name}: one trial is complete, so nothing is known of the others."
        words = f"{self.folder.name}: of {count} complete trials "
        if left_out := count - shown:
            words += (
                f"the best {shown} by {self.metric} are shown and {left_out} left out; "
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


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def number_of(one: Measured) -> int | None:
    """The trial that a run belongs to; None where it belongs to none."""
    return one.execution.trial.get("number") if one.execution else None


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
    objectives = tuple((one["metric"], one["direction"]) for one in content["objectives"])
    sign = -1 if objectives[0][1] == "maximize" else 1
    trials = [_trial(told) for told in content["trials"]]
    complete = [trial for trial in trials if trial.state == "complete"]
    complete.sort(key=lambda trial: (not trial.feasible, sign * trial.values[0]))
    others = [trial for trial in trials if trial.state != "complete"]
    lie_here = {number_of(one) for one in found}
    here = [trial.number for trial in complete if trial.number in lie_here]
    swept = Swept(
        folder=folder,
        objectives=objectives,
        trials=(*complete, *others),
        best=tuple(here),
        space=content.get("space", {}),
        importance=content.get("importance", {}),
    )
    return swept if here else None


def _trial(told: Mapping[str, Any]) -> Trial:
    return Trial(
        number=told["trial"],
        state=told["state"],
        params=told.get("params", {}),
        values=tuple(told["values"] or ()),
        constraints=told["constraints"],
        reason=told.get("reason", ""),
    )
