"""`opdlab plan`: what an experiment would do, before it does it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import or_
from pathlib import Path
from typing import TypeVar

import torch
import typer
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM

from opdlab.configuration import (
    Evaluation,
    Experiment,
    Model,
    Pretraining,
    documents,
    loader,
    repeats,
)
from opdlab.console import BOLD, END, YELLOW, console, quieten
from opdlab.errors import ConfigError, DataError, ModelError, OutOfReachError
from opdlab.modelling import models
from opdlab.planning.cards import Card
from opdlab.planning.footprint import Footprint, footprint
from opdlab.planning.lengths import Lengths, assumed, longest_prompt, prompt_lengths
from opdlab.planning.on_cards import overrides, show_cards
from opdlab.planning.phases import by_name, memory, written
from opdlab.planning.proposal import as_written
from opdlab.planning.served_teacher import asked_of_servers
from opdlab.planning.stored_teacher import FREED, freed_bytes
from opdlab.plugins import posed
from opdlab.pretraining import character_tokenizer
from opdlab.sweeps import Sweep, outermost, sweep_of
from opdlab.tracking import mlflow_store
from opdlab.training import CONFIG, next_folder

# Share of positions above the entropy threshold that arXiv:2605.30833 reports: late in training, and
# the two ends of its range early on.
ACTIVE_SHARES = (0.10, 0.15, 0.25)
COST = (
    "Teacher cost is in units of the scoring pass that OPD needs: 1 + active share x K, with K candidates "
    "an active position. How many positions are active is an assumption here (arXiv:2605.30833 reports "
    "15 to 25 % early in training and 10 % later). It is less where the sampled token is among the "
    "candidates, which saves its leaf, and where prompts are long, which have none."
)
TIME = (
    "How long that takes on this machine: `opdlab bench step` with the same words times some of it. "
    "On other cards: --gpu h100."
)
Found = TypeVar("Found")
RUNS_ABREAST = 3


@dataclass(frozen=True)
class Asked:
    """Cards that an experiment would run on.

    Attributes:
        count: how many; None for the devices that the experiment names.
        price: of a card and hour; None for no costs.
        apply: print nothing but the values with which it fits.
    """

    card: Card
    count: int | None = None
    price: float | None = None
    apply: bool = False


def show_on(asked: Asked, config: Experiment | Pretraining, to: Console = console) -> None:
    """Print the plan of an experiment on cards.

    Raises:
        ConfigError: of a pretraining on cards; or nothing makes it fit, and its settings are asked for.
        ModelError: a model's folder is missing or holds none; nothing was printed.
    """
    quieten()
    if isinstance(config, Pretraining):
        raise ConfigError("--gpu: a pretraining makes a small model; its plan needs no card")
    seen, _ = _known(lambda: longest_prompt(config))
    longest = seen or assumed(config)
    if asked.apply:
        typer.echo(overrides(config, longest, asked.card, asked.count))
        return
    sizes, why = _known(lambda: _sizes(config))
    to.print(why, end="")
    if sizes is None:
        raise ConfigError("--gpu: without the models' shapes there is nothing to plan")
    to.print(f"{BOLD}Models{END}")
    to.print(_models_table(sizes))
    why = "" if seen else " (assumed: the prompts, or the student's tokenizer, are not here)"
    to.print(f"longest prompt: {longest:,} tokens{why}")
    show_cards(config, longest, asked.card, asked.count, asked.price, to)


def memory_of_runs(config: Experiment, asked: Asked | None = None) -> dict[str, dict[str, int]]:
    """Bytes of a device by run, by what takes them; on this machine where no cards are asked for.

    Raises:
        OutOfReachError: a model's shape is not here.
    """
    longest = _known(lambda: longest_prompt(config))[0] or assumed(config)
    if asked is None:
        return {name: by_name(memory(run, longest)) for name, run in loader.variants(config)}
    written = as_written(config, longest, asked.card, asked.count)
    return {name: by_name(written.memory(run)) for name, run in written.runs}


def show(config: Experiment | Pretraining, to: Console = console) -> None:
    """Print the plan of an experiment.

    Raises:
        ModelError: a model's folder is missing or holds none; nothing was printed.
    """
    quieten()
    if isinstance(config, Pretraining):
        _show_settings(config, to)
        _show_pretraining(config, to)
        return
    runs = loader.variants(config)
    sizes, why = _known(lambda: _sizes(config))
    sweep = sweep_of(config)
    trials = outermost(config, sweep) if sweep else []
    worked = [*runs, *(("a trial with the most tokens a step", one) for one in _largest(trials))]
    lengths, again = _known(lambda: prompt_lengths(worked))
    _show_settings(config, to)
    if sweep is None:
        to.print(f"\n{BOLD}Runs{END}, one after the other")
        to.print(_runs_table(config))
    else:
        to.print(f"\n{BOLD}Sweep{END}, whose trials are each the experiment with other values")
        to.print(_sweep_table(config, sweep, trials))
    to.print(f"\n{BOLD}Models{END}")
    to.print(why, end="")
    if sizes is not None:
        to.print(_models_table(sizes))
    to.print("" if again.partition(f"{END} ")[2].strip() in why else again, end="")
    to.print(f"\n{BOLD}Work, memory of a device (estimated), teacher{END}")
    for first in range(0, len(worked), RUNS_ABREAST):
        to.print(_runs_compared(worked[first : first + RUNS_ABREAST], lengths, sizes is not None))
    remarks = _remarks(lengths or {})
    for said in remarks["unknown"]:
        to.print(f"{YELLOW}prompts:{END} {said}")
    if any(run.method.group for _, run in worked):
        to.print(COST)
    to.print(TIME)
    for said in remarks["rows"]:
        to.print(f"{YELLOW}prompts:{END} {said}")
    to.print(f"\n{BOLD}Evaluation{END}")
    trainings = [(one.name, one.config) for one in repeats(runs)]
    names = [name for name, _ in trainings]
    to.print(_evaluation(config.evaluation, [*config.evaluation.references, *names]))
    to.print(f"\n{BOLD}Written{END}")
    to.print(
        _sweep_files(config, sweep, sizes is not None, trials)
        if sweep
        else _files_table(config, trainings, sizes is not None)
    )


def _remarks(lengths: Mapping[str, Lengths]) -> dict[str, list[str]]:
    """What is to be said of the prompts of all runs, each once."""
    unknown = [str(one.unknown) for one in lengths.values() if one.unknown.bad_tokens]
    rows = [said for one in lengths.values() for said in one.remarks]
    return {"unknown": list(dict.fromkeys(unknown)), "rows": list(dict.fromkeys(rows))}


def _show_settings(config: Experiment | Pretraining, to: Console) -> None:
    to.print(f"{BOLD}Configuration, defaults included{END}")
    to.print(documents.text(config.model_dump(mode="json", exclude={"runs"})), end="")


def _known(find: Callable[[], Found]) -> tuple[Found | None, str]:
    """What can be found out here, or None and the reason: the plan goes on without.

    A model folder that is not there is no such reason but a mistake, and refused.
    """
    try:
        return find(), ""
    except (OutOfReachError, DataError) as error:
        return None, f"{YELLOW}not known here:{END} {error}\n"


def _sizes(config: Experiment) -> dict[str, Footprint]:
    """Of every model, by what it is; those of a run that has others by its name as well."""
    asked = _models(config)
    for name, run in loader.variants(config):
        own = _models(run).items()
        asked |= {f"{what} ({name})": one for what, one in own if one != asked.get(what)}
    sizes, missing, wrong = {}, [], []
    for name, model in asked.items():
        try:
            sizes[name] = footprint(model)
        except OutOfReachError as error:
            missing.append(str(error))
        except ModelError as error:
            wrong.append(str(error))
    if wrong:
        raise ModelError("\n".join(dict.fromkeys(wrong)))
    if missing:
        raise OutOfReachError("\n".join(dict.fromkeys(missing)))
    return sizes


def _models(run: Experiment) -> dict[str, Model]:
    specialists = {f"teacher of {', '.join(one.domains)}": one for one in run.specialists}
    return {"student": run.student, "teacher": run.teacher, **specialists}


def _runs_table(config: Experiment) -> Table:
    table = _table("run", "what it sets")
    for run in config.runs:
        table.add_row(run.name, documents.text(run.set).strip() if run.set else "nothing")
    if not config.runs:
        table.add_row(loader.run_names(config)[0], "the experiment as it is")
    return table


def _largest(trials: list[Experiment]) -> list[Experiment]:
    """The trial whose steps need the most memory; none where there is no sweep."""
    ordered = sorted(
        trials,
        key=lambda one: (
            _rows(one) * one.rollout.max_new_tokens,
            one.method.full,
            one.method.group,
        ),
    )
    return ordered[-1:]


def _sweep_table(config: Experiment, sweep: Sweep, trials: list[Experiment]) -> Table:
    """Size of a sweep, were each trial as large as the space allows; the work below is one run's."""
    runs = sweep.trials * len(sweep.seeds)
    tokens = max(_rows(one) * one.rollout.max_new_tokens * one.training.rollouts for one in trials)
    try:
        problems = sum(len(posed.problems(b)) for b in config.evaluation.benchmarks)
        answers = (
            f"{runs * max(map(_evaluations, trials)) * problems * config.evaluation.samples:,}"
        )
    except DataError:
        answers = "not known"
    table = _table("", "", numbers=1)
    table.add_row("trials", f"{sweep.trials:,}")
    table.add_row("seeds a trial", f"{len(sweep.seeds):,}")
    table.add_row("training runs, at most", f"{runs:,}")
    table.add_row(
        "optimizer steps, at most", f"{runs * max(one.training.steps for one in trials):,}"
    )
    table.add_row("response tokens, at most", f"{runs * tokens:,}")
    table.add_row("answers evaluated, at most", answers)
    if any(one.method.group for one in trials):
        for quantity in _teacher(config):
            cost = max(_teacher(one)[quantity] for one in trials)
            table.add_row(f"{quantity}, at most", f"{cost:.2f}")
    table.caption = (
        f"{sweep.sampler} sampler, pruner: {sweep.pruner}, over {', '.join(sweep.space)}"
    )
    table.caption_justify = "left"
    return table


