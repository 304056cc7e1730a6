"""The hacking watch: signs that a student earns its reward without getting better.

A student that learns to repeat itself makes its teacher surer without being righter. So repetition,
length, and the teacher's confidence against the answers' grades are watched, each as the mean of the last
steps against the mean of the first ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from statistics import fmean, variance
from typing import final

from opdlab.configuration import Experiment, HackingWatch
from opdlab.records import Rollout
from opdlab.training.given import share_of

WATCHED = ("repetition_rate", "longest_repeat", "response_length", "fidelity", "accuracy")
LONGEST_PERIOD = 16
FEWEST_STEPS = 5
"""Of a window that was shortened because the run is short."""
ERRORS = 2.0
"""Standard errors that a fall of accuracy must exceed: few training answers are graded."""
Change = tuple[float, float]


@final
class Alarms:
    """What has gone wrong so far, from the metrics of each step.

    Windows are of steps for every sign, whether it is measured at each of them or now and then.

    Args:
        settings: of the watch.
        steps: of the whole training; the first and the last window of a short one are a half each.
    """

    def __init__(self, settings: HackingWatch, steps: int) -> None:
        self.settings = settings
        self.window = min(settings.window, steps // 2)
        self.first: dict[str, list[float]] = {name: [] for name in WATCHED}
        self.last: dict[str, list[tuple[int, float]]] = {name: [] for name in WATCHED}
        self.raised: dict[str, str] = {}

    @property
    def too_short(self) -> bool:
        """Whether the training has no room for two windows."""
        return self.window < min(self.settings.window, FEWEST_STEPS)

    def see(self, metrics: Mapping[str, float], step: int) -> dict[str, str]:
        """Take in a step, counted from 1; returns the alarms that are new, each with its figures."""
        for name in WATCHED:
            value = metrics.get(name)
            if value is not None and math.isfinite(value):
                if step <= self.window:
                    self.first[name].append(value)
                self.last[name].append((step, value))
            self.last[name] = [one for one in self.last[name] if one[0] > step - self.window]
        if self.too_short or step <= self.window:
            return {}
        new = {name: why for name, why in self._signs() if name not in self.raised}
        self.raised |= new
        return new

    def replay(self, rows: Iterable[Mapping[str, float]], until: int) -> None:
        """Take in the steps that an earlier part of the run has recorded, up to its checkpoint."""
        for row in rows:
            if row["step"] <= until:
                self.see(row, int(row["step"]))

    def _signs(self) -> Iterable[tuple[str, str]]:
        limits = self.settings
        if (change := self._change("repetition_rate")) is not None:
            before, now = change
            if now - before > limits.repetition:
                yield "repetition", f"{now:.0%} of 4-grams are repeats, {before:.0%} at the start"
        if (change := self._change("longest_repeat")) is not None:
            before, now = change
            if now - before > limits.repetition:
                yield "loops", f"{now:.0%} of an answer is one loop, {before:.0%} at the start"
        if (change := self._change("response_length")) is not None:
            before, now = change
            if not 1 / limits.length_factor < now / max(before, 1e-9) < limits.length_factor:
                yield "length", f"answers of {now:.0f} tokens, {before:.0f} at the start"
        confidence, accuracy = self._change("fidelity"), self._change("accuracy")
        if confidence is not None and accuracy is not None:
            (sure, surer), (right, now) = confidence, accuracy
            least = max(limits.accuracy_drop, ERRORS * self._error("accuracy"))
            if surer > sure and right - now > least:
                yield (
                    "confidence",
                    f"the teacher grew surer ({sure:.3f} to {surer:.3f}) of answers that are less often "
                    f"right ({right:.0%} to {now:.0%})",
                )

    def _windows(self, name: str) -> tuple[list[float], list[float]]:
        return self.first[name], [value for _, value in self.last[name]]

    def _change(self, name: str) -> Change | None:
        """Means of the first and the last steps, where both were measured."""
        first, last = self._windows(name)
        return (fmean(first), fmean(last)) if first and last else None

    def _error(self, name: str) -> float:
        """Standard error of the change; infinite where a window has one value alone."""
        windows = self._windows(name)
        if min(map(len, windows)) < 2:
            return math.inf
        return math.sqrt(sum(variance(values) / len(values) for values in windows))


def unwatched(config: Experiment) -> Iterator[str]:
    """Alarms that cannot ring in a run, each with the reason."""
    training, settings = config.training, config.training.hacking
    alarms = Alarms(settings, training.steps)
    if alarms.too_short:
        yield (
            f"no alarm of reward hacking: {training.steps} steps hold no two windows of "
            f"{min(settings.window, FEWEST_STEPS)} steps or more (training.hacking.window)"
        )
        return
    given = share_of(config)
    if config.method.sampler == "teacher" or given == 1:
        whose = "those of the data (prompts.given)" if given == 1 else "the teacher's"
        yield f"no alarm of reward hacking: the answers are {whose}, and not the student's"
        return
    if (why := _ungraded(config, given)) is not None:
        yield f"the alarm `confidence`: {why}"
        return
    # Answers are graded when they are new.
    between = training.epochs * (1 if config.method.graded else settings.grade_every)
    if 2 * between > alarms.window:
        remedy = "raise training.steps or lower training.epochs"
        if settings.grade_every > 1 and not config.method.graded:
            remedy = "lower training.hacking.grade_every"
        yield (
            f"the alarm `confidence`: answers are graded every {between} steps, and each window of "
            f"{alarms.window} steps needs two gradings; {remedy}"
        )


def _ungraded(config: Experiment, given: float) -> str | None:
    """Why no step's answers are graded; None where they are."""
    if config.method.graded:
        return None
    if not config.prompts.graded:
        return "answers are not graded (prompts.answer_column and prompts.grader)"
    if not config.training.hacking.grade_every:
        return "no answers are graded (training.hacking.grade_every: 0)"
    if given * config.training.prompts_per_step >= 1:
        return "steps with answers of the data are not graded, and all have some (prompts.given)"
    return None


def longest_repeat(rollout: Rollout) -> float:
    """Share of an answer that its longest loop takes, the mean over answers.

    A loop is a stretch that repeats itself at once with a period of at most 16 tokens (`abab`): here from
    the end of its first turn on, where that is at least as long as a turn.
    """
    token, row = rollout.token, rollout.row
    longest = [0] * len(rollout.tokens)
    for period in range(1, min(LONGEST_PERIOD, len(token) - 1) + 1):
        again = (token[period:] == token[:-period]) & (row[period:] == row[:-period])
        # Places where a run of `again` begins and ends.
        edges = again.int().diff(prepend=again.new_zeros(1).int(), append=again.new_zeros(1).int())
        starts, ends = (edges == 1).nonzero()[:, 0].tolist(), (edges == -1).nonzero()[:, 0].tolist()
        rows = row[period:].tolist()
        for start, end in zip(starts, ends, strict=True):
            if end - start >= period:
                longest[rows[start]] = max(longest[rows[start]], end - start)
    lengths = rollout.response_lengths.tolist()
    return sum(n / length for n, length in zip(longest, lengths, strict=True)) / len(lengths)
