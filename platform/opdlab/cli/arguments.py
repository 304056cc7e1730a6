"""Arguments and options that several commands take."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from opdlab.cli import completion

File = Annotated[
    str,
    typer.Argument(
        metavar="EXPERIMENT",
        help="A YAML file, or the name of a shipped one (see `opdlab experiments`).",
        show_default=False,
        autocompletion=completion.experiments,
    ),
]


def overrides_like(example: str) -> Any:
    """The argument that replaces values of a file; `example` is one that the command takes."""
    return typer.Argument(
        metavar="KEY.PATH=VALUE",
        help=f"Values that replace those of the file, such as `{example}`.",
        show_default=False,
    )


Overrides = Annotated[list[str] | None, overrides_like("training.steps=20")]
Measuring = Annotated[list[str] | None, overrides_like("evaluation.samples=16")]
Pretraining = Annotated[list[str] | None, overrides_like("steps=20")]
Resume = Annotated[
    bool, typer.Option("--resume", help="Continue from the last checkpoint of the same experiment.")
]
Output = Annotated[str, typer.Option(help="Folder that experiments write to.")]


class Cluster(StrEnum):
    """Where submitit sends workers."""

    SLURM = "slurm"
    LOCAL = "local"


class Dtype(StrEnum):
    """Number formats of weights."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