def _evaluations(run: Experiment) -> int:
    """How often a run is measured."""
    return 1 + (run.training.steps - 1) // (run.evaluation.every or run.training.steps)


def _rows(run: Experiment) -> int:
    """Responses an optimizer step."""
    return run.training.prompts_per_step * run.rollout.group_size


def _models_table(sizes: Mapping[str, Footprint]) -> Table:
    table = _table("", *sizes)
    table.add_row("architecture", *(one.kind for one in sizes.values()))
    table.add_row("parameters", *(f"{one.parameters:,}" for one in sizes.values()))
    table.add_row("layers x width", *(f"{one.layers} x {one.width}" for one in sizes.values()))
    table.add_row("vocabulary", *(f"{one.vocabulary:,}" for one in sizes.values()))
    table.add_row("weights", *(_size(one.weights) for one in sizes.values()))
    return table


def _runs_compared(
    runs: list[tuple[str, Experiment]], lengths: Mapping[str, Lengths] | None, sized: bool
) -> Table:
    """Work of each run; prompts and memory only where data and sizes are known."""
    table = _table("", *(name for name, _ in runs), numbers=len(runs))
    columns = [
        _work(run)
        | (_memory(run, lengths[name]) if lengths and sized else {})
        | {quantity: f"{cost:.2f}" for quantity, cost in _teacher(run).items()}
        | asked_of_servers(run, _rows(run), lengths[name].most if lengths else None)
        | ({FREED: _size(freed_bytes(run))} if run.teacher.scores is not None else {})
        for name, run in runs
    ]
    if lengths:
        table.add_row("prompts looked at", *(lengths[name].looked_at(run) for name, run in runs))
        longest = (lengths[name].mean_and_most for name, _ in runs)
        table.add_row("tokens a prompt, mean and most", *longest)
    for quantity in reduce(or_, columns):
        table.add_row(quantity, *(column.get(quantity, "-") for column in columns))
    return table


