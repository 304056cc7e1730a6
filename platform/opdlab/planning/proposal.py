"""Settings with which an experiment fits on given cards: the quickest of those that change no result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from opdlab.configuration import Experiment, loader
from opdlab.errors import ConfigError
from opdlab.planning.cards import Card
from opdlab.planning.phases import Memory, Site, Step, memory
from opdlab.planning.timing import seconds

LARGEST_NODE = 8


@dataclass(frozen=True)
class Setting:
    """An experiment with some values on some cards.

    Attributes:
        values: that differ from the experiment's, by dotted key.
        runs: all of its runs with them, by name.
        longest_prompt: tokens.
    """

    values: Mapping[str, Any]
    runs: list[tuple[str, Experiment]]
    longest_prompt: int
    card: Card

    @property
    def largest(self) -> tuple[str, Experiment]:
        """The run that needs most."""
        return max(self.runs, key=lambda named: self.peak(named[1]))

    @property
    def fits(self) -> bool:
        """Whether every run does."""
        return self.peak(self.largest[1]) <= self.card.room

    def memory(self, run: Experiment) -> dict[str, Memory]:
        """Of one run, on each device."""
        return memory(run, self.longest_prompt, Site.on(self.card.kind, run.training))

    def peak(self, run: Experiment) -> int:
        """Bytes that a run needs at a time, on the device that needs most."""
        return max(one.peak for one in self.memory(run).values())

    @property
    def words(self) -> list[str]:
        """The values as a command takes them."""
        return [f"{key}={_written(value)}" for key, value in self.values.items()]


def _written(value: Any) -> str:
    return (
        "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    )


def as_written(
    experiment: Experiment, longest_prompt: int, card: Card, cards: int | None
) -> Setting:
    """The experiment as it is, on so many cards; None for the devices that it names.

    Raises:
        ConfigError: it cannot be on so many.
    """
    values: dict[str, Any] = {}
    if cards is not None and cards != experiment.training.world:
        values = {k: v for k, v in _devices(cards).items() if v != _value(experiment, k)}
        strategy = experiment.training.strategy
        if strategy == "ddp" and cards == 1:
            values["training.strategy"] = "auto"
    return _setting(experiment, values, longest_prompt, card)


def _devices(cards: int) -> dict[str, int]:
    nodes = max(1, cards // LARGEST_NODE)
    if cards > LARGEST_NODE and cards % LARGEST_NODE:
        raise ConfigError(
            f"--gpus: {cards} are no whole number of machines with {LARGEST_NODE} each"
        )
    return {"training.devices": cards // nodes, "training.nodes": nodes}


def _setting(
    experiment: Experiment, values: Mapping[str, Any], longest_prompt: int, card: Card
) -> Setting:
    runs = [
        (name, loader.with_values(run, own) if (own := _own(experiment, name, values)) else run)
        for name, run in loader.variants(experiment)
    ]
    return Setting(values, runs, longest_prompt, card)


def _own(experiment: Experiment, name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Those values that hold for a run: what it sets itself stands above the file's."""
    fixed = next((set(one.set) for one in experiment.runs if one.name == name), set[str]())
    return {k: v for k, v in values.items() if not {k, k.split(".")[0]} & fixed}


def proposed(written: Setting, experiment: Experiment) -> Setting | None:
    """The quickest setting that fits; None where none does.

    Only what decides pace and place is changed, never what is learned.
    """
    trials = sorted(_trials(written, experiment), key=lambda one: one[0])
    for _, values in trials:
        copied = [
            (name, _copied(run, _own(experiment, name, values))) for name, run in written.runs
        ]
        if not replace(written, runs=copied).fits:
            continue
        try:
            return _setting(experiment, values, written.longest_prompt, written.card)
        except ConfigError:
            # Two settings that exclude each other, or the method.
            continue
    return None


def _trials(
    written: Setting, experiment: Experiment
) -> Iterator[tuple[tuple[float, int], dict[str, Any]]]:
    """Values to try, with the time they take and how many they are."""
    _, run = written.largest
    training = experiment.training
    step = Step.of(run, written.longest_prompt)
    updated = min(training.update_tokens, step.rows * step.length)
    strategies = ["auto"] if run.training.world == 1 else ["ddp", "fsdp"]
    updates = [training.update_tokens, *_halves(updated, step.length)]
    sampled = [training.rollout_rows, *_halves(step.sampled, 1)]
    again = dict.fromkeys([training.activation_checkpointing, "layers"])
    for strategy, offload, each, tokens, at_a_time in product(
        strategies, (False, True), again, updates, sampled
    ):
        asked = {
            "training.strategy": strategy,
            "teacher.offload": offload,
            "training.activation_checkpointing": each,
            "training.update_tokens": tokens,
            "training.rollout_rows": at_a_time,
        }
        values = dict(written.values) | {
            key: value for key, value in asked.items() if value != _value(experiment, key)
        }
        if training.strategy == "auto" and strategy == "ddp":
            values.pop("training.strategy", None)
        yield (_time(run, written, asked), len(values)), values


def _halves(largest: int, least: int) -> list[int]:
    """A half, a quarter and so on, to the least."""
    found = []
    while largest > least:
        largest = max(least, largest // 2)
        found.append(largest)
    return found


def _value(experiment: Experiment, key: str) -> Any:
    section, name = key.split(".")
    return getattr(getattr(experiment, section), name)


def _time(run: Experiment, written: Setting, asked: Mapping[str, Any]) -> float:
    """Of a step with these values; what cannot be told apart by a known rate, by how much is changed."""
    changed = _copied(run, asked)
    if written.card.bandwidth:
        return round(seconds(changed, written.longest_prompt, written.card).step, 2)
    slower = (
        2.0 * (changed.training.activation_checkpointing == "layers"),
        1.0 * (changed.training.strategy == "fsdp"),
        0.5 * changed.teacher.offload,
    )
    return sum(slower)


def _copied(run: Experiment, values: Mapping[str, Any]) -> Experiment:
    """A run with these values, unchecked: that takes too long for all that is tried."""
    sections: dict[str, dict[str, Any]] = {"training": {}, "teacher": {}}
    for key, value in values.items():
        section, name = key.split(".")
        sections[section][name] = value
    parts = {name: getattr(run, name).model_copy(update=own) for name, own in sections.items()}
    return run.model_copy(update=parts)
