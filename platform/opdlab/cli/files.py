"""Commands that look at experiment files, and at what is installed."""

from __future__ import annotations

from typing import Annotated

import typer

from opdlab.cli.arguments import File, Overrides


def validate(experiment: File, overrides: Overrides = None) -> None:
    """Check an experiment and say every fault in it, with file, line and key.

    Example: [bold]opdlab validate my.yaml training.steps=20[/]
    """
    from opdlab.configuration import load, run_names
    from opdlab.console import shown

    config = load(experiment, overrides or ())
    runs = ", ".join(run_names(config))
    typer.echo(shown(f"{experiment} is valid: {config.kind} {config.name}, runs: {runs}"))


def plan(experiment: File, overrides: Overrides = None) -> None:
    """Show what an experiment would do: settings, sizes, memory, teacher cost, folders.

    No weights are loaded; nothing is trained or written. Example: [bold]opdlab plan quickstart[/]
    """
    from opdlab.configuration import load
    from opdlab.planning import show

    show(load(experiment, overrides or ()))


def prompts(
    experiment: File,
    overrides: Overrides = None,
    count: Annotated[int, typer.Option(min=0, help="Prompts that are printed.")] = 3,
) -> None:
    """Show prompts as the model reads them: as text with special tokens, lengths, rows that are left out.

    Nothing is trained; only the student's tokenizer is loaded. The exit status is 1 where training would
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
