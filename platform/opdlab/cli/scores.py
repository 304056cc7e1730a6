"""Commands that measure models, and set what was measured side by side."""

from __future__ import annotations

from typing import Annotated

import typer

from opdlab.cli import completion
from opdlab.cli.arguments import File, Measuring, Output, Overrides


def evaluate(
    experiment: File,
    model: Annotated[
        str,
        typer.Option(
            help="A model folder, `embedded:NAME`, the folder of a run, or NAME@REVISION on the hub.",
            show_default=False,
        ),
    ],
    overrides: Measuring = None,
    server: Annotated[
        str | None,
        typer.Option(
            help="Base URL of the OpenAI API that serves the model, such as "
            "http://localhost:8000/v1; only the tokenizer is then read from --model.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int,
        typer.Option(
            min=1,
            help="Number of processes that sample answers, each on its own GPU if there are enough.",
        ),
    ] = 1,
) -> None:
    """Measure a model on the benchmarks of an experiment: mean@k, pass@k, intervals.

    Examples:

    [bold]opdlab eval quickstart --model embedded:teacher evaluation.samples=16[/]

    [bold]opdlab eval my.yaml --model runs/my-001/lgr 'evaluation.benchmarks=[{type: gsm8k}]'[/]

    [bold]opdlab eval my.yaml --model runs/my-001/lgr --workers 4[/]  # on four GPUs

    [bold]opdlab eval my.yaml --model Qwen3-1.7B --server http://localhost:8000/v1[/]  # of vLLM, SGLang ...

    Samples are stored as they arrive. After an interruption, run the same command again to continue.
    """
    from opdlab import api

    config = api.load(experiment, *overrides or ())
    api.evaluate(model, config, server=server, workers=workers).show()


def regrade(
    run: Annotated[
        str,
        typer.Argument(
            help="Folder of a run, or its name below --output.",
            show_default=False,
            autocompletion=completion.runs,
        ),
    ],
    output: Output = "runs",
) -> None:
    """Judge a run's stored completions with the grader installed now; show verdicts that changed.

    No completion changes, and older verdicts stay beside the new ones, which count from then on.

    Examples:

    [bold]opdlab regrade quickstart-001/opd[/]  # after an upgrade

    [bold]opdlab regrade runs/evaluations/student-1a2b3c4d[/]  # after a grader failed
    """
    from opdlab.evaluation import regrade as again

    again(run, output)


def rate(
    experiment: File,
    to: Annotated[
        str,
        typer.Option(
            help="JSON Lines file to write: the rows with `pass_rate`.", show_default=False
        ),
    ],
    overrides: Overrides = None,
    samples: Annotated[int, typer.Option(help="Answers to each prompt.", min=1)] = 8,
) -> None:
    """Measure how often the student answers each training prompt correctly, to select prompts of medium
    difficulty.

    The prompts must be a data set with a grader. Answers are sampled as in training and stored beside
    the file. After an interruption, run the same command again to continue.

    Examples:

    [bold]opdlab rate my.yaml --to rated.jsonl[/]

    [bold]opdlab train my.yaml prompts.path=rated.jsonl 'prompts.where=pass_rate < 0.9'[/]
    """
    from opdlab.evaluation import rate as run

    run(experiment, overrides or [], to, samples)


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            help="Folders of runs, or their names below --output.",
            show_default=False,
            autocompletion=completion.runs,
        ),
    ],
    output: Output = "runs",
    to: Annotated[
        str | None,
        typer.Option(
            help="File to write as well: .md or .tex (booktabs) for the tables, .csv or .json for the "
            "differences with all digits, .svg, .png or .pdf for a forest plot of them.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Compare runs problem by problem: paired differences with intervals and p-values.

    Every run is compared with the first. Runs joined by commas are training seeds of one method; so is the
    name of a run that was trained with several seeds. Each side then needs the same seeds.

    Examples:

    [bold]opdlab compare quickstart-001/opd quickstart-001/lgr[/]

    [bold]opdlab compare seeds-001/opd seeds-001/lgr[/]  # methods, over the seeds of `--seeds`

    [bold]opdlab compare quickstart-001/opd quickstart-001/lgr --to table.tex[/]  # or differences.svg
    """
    from opdlab import api
    from opdlab.evaluation import export

    found = api.compare(*runs, output=output)
    found.show()
    if to:
        export(found, to)


def power(
    experiment: File,
    overrides: Measuring = None,
    accuracy: Annotated[
        float, typer.Option(min=0.01, max=0.99, help="Expected share of correct samples.")
    ] = 0.5,
    like: Annotated[
        list[str] | None,
        typer.Option(
            help="An earlier run whose spread is used; give two runs whose difference resembles "
            "the expected one.",
            show_default=False,
        ),
    ] = None,
    output: Output = "runs",
) -> None:
    """Compute the smallest difference that an experiment's evaluation can show; nothing is run.

    Examples:

    [bold]opdlab power my.yaml evaluation.samples=32 --accuracy 0.4[/]

    [bold]opdlab power my.yaml --like my-001/opd --like my-001/lgr[/]
    """
    from opdlab.evaluation import show

    show(experiment, overrides or [], accuracy, like or [], output)
