"""The hacking watch: signs that a student earns its reward without getting better.

A student that learns to repeat itself makes its teacher surer without being righter. So repetition,
length, and the teacher's confidence against the answers' grades are watched, each as the mean of the last
steps against the mean of the first ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import final

from opdlab.config import HackingWatch
from opdlab.records import Rollout

WATCHED = ("repetition_rate", "longest_repeat", "response_length", "fidelity", "accuracy")
LONGEST_PERIOD = 16


@final
class Alarms:
    """What has gone wrong so far, from the metrics of each step."""

    def __init__(self, settings: HackingWatch) -> None:
        self.settings = settings
        self.first: dict[str, list[float]] = {name: [] for name in WATCHED}
        self.last: dict[str, list[float]] = {name: [] for name in WATCHED}
        self.raised: dict[str, str] = {}

    def see(self, metrics: Mapping[str, float]) -> dict[str, str]:
        """Take in a step; returns the alarms that are new, each with its figures."""
        for name in WATCHED:
            value = metrics.get(name)
            if value is None or value != value:
                continue
            if len(self.first[name]) < self.settings.window:
                self.first[name].append(value)
            self.last[name] = [*self.last[name], value][-self.settings.window :]
        new = {name: why for name, why in self._signs() if name not in self.raised}
        self.raised |= new
        return new

    def replay(self, rows: Iterable[Mapping[str, float]], until: int) -> None:
        """Take in the steps that an earlier part of the run has recorded, up to its checkpoint."""
        for row in rows:
            if row["step"] <= until:
                self.see(row)

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
            if surer > sure and right - now > limits.accuracy_drop:
                yield (
                    "confidence",
                    f"the teacher grew surer ({sure:.3f} to {surer:.3f}) of answers that are less often "
                    f"right ({right:.0%} to {now:.0%})",
                )

    def _change(self, name: str) -> tuple[float, float] | None:
        """Means of the first and the last steps, once there are enough for both."""
        first, last = self.first[name], self.last[name]
        if len(first) < self.settings.window or last == first:
            return None
        return sum(first) / len(first), sum(last) / len(last)


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
