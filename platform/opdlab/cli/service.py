"""The command that serves a teacher's scores."""

from __future__ import annotations

from typing import Annotated

import typer

from opdlab import credentials
from opdlab.cli.arguments import Dtype


def teach(
    model: Annotated[
        str,
        typer.Argument(
            help="`embedded:NAME`, a folder, a GGUF file, or a name on the hub with its revision "
            "(`NAME@COMMIT`).",
            show_default=False,
        ),
    ],
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port; 0 for any that is free.")
    ] = 8765,
    host: Annotated[
        str,
        typer.Option(help="Address to listen at. One that other machines reach needs an API key."),
    ] = "127.0.0.1",
    devices: Annotated[
        str,
        typer.Option(
            help="A copy of the model on each, such as cuda:0,cuda:1.",
            show_default="a GPU if there is one",
        ),
    ] = "auto",
    dtype: Annotated[Dtype, typer.Option(help="Number format of its weights.")] = Dtype.FLOAT32,
    key_variable: Annotated[
        str, typer.Option(help="Environment variable with the API key, if any.")
    ] = credentials.TEACHING_KEY,
    waiting: Annotated[
        int,
        typer.Option(
            min=1, help="Requests at once; further ones get status 429 and are tried again later."
        ),
    ] = 128,
    tokens: Annotated[
        int,
        typer.Option(min=16, help="Tokens of prompts and answers in a request, and in a batch."),
    ] = 65536,
) -> None:
    """Serve a teacher: log-probabilities, distributions, and confidence after candidates.

    `teacher: {path: MODEL, server: {type: opdlab, url: ADDRESS}}` trains with it, `opdlab.Teacher(ADDRESS)`
    scores with it. Simultaneous requests are scored together.

    Examples:

    [bold]opdlab teach Qwen/Qwen3-8B@COMMIT --dtype bfloat16[/]

    [bold]OPDLAB_TEACH_KEY=... opdlab teach folder --host 0.0.0.0 --devices cuda:0,cuda:1[/]
    """
    from opdlab.errors import ConfigError
    from opdlab.service import Asked, serve
    from opdlab.serving import Limits, check_access

    try:
        check_access("http://localhost", key_variable)
    except ValueError as error:
        raise ConfigError(f"--key-variable: {error}") from None
    places = tuple(one.strip() for one in devices.split(",") if one.strip()) or ("auto",)
    serve(
        Asked(
            model,
            dtype=dtype.value,
            devices=places,
            host=host,
            port=port,
            key_variable=key_variable,
            places=waiting,
            limits=Limits(tokens=tokens),
        ),
        lambda line: typer.echo(line),
    )
