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
            help="Train each run so many times, with other seeds, and compare methods over them; the "
            "same as `training.seeds=N`.",
            show_default=False,
        ),
    ] = None,
    anyway: Annotated[
        bool,
        typer.Option("--anyway", help="Train even if the memory does not suffice by the plan."),
    ] = False,
) -> None:
    """Train, evaluate and compare the runs of an experiment.

    Examples:

    [bold]opdlab train quickstart[/]

    [bold]opdlab train my.yaml training.steps=20 method.reward_weight=0.3[/]

    [bold]opdlab train my.yaml --seeds 5[/]  # is it the method, or the luck of one training?

    [bold]opdlab train my.yaml --resume[/]  # after Ctrl-C, a crash or a kill
    """
    from opdlab import api

    words = [*(overrides or []), *([f"training.seeds={seeds}"] if seeds else [])]
    again = shlex.join(["opdlab", "train", experiment, *words, "--resume"])
    api.train(api.load(experiment, *words), resume=resume, anyway=anyway, again=f"`{again}`")


def sweep(
    experiment: File,
    overrides: Overrides = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes that work on trials side by side.")
    ] = 1,
    devices_per_worker: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="GPUs that each worker has for itself. By default as many as a trial trains on "
            "(`training.devices`); workers share GPUs where there are fewer.",
            show_default=False,
        ),
    ] = None,
    cluster: Annotated[
        Cluster | None,
        typer.Option(
            help="Send the workers to a cluster by submitit: `slurm`, or `local` to try that here.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Search over the space of an experiment's `sweep` section, then say what was found.

    Stopped or killed, the same command goes on; on other machines with the same database it joins.

    Examples:

    [bold]opdlab sweep sweeps/lookahead --workers 2[/]

    [bold]opdlab sweep my.yaml --workers 4 training.devices=2[/]  # on eight GPUs, two a trial

    [bold]opdlab sweep my.yaml --workers 16 --cluster slurm sweep.storage=postgresql+psycopg://me@host/sweeps[/]
    """
    from opdlab.sweeps import sweep as run

    run(experiment, overrides or [], workers, cluster, devices_per_worker)


def pretrain(experiment: File, overrides: Pretraining = None, resume: Resume = False) -> None:
    """Make a small model from nothing, by supervised training on correct traces.

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

    `eval`, `diagnose` and teachers take adapters as they are; a model of its own is for other programs, and
    for training on.

    Example: [bold]opdlab merge runs/quickstart-001/lgr merged[/]
    """
    from opdlab.modelling import merge as run

    typer.echo(f"written: {run(str(source), folder, dtype.value)}")
