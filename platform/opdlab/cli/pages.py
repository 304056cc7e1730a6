"""Commands that write pages, and serve or fill the store of MLflow."""

from __future__ import annotations

from typing import Annotated

import typer

from opdlab.cli import completion
from opdlab.cli.arguments import Output


def watch(
    run: Annotated[
        str | None,
        typer.Argument(
            help="Folder of a run, an execution or a sweep, here or below --output; by default the "
            "most recent one.",
            show_default=False,
            autocompletion=completion.trainings,
        ),
    ] = None,
    output: Output = "runs",
    page: Annotated[
        str | None,
        typer.Option(
            help="Write the same as a page that a browser refreshes by itself, to this file.",
            show_default=False,
        ),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Show it as it is now, and end.")] = False,
) -> None:
    """Watch a training that runs in another process: steps, time left, curves, the last answer.

    The command only reads. It ends with the training, or on Ctrl-C, which does not affect the training.

    Examples:

    [bold]opdlab watch[/]

    [bold]opdlab watch quickstart-001 --page watch.html[/]
    """
    from opdlab import plugins

    plugins.load(plugins.DASHBOARDS, "watch")(run, output, page, once)


def samples(
    runs: Annotated[
        list[str],
        typer.Argument(
            help="Folder of a run, or its name below --output; give two for a comparison side by side.",
            show_default=False,
            autocompletion=completion.runs,
        ),
    ],
    output: Output = "runs",
    to: Annotated[
        str | None,
        typer.Option(help="File to write; `samples.html` in the run's folder by default."),
    ] = None,
) -> None:
    """Write every sample of a run, or of two side by side, as a page that needs no server.

    Examples:

    [bold]opdlab samples quickstart-001/opd[/]

    [bold]opdlab samples quickstart-001/opd quickstart-001/lgr --to both.html[/]
    """
    from opdlab import plugins

    plugins.load(plugins.DASHBOARDS, "samples")(runs, output, to)


def leaderboard(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SOURCE",
            help="Folders of runs, or addresses of MLflow stores; `runs` by default.",
            show_default=False,
        ),
    ] = None,
    to: Annotated[str, typer.Option(help="Folder to write to.")] = "leaderboard",
    benchmark: Annotated[
        list[str] | None,
        typer.Option(help="Only this benchmark; may be repeated.", show_default=False),
    ] = None,
) -> None:
    """Rank all measured runs; those that a paired test cannot separate share a rank. Write a page and
    tables.

    Examples:

    [bold]opdlab leaderboard[/]

    [bold]opdlab leaderboard http://127.0.0.1:5000 more-runs --to site[/]
    """
    from opdlab import plugins

    show = plugins.load(plugins.DASHBOARDS, "leaderboard")
    show(sources or ["runs"], to, benchmark or [])


def report(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN",
            help="Folders of runs, or of a whole execution, here or below --output; the other runs "
            "are compared with the first.",
            show_default=False,
            autocompletion=completion.runs,
        ),
    ],
    output: Annotated[
        str, typer.Option(help="Folder that experiments write to, or address of an MLflow store.")
    ] = "runs",
    to: Annotated[
        str,
        typer.Option(
            help="File to write: a page (.html), or its tables as .tex, .md, .csv or .json."
        ),
    ] = "report.html",
) -> None:
    """Write a page on an experiment: what is shown, what is not, and how many more problems or seeds
    that would take.

    Examples:

    [bold]opdlab report quickstart-001[/]

    [bold]opdlab report quickstart-001 --output http://127.0.0.1:5000[/]

    [bold]opdlab report runs/my-sweep --to trials.csv[/]
    """
    from opdlab import plugins

    plugins.load(plugins.DASHBOARDS, "report")(runs, output, to)


def ui(
    output: Output = "runs",
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="Port of the page on this machine.")
    ] = 5000,
    uri: Annotated[
        str | None,
        typer.Option(help="MLflow store, if it is not the one in the output folder."),
    ] = None,
) -> None:
    """Serve MLflow on everything that was recorded, until Ctrl-C."""
    from opdlab.tracking import serve

    serve(output, port, uri)


def sync(output: Output = "runs") -> None:
    """Send to MLflow what could not be sent while its server was unreachable."""
    from opdlab.tracking import sync as run

    run(output)
