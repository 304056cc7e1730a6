"""Commands that train."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from opdlab.cli.arguments import Cluster, Dtype, File, Overrides, Pretraining, Resume


def train(
    experiment: File,
    overrides: Overrides = None,
    resume: Resume = False,
    seeds: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Train each run N times with different seeds, and compare methods over seeds; the "
            "same as `training.seeds=N`.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int,
        typer.Option(
            min=1,
            help="Number of runs trained at the same time, each in its own process and, if there are "
            "enough, on its own GPUs.",
        ),
    ] = 1,
    anyway: Annotated[
        bool,
        typer.Option("--anyway", help="Train even if the plan says that memory does not suffice."),
    ] = False,
) -> None:
    """Train, evaluate and compare the runs of an experiment.

    Examples:

    [bold]opdlab train quickstart[/]

    [bold]opdlab train my.yaml training.steps=20 method.reward_weight=0.3[/]

    [bold]opdlab train my.yaml --seeds 5[/]  # is it the method, or the luck of one training?

    [bold]opdlab train my.yaml --seeds 5 --workers 4[/]  # four at a time, a GPU each

    [bold]opdlab train my.yaml --resume[/]  # after Ctrl-C, a crash or a kill
    """
    from opdlab import api

    words = [*(overrides or []), *([f"training.seeds={seeds}"] if seeds else [])]
    several = ["--workers", str(workers)] if workers > 1 else []
    again = shlex.join(["opdlab", "train", experiment, *words, *several, "--resume"])
    loaded = api.load(experiment, *words)
    api.train(loaded, resume=resume, workers=workers, anyway=anyway, again=f"`{again}`")


def sweep(
    experiment: File,
    overrides: Overrides = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Worker processes; each runs one trial at a time.")
    ] = 1,
    devices_per_worker: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="GPUs for each worker. By default as many as a trial trains on "
            "(`training.devices`); workers share GPUs if there are fewer.",
            show_default=False,
        ),
    ] = None,
    cluster: Annotated[
        Cluster | None,
        typer.Option(
            help="Run the workers on a cluster with submitit: `slurm`, or `local` to try it on "
            "this machine.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Search over the space of an experiment's `sweep` section, then report the findings.

    After an interruption, run the same command again to continue. On other machines with the same
    database, the command joins the sweep.

    Examples:

    [bold]opdlab sweep sweeps/lookahead --workers 2[/]

    [bold]opdlab sweep my.yaml --workers 4 training.devices=2[/]  # on eight GPUs, two a trial

    [bold]opdlab sweep my.yaml --workers 16 --cluster slurm sweep.storage=postgresql+psycopg://me@host/sweeps[/]
    """
    from opdlab.sweeps import sweep as run

    run(experiment, overrides or [], workers, cluster, devices_per_worker)


def pretrain(experiment: File, overrides: Pretraining = None, resume: Resume = False) -> None:
    """Train a small model on correct traces, from scratch or from a language model.

    Example: [bold]opdlab pretrain pretrain/student[/]
    """
    from opdlab.configuration import load_pretraining
    from opdlab.pretraining import pretrain as run

    run(load_pretraining(experiment, overrides or ()), resume)


def merge(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            help="A run that trained adapters (`student.lora`), or a folder that holds some.",
            show_default=False,
        ),
    ],
    folder: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", help="Where the model is written.", show_default=False),
    ],
    dtype: Annotated[
        Dtype,
        typer.Option(
            help="Number format of its weights; half precision rounds small changes away."
        ),
    ] = Dtype.FLOAT32,
) -> None:
    """Write a whole model from a student's adapters and the model that they were trained on.

    `eval`, `diagnose` and teachers accept adapters; a whole model is for other programs and for further
    training.

    Example: [bold]opdlab merge runs/quickstart-001/lgr merged[/]
    """
    from opdlab.modelling import merge as run

    typer.echo(f"written: {run(str(source), folder, dtype.value)}")
