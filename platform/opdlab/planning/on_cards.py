"""What `opdlab plan --gpu` shows: memory and time of an experiment on cards that need not be here."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from opdlab.configuration import Experiment
from opdlab.console import BOLD, END, YELLOW, gib
from opdlab.errors import ConfigError
from opdlab.planning.cards import Card
from opdlab.planning.phases import by_name
from opdlab.planning.proposal import Setting, as_written, proposed
from opdlab.planning.served_teacher import behind_servers
from opdlab.planning.timing import (
    ACTIVE,
    OF_BANDWIDTH,
    OF_PRODUCTS,
    OF_PRODUCTS_UPDATING,
    Seconds,
    seconds,
)


def overrides(experiment: Experiment, longest_prompt: int, card: Card, cards: int | None) -> str:
    """The values with which an experiment fits on cards, as `opdlab train` takes them.

    Raises:
        ConfigError: it does not fit, whatever is changed.
    """
    written = as_written(experiment, longest_prompt, card, cards)
    chosen = written if written.fits else proposed(written, experiment)
    if chosen is None:
        raise ConfigError(_hopeless(written))
    return " ".join(chosen.words)


def show_cards(
    experiment: Experiment,
    longest_prompt: int,
    card: Card,
    cards: int | None,
    price: float | None,
    to: Console,
) -> None:
    """Print memory by phase, time of a step, and what to change where it does not fit.

    Args:
        longest_prompt: tokens.
        cards: how many; None for the devices that the experiment names.
        price: of a card and hour; None for no costs.
    """
    written = as_written(experiment, longest_prompt, card, cards)
    world = written.runs[0][1].training.world
    to.print(
        f"\n{BOLD}On {world} x {card.name}{END}, {gib(card.memory)} each, of which {gib(card.room)} "
        "are planned with (driver, libraries and fragments take the rest)"
    )
    settings = {"as written": written}
    chosen: Setting | None = written
    if not written.fits:
        with to.status("looking for settings that fit"):
            chosen = proposed(written, experiment)
        if chosen is not None:
            settings["proposed"] = chosen
    to.print(_memory_table(settings))
    if chosen is None:
        to.print(f"{YELLOW}{_hopeless(written)}{END}")
        return
    if chosen.values:
        to.print(f"{BOLD}fits with{END} (`--apply` prints only these)")
        for word in chosen.words:
            to.print(f"  {word}")
    else:
        to.print(f"{BOLD}fits as written{END}")
    if not card.bandwidth:
        to.print(f"How fast {card.name} is, is not known here: no times.")
        return
    to.print(_time_table(chosen, price))
    to.print(
        "Every answer at its greatest length, so at most this. Assumed of the data sheet: "
        f"{OF_BANDWIDTH:.0%} of the bandwidth while sampling, {OF_PRODUCTS:.0%} of the arithmetic while "
        f"scoring (both seen on one H200), {OF_PRODUCTS_UPDATING:.0%} while updating (not measured); "
        f"{ACTIVE:.0%} of positions active. Evaluation is not counted."
    )
    if servers := behind_servers(experiment):
        to.print(
            f"Nor is what the teacher behind {', '.join(servers)} takes, which is not known here: "
            "`opdlab bench step` measures it."
        )


def _memory_table(settings: dict[str, Setting]) -> Table:
    name, _ = settings["as written"].largest
    table = Table(
        box=None, pad_edge=False, title=f"memory of a device, run {name}, which needs most"
    )
    table.title_justify = "left"
    table.add_column("")
    columns: list[dict[str, str]] = []
    for title, setting in settings.items():
        table.add_column(title, justify="right")
        columns.append(_memory_rows(setting, dict(setting.runs)[name]))
    for row in dict.fromkeys(row for column in columns for row in column):
        table.add_row(row, *(column.get(row, "-") for column in columns))
    return table


def _memory_rows(setting: Setting, run: Experiment) -> dict[str, str]:
    rows = {name: gib(size) for name, size in by_name(setting.memory(run)).items()}
    return rows | {"of what is planned with": f"{setting.peak(run) / setting.card.room:.0%}"}


def _time_table(setting: Setting, price: float | None) -> Table:
    table = Table(box=None, pad_edge=False)
    columns = ["run", "sampling", "scoring", "updating", "moving", "a step", "tokens / s", "in all"]
    for column in columns + (["cost"] if price is not None else []):
        table.add_column(column, justify="left" if column == "run" else "right")
    for name, run in setting.runs:
        took = seconds(run, setting.longest_prompt, setting.card)
        table.add_row(name, *_times(run, took, price))
    return table


def _times(run: Experiment, took: Seconds, price: float | None) -> list[str]:
    training = run.training
    tokens = training.prompts_per_step * run.rollout.group_size * run.rollout.max_new_tokens
    hours = took.step * training.steps * training.seeds / 3600
    parts = (took.sampling, took.scoring, took.updating, took.moving, took.step)
    found = [*map(_duration, parts), f"{tokens / took.step:,.0f}", f"{hours:,.1f} h"]
    if price is not None:
        found.append(f"{hours * training.world * price:,.0f}")
    return found


def _hopeless(written: Setting) -> str:
    name, run = written.largest
    return (
        f"run {name} does not fit: as written it needs {gib(written.peak(run))} of "
        f"{gib(written.card.room)} a device, and no strategy, micro-batch, checkpointing or "
        "offload makes it fit. More or larger cards (--gpus, --gpu), a shorter "
        "rollout.max_new_tokens, or smaller models do"
    )


def _duration(span: float) -> str:
    return f"{span:.1f} s" if span < 100 else f"{span / 60:.1f} min"