def _work(run: Experiment) -> dict[str, str]:
    training, rollout = run.training, run.rollout
    rows = _rows(run)
    tokens = rows * rollout.max_new_tokens
    several = {"trainings, a seed each": f"{training.seeds:,}"} if training.seeds > 1 else {}
    rollouts = {"rollouts": f"{training.rollouts:,}"} if training.epochs > 1 else {}
    servers = len(getattr(rollout, "urls", ()))
    ahead = ", one step ahead" if rollout.ahead else ""
    sampled = {"rollout servers": f"{servers}{ahead}"} if servers > 1 or ahead else {}
    return several | {
        "optimizer steps": f"{training.steps:,}",
        **rollouts,
        **sampled,
        "responses a step": f"{rows:,}",
        "response tokens a step, at most": f"{tokens:,}",
        "response tokens in all, at most": f"{tokens * training.rollouts:,}",
    }


def _memory(run: Experiment, lengths: Lengths) -> dict[str, str]:
    try:
        needed = memory(run, lengths.most)
    except OutOfReachError as error:
        return {"memory": f"not known: {error}"}
    return {name: _size(size) for name, size in by_name(needed).items()}


def _teacher(run: Experiment) -> dict[str, float]:
    """Cost of scoring a step, in passes over the step's tokens."""
    return {
        f"teacher cost at {share:.0%} active": 1 + share * run.method.group
        for share in ACTIVE_SHARES
    }


