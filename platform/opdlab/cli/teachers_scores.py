"""The command that puts a teacher's scores on disk."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from opdlab.cli.arguments import File, Overrides


class Keep(StrEnum):
    """Which answers are kept."""

    ALL = "all"
    CORRECT = "correct"


def score(
    experiment: File,
    overrides: Overrides = None,
    answers: Annotated[
        str,
        typer.Option(
            help="Whose answers are scored: `given` by the data, samples of the `teacher` or of the "
            "`student`, or a run (its folder, or its name below `output`): those of its last evaluation.",
            metavar="given|teacher|student|RUN",
        ),
    ] = "given",
    out: Annotated[
        Path, typer.Option(help="Folder that gets the scores.", show_default=False)
    ] = Path("scores"),
    kind: Annotated[
        str,
        typer.Option(
            help="What is kept of the teacher's distribution before each token: `hidden` or "
            "`hidden:float32` (all of it), `drawn:12` (tokens drawn from it), `top_k:64` (its likeliest "
            "tokens, and the rest as one), `sampled` (the answer's token)."
        ),
    ] = "hidden",
    samples: Annotated[int, typer.Option(min=1, help="Answers to each prompt.")] = 1,
    keep: Annotated[Keep, typer.Option(help="All answers, or those that are right.")] = Keep.ALL,
    prompts: Annotated[
        int | None,
        typer.Option(min=1, help="How many prompts.", show_default="all of a data set, each once"),
    ] = None,
    plan: Annotated[
        bool,
        typer.Option(
            "--plan", help="Print the bytes and hours that it takes, and do nothing else."
        ),
    ] = False,
) -> None:
    """Score answers with an experiment's teacher once, to train on the scores many times.

    After an interruption, run the same command again to continue. Run it on other devices or machines that
    see the folder to share the work. `teacher: {scores: FOLDER}` trains from the folder.

    Examples:

    [bold]opdlab score my.yaml --answers given --out scores[/]

    [bold]opdlab score my.yaml --answers teacher --samples 4 --keep correct --kind drawn:12[/]

    [bold]opdlab score my.yaml --answers my-001/opd --keep correct --kind top_k:64[/]

    [bold]opdlab score my.yaml --answers student --prompts 1000 --kind top_k:64 --plan[/]
    """
    from opdlab import api
    from opdlab.errors import writing_to

    config = api.load(experiment, *(overrides or []))
    asked = {"answers": answers, "kind": kind, "samples": samples, "keep": keep.value}
    if plan:
        api.plan_scores(config, prompts=prompts, **asked).show()
        return
    with writing_to(out, "--out"):
        found = api.score(config, out, prompts=prompts, **asked)
    typer.echo(found.told)
    if not found.finished:
        raise typer.Exit(1)
