"""Commands that look at experiment files, and at what is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from opdlab.cli.arguments import File, Overrides


def init(
    name: Annotated[
        str | None, typer.Argument(help="Name of the new experiment.", show_default=False)
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="Create a method with this name.", show_default=False)
    ] = None,
    evaluator: Annotated[
        str | None, typer.Option(help="Create an evaluator with this name.", show_default=False)
    ] = None,
    rollout: Annotated[
        str | None, typer.Option(help="Create a rollout engine with this name.", show_default=False)
    ] = None,
) -> None:
    """Create an experiment, or a package with a plugin and its test; both work unchanged.

    Examples:

    [bold]opdlab init my-study[/]  # writes my-study.yaml; its comments say what to change

    [bold]opdlab init --method jeffreys[/]  # writes opdlab-jeffreys/

    [bold]opdlab init --evaluator sums[/]
    """
    from opdlab.errors import ConfigError
    from opdlab.files import begin_experiment, begin_plugin

    asked = {"method": method, "evaluator": evaluator, "rollout": rollout}
    plugins = {kind: one for kind, one in asked.items() if one is not None}
    if len(plugins) + (name is not None) != 1:
        raise ConfigError(
            "init: say one thing to begin: a NAME for an experiment, --method, --evaluator or --rollout"
        )
    here = Path()
    if name is not None:
        file = begin_experiment(name, here)
        typer.echo(f"{file}: now `opdlab validate {file}`, then `opdlab train {file}`")
        return
    ((kind, called),) = plugins.items()
    folder = begin_plugin(kind, str(called), here)
    typer.echo(
        f"{folder}: now `pip install --editable ./{folder}`, `pytest {folder}`, then use the type "
        f"{str(called).replace('-', '_')}"
    )


def validate(experiment: File, overrides: Overrides = None) -> None:
    """Check an experiment and report every mistake, with file, line and key.

    Local models and prompt files must exist; none of them is loaded.

    Example: [bold]opdlab validate my.yaml training.steps=20[/]
    """
    from opdlab.configuration import Experiment, load, moving, run_names
    from opdlab.console import END, YELLOW, console, shown

    config = load(experiment, overrides or (), there=True)
    for note in moving(config) if isinstance(config, Experiment) else ():
        console.print(f"{YELLOW}{note}{END}", soft_wrap=True)
    runs = ", ".join(run_names(config))
    typer.echo(shown(f"{experiment} is valid: {config.kind} {config.name}, runs: {runs}"))


def plan(
    experiment: File,
    overrides: Overrides = None,
    gpu: Annotated[
        str | None,
        typer.Option(
            help="Plan for such cards: h100, h200, a100-80, a100-40, 4090, l40s, b200, mi300x; another "
            "name with --memory.",
            show_default=False,
        ),
    ] = None,
    gpus: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of cards, eight per machine.",
            show_default="the experiment's devices",
        ),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(help="Memory of a card, such as 24GB or 80GiB.", show_default=False),
    ] = None,
    price: Annotated[
        float | None,
        typer.Option(
            min=0.0, help="Price per card and hour, to compute the cost.", show_default=False
        ),
    ] = None,
    apply: Annotated[
        bool,
        typer.Option(
            "--apply", help="Print only the settings that fit, as arguments of other commands."
        ),
    ] = False,
) -> None:
    """Show what an experiment would do: settings, sizes, memory, teacher cost, folders.

    No weights are loaded; nothing is trained or written. With --gpu, or --memory for a card that is not
    listed: memory by phase, time and cost there, and settings that fit, from the models' shapes alone.

    Examples:

    [bold]opdlab plan quickstart[/]

    [bold]opdlab plan paper/7b --gpu h100 --gpus 8 --price 2.5[/]

    [bold]opdlab train my.yaml $(opdlab plan my.yaml --gpu 4090 --apply)[/]
    """
    from opdlab.configuration import load
    from opdlab.errors import ConfigError
    from opdlab.planning import Asked, card_of, show, show_on

    if gpu is None and memory is None:
        if gpus or apply or price is not None:
            raise ConfigError("--gpus, --price and --apply are for a plan with --gpu or --memory")
        show(load(experiment, overrides or ()))
        return
    asked = Asked(card_of(gpu, memory), gpus, price, apply)
    show_on(asked, load(experiment, overrides or ()))


def prompts(
    experiment: File,
    overrides: Overrides = None,
    count: Annotated[int, typer.Option(min=0, help="Number of prompts to print.")] = 3,
) -> None:
    """Show prompts as the model reads them: as text with special tokens, lengths, rows that are left
    out.

    Nothing is trained; only the student's tokenizer is loaded. The exit status is 1 if training would
    refuse the data.

    Example: [bold]opdlab prompts my.yaml --count 5[/]
    """
    from opdlab.prompts import show_prompts

    if not show_prompts(experiment, overrides or (), count):
        raise SystemExit(1)


def experiments() -> None:
    """List the experiments that come with the package."""
    from rich.table import Table

    from opdlab.configuration import documents
    from opdlab.console import console
    from opdlab.files import shipped

    table = Table("name", "what it is to find out", box=None, pad_edge=False)
    for name, path in shipped.experiments().items():
        table.add_row(
            name, str(documents.read(path, str(path)).data.get("description", "")).strip()
        )
    console.print(table)


def list_plugins() -> None:
    """List installed methods, rollout engines, evaluators and graders, and those that cannot be used."""
    from rich.table import Table

    from opdlab import plugins
    from opdlab.console import END, RED, console

    table = Table("kind", "type", "package", "what it is", box=None, pad_edge=False)
    for group in (plugins.METHODS, plugins.ROLLOUTS, plugins.EVALUATORS, plugins.GRADERS):
        for name in plugins.names(group):
            try:
                text = plugins.summary(plugins.load(group, name))
            except plugins.PluginError as error:
                text = f"{RED}{error}{END}"
            table.add_row(group.removeprefix("opdlab."), name, plugins.package(group, name), text)
    console.print(table)


def schema() -> None:
    """Print the JSON schema of experiment files, for editors.

    Example: [bold]opdlab schema > experiment.schema.json[/]
    """
    import json

    from opdlab.configuration import json_schema

    typer.echo(json.dumps(json_schema(), indent=1, ensure_ascii=False))