def _evaluation(settings: Evaluation, who: list[str]) -> Table | str:
    if not settings.benchmarks:
        return "none"
    table, missing = _table("benchmark", "problems", "samples each", "completions", numbers=3), []
    for benchmark in settings.benchmarks:
        try:
            count = len(posed.problems(benchmark))
        except DataError as error:
            # The whole reason, once, below the table.
            missing.append(str(error))
            table.add_row(benchmark.benchmark, "not known", f"{settings.samples:,}", "not known")
            continue
        cells = (count, settings.samples, count * settings.samples)
        table.add_row(benchmark.benchmark, *(f"{cell:,}" for cell in cells))
    often = f", and every {settings.every} steps" if settings.every else ""
    table.caption = f"of {', '.join(who)}{often}"
    if missing:
        table.caption += f"\nnot known here: {missing[0]}"
    table.caption_justify = "left"
    return table


def _files_table(config: Experiment, runs: list[tuple[str, Experiment]], sized: bool) -> Table:
    output = Path(config.output)
    folder = next_folder(output, config.name)
    table = _table("where", "what")
    table.add_row(mlflow_store.store_uri(Path(config.output), config.tracking.uri), "MLflow runs")
    table.add_row(f"{folder}/{CONFIG}", "the configuration above")
    for name, run in runs:
        size = written(run.student) if sized else 0
        kind = "model" if run.student.lora is None else "adapters"
        model = f"{kind} ({_size(size)})" if sized else kind
        last_one = f" (about {_size(3 * size)})" if sized else ""
        what = f"metrics, samples, {model}, last checkpoint{last_one}"
        if copies := run.training.copies:
            each = f" ({_size(copies * size)} in all)" if sized else ""
            what += f", {copies:,} copies of the student{each}"
        table.add_row(f"{folder}/{name}/", what)
    for name in config.evaluation.references:
        table.add_row(f"{folder}/{name}/", "its samples")
    return table


def _sweep_files(config: Experiment, sweep: Sweep, sized: bool, trials: list[Experiment]) -> Table:
    runs = sweep.trials * len(sweep.seeds)
    # A model, its last checkpoint, which is three times as large, and the copies that stay.
    copies = max(trial.training.copies for trial in trials)
    size = (4 + copies) * runs * max(written(one.student) for one in trials) if sized else 0
    about = f", at most about {_size(size)} in all" if sized else ""
    folder = f"{config.output}/{config.name}-sweep"
    table = _table("where", "what")
    table.add_row(mlflow_store.store_uri(Path(config.output), config.tracking.uri), "MLflow runs")
    table.add_row(
        f"{folder}/trial-*/", f"configuration, metrics, samples, models of each trial{about}"
    )
    if references := " and ".join(config.evaluation.references):
        table.add_row(f"{folder}/references/", f"samples of {references}")
    table.add_row(f"{folder}/", "what was found: sweep.json, plots, best.yaml")
    return table


def _pretrained(config: Pretraining) -> torch.nn.Module:
    """What a pretraining trains, of the same size: a new model, or another one that it goes on from."""
    from opdlab.pretraining import new_model

    if config.characters is None or config.architecture is None:
        assert config.start is not None
        return AutoModelForCausalLM.from_config(models.load_config(config.start))
    tokenizer = character_tokenizer(config.characters, config.architecture.max_positions)
    return new_model(config, tokenizer)


def _show_pretraining(config: Pretraining, to: Console) -> None:
    with torch.device("meta"):
        parameters = sum(p.numel() for p in _pretrained(config).parameters())
    table = _table("", "", numbers=1)
    table.add_row("parameters", f"{parameters:,}")
    table.add_row("weights", _size(4 * parameters))
    table.add_row("weights, gradients, AdamW's moments", _size(16 * parameters))
    table.add_row("optimizer steps", f"{config.steps:,}")
    table.add_row("traces in all", f"{config.steps * config.batch_size:,}")
    table.add_row("written to", f"{Path(config.output) / config.name}/")
    to.print(f"\n{BOLD}Model and work{END}")
    to.print(table)
    to.print(f"\n{BOLD}Evaluation{END}")
    to.print(_evaluation(config.evaluation, [config.name]))


def _table(*columns: str, numbers: int = 0) -> Table:
    """A table whose last `numbers` columns are aligned as numbers."""
    table = Table(box=None, pad_edge=False, show_header=any(columns))
    for index, column in enumerate(columns):
        right = index >= len(columns) - numbers
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    return table


def _size(size: float) -> str:
    """Bytes in the unit that reads best."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:,.1f} GiB"
