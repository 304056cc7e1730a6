"""The subcommands of `opdlab bench`."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(
    help=(
        "Ways to the same result side by side in one process, alternating: ratios of medians with "
        "quartiles, on this machine, now."
    ),
    no_args_is_help=True,
)


def _not_anothers(path: str | None) -> str | None:
    """A file for figures, refused before they are measured where it is somebody else's."""
    if path is not None:
        from pathlib import Path

        from opdlab.files import require_own_figures

        require_own_figures(Path(path))
    return path


ShapeText = Annotated[
    str,
    typer.Option(
        "--shape",
        help="Model with random weights: `width=512,layers=8,heads=8,kv=2,intermediate=1536,"
        "vocabulary=32000`; omitted keys keep these values.",
    ),
]
Rounds = Annotated[int, typer.Option(min=1, help="Measured rounds.")]
Device = Annotated[str, typer.Option(help="`cpu` or `cuda`.")]
Dtype = Annotated[str, typer.Option(help="Number format of weights: float32, bfloat16, float16.")]
Json = Annotated[
    str | None,
    typer.Option(
        "--json",
        help="Also write all numbers to this file.",
        show_default=False,
        callback=_not_anothers,
    ),
]
Threads = Annotated[
    int | None, typer.Option(min=1, help="CPU threads of torch.", show_default=False)
]
WAYS = "dense,segments,decode,prefill"


@app.command()
def scores(
    shape: ShapeText = "",
    rows: Annotated[int, typer.Option(min=1, max=64, help="Answers of a step.")] = 8,
    length: Annotated[int, typer.Option(min=2, help="Response tokens.")] = 256,
    rounds: Rounds = 9,
    device: Device = "cpu",
    threads: Threads = None,
    json_file: Json = None,
) -> None:
    """Training steps from scores on disk, by kind, beside SFT on the same rows."""
    from opdlab.bench import Shape, bench_stored
    from opdlab.modelling import use_threads

    use_threads(threads)
    bench_stored(Shape.parse(shape), rows, length, rounds, device, json_file)


@app.command()
def scoring(
    shape: ShapeText = "",
    length: Annotated[list[int] | None, typer.Option(help="Response tokens; repeatable.")] = None,
    top_k: Annotated[int, typer.Option(min=2, help="Candidates of an active position (K).")] = 8,
    active: Annotated[float, typer.Option(min=0.001, max=1, help="Active share.")] = 0.15,
    rows: Annotated[int, typer.Option(min=1, help="Responses.")] = 1,
    prompt: Annotated[int, typer.Option(min=1, help="Prompt tokens.")] = 1,
    ragged: Annotated[
        bool, typer.Option("--ragged", help="Responses of different lengths.")
    ] = False,
    shared_prompt: Annotated[
        bool, typer.Option("--shared-prompt", help="All responses answer one prompt.")
    ] = False,
    ways: Annotated[str, typer.Option(help="Alternatives to time; empty for none.")] = WAYS,
    rounds: Rounds = 5,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    threads: Threads = None,
    json_file: Json = None,
) -> None:
    """Teacher scoring with all candidates, in units of OPD's scoring pass.

    Examples:

    [bold]opdlab bench scoring --length 1024 --length 2048 --length 4096[/]

    [bold]opdlab bench scoring --device cuda --dtype bfloat16 --length 16384 --ways dense --shape
    width=3584,layers=28,heads=28,kv=4,intermediate=18944,vocabulary=152064[/] (a 7B teacher's)
    """
    from opdlab.bench import Shape, bench_scoring
    from opdlab.errors import ConfigError
    from opdlab.modelling import use_threads

    _check(device, dtype)
    use_threads(threads)
    chosen = [way.strip() for way in ways.split(",") if way.strip()]
    if unknown := [way for way in chosen if way not in WAYS.split(",")]:
        raise ConfigError(f"--ways: {unknown[0]!r} is not one of {WAYS}")
    bench_scoring(
        Shape.parse(shape),
        length or [1024],
        top_k,
        active,
        rows,
        prompt,
        ragged,
        shared_prompt,
        chosen,
        rounds,
        device,
        dtype,
        json_file,
    )


@app.command()
def memory(
    shape: ShapeText = "",
    length: Annotated[list[int] | None, typer.Option(help="Response tokens; repeatable.")] = None,
    top_k: Annotated[int, typer.Option(min=2, help="Candidates of an active position (K).")] = 8,
    active: Annotated[float, typer.Option(min=0.001, max=1, help="Active share.")] = 0.15,
    rows: Annotated[int, typer.Option(min=1, help="Responses.")] = 1,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="A folder or name on the hub, whose configuration is looked at instead of --shape; "
            "repeatable.",
            show_default=False,
        ),
    ] = None,
    json_file: Json = None,
) -> None:
    """Peak memory of a scoring pass by length, of OPD and of LGR, beside what `opdlab plan` predicts.

    With `--model`: weights, activations, keys and values, and what scoring holds, of models with random
    weights, beside what `plan` counts.

    Examples:

    [bold]opdlab bench memory --length 2048 --length 4096 --length 8192[/]

    [bold]opdlab bench memory --model Qwen/Qwen3-0.6B --rows 2 --length 256[/]
    """
    from opdlab.bench import Shape, bench_memory, bench_models

    _check(device, dtype)
    if model:
        bench_models(model, rows, (length or [256])[0], dtype, json_file)
        return
    lengths = sorted(length or [2048, 4096])
    bench_memory(Shape.parse(shape), lengths, top_k, active, rows, device, dtype, json_file)


@app.command()
def head(
    shape: ShapeText = "width=256,layers=1,heads=4,kv=2,intermediate=512,vocabulary=151936",
    tokens: Annotated[int, typer.Option(min=1, help="Rows projected.")] = 2048,
    rounds: Rounds = 3,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    threads: Threads = None,
    json_file: Json = None,
) -> None:
    """The vocabulary projection in chunks against the whole product: time and peak memory.

    Example: [bold]opdlab bench head --tokens 2048[/]
    """
    from opdlab.bench import Shape, bench_head
    from opdlab.modelling import use_threads

    _check(device, dtype)
    use_threads(threads)
    bench_head(Shape.parse(shape), tokens, rounds, device, dtype, json_file)


@app.command()
def rollout(
    shape: ShapeText = "width=384,layers=4,heads=6,kv=2,intermediate=1024,vocabulary=32000",
    rows: Annotated[int, typer.Option(min=1, help="Answers.")] = 16,
    new_tokens: Annotated[int, typer.Option(min=4, help="Longest answer.")] = 128,
    prompt: Annotated[int, typer.Option(min=1, help="Prompt tokens.")] = 32,
    top_k: Annotated[int, typer.Option(min=0, help="Candidates recorded (K).")] = 8,
    rounds: Rounds = 5,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    threads: Threads = None,
    json_file: Json = None,
) -> None:
    """Sampling answers by the engine `cached` and by the library's `generate`.

    Example: [bold]opdlab bench rollout --rows 32 --new-tokens 256 --dtype bfloat16[/]
    """
    from opdlab.bench import Shape, bench_rollout
    from opdlab.modelling import use_threads

    _check(device, dtype)
    use_threads(threads)
    model = Shape.parse(shape)
    bench_rollout(model, rows, new_tokens, prompt, top_k, rounds, device, dtype, json_file)


@app.command()
def step(
    experiment: Annotated[
        str, typer.Argument(metavar="EXPERIMENT", help="A YAML file or a shipped name.")
    ] = "quickstart",
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY.PATH=VALUE", show_default=False)
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of a run per turn.")] = 4,
    rounds: Rounds = 5,
    evaluation: Annotated[
        bool,
        typer.Option(
            help="Also measure evaluations, a batch of answers to each benchmark, for what the whole "
            "experiment would take."
        ),
    ] = True,
    profile: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Run more steps under torch's profiler: print the operators that take most, and "
            "write a trace of each run there, which ui.perfetto.dev shows as a flame chart.",
            show_default=False,
        ),
    ] = None,
    json_file: Json = None,
) -> None:
    """Where the time of a training step goes for each run, and how long the whole experiment would
    take.

    Trains some steps of every run, records and checkpoints included, and keeps nothing. From their
    speed, and that of an evaluation, it estimates how long the experiment and its sweep take on this
    machine.

    Examples:

    [bold]opdlab bench step quickstart training.prompts_per_step=16[/]

    [bold]opdlab bench step quickstart --profile traces[/]
    """
    from opdlab.bench import bench_step

    bench_step(experiment, overrides or [], steps, rounds, evaluation, profile, json_file)


@app.command()
def gpu(
    minutes: Annotated[
        float,
        typer.Option(
            min=0.1,
            help="Time limit; a case that would exceed it is not started, one that does is ended.",
        ),
    ] = 10,
    only: Annotated[
        str,
        typer.Option(
            help="Comma-separated parts: scoring, rollout, loss, step, memory; empty for all."
        ),
    ] = "",
    device: Annotated[
        str, typer.Option(help="`cuda`; `cpu` measures tiny models, to try the command.")
    ] = "cuda",
    dtype: Dtype = "bfloat16",
    to: Annotated[
        str,
        typer.Option(help="JSON file of the numbers; cases already in it are not measured again."),
    ] = "gpu.json",
) -> None:
    """What this card reaches, as shares of its ceilings: one table, one JSON file, one page with plots.

    Ceilings are a large matrix product, a large copy and one from the host, measured in the same run.
    Models have the shapes of Qwen2.5 1.5B and 7B and of Qwen3 1.7B, 8B and 32B, with random weights
    made on the card: nothing is downloaded. The most informative cases come first; after an
    interruption, run the same command again to continue. A case that hangs is ended and does not affect
    the others. TRL and vLLM are measured beside it where they are installed.

    Examples:

    [bold]opdlab bench gpu --minutes 10[/]

    [bold]opdlab bench gpu --only scoring,rollout --to h100.json[/]
    """
    from pathlib import Path

    from opdlab.bench import bench_gpu

    _check(device, dtype)
    parts = [part.strip() for part in only.split(",") if part.strip()]
    bench_gpu(minutes, parts, device, dtype, Path(to))


@app.command()
def statistics(
    studies: Annotated[int, typer.Option(min=100, help="Studies of each world.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random numbers.")] = 0,
    problems: Annotated[
        list[int] | None,
        typer.Option(min=2, help="Problems n; repeatable.", show_default="5 to 512"),
    ] = None,
    samples: Annotated[
        list[int] | None, typer.Option(min=1, help="Samples k; repeatable.", show_default="1 to 16")
    ] = None,
    json_file: Json = None,
) -> None:
    """Coverage and length of 95 % intervals, over a grid of simulated worlds.

    Scores, pass@k, means over benchmarks, paired differences and differences over training seeds: the
    intervals that are used beside others that were considered. Takes three minutes of processor time.

    Example: [bold]opdlab bench statistics --problems 30 --samples 8[/]
    """
    from opdlab.bench import bench_statistics

    bench_statistics(
        studies,
        seed,
        problems or (5, 8, 15, 30, 64, 175, 512),
        samples or (1, 2, 4, 8, 16),
        json_file,
    )


@app.command()
def families(
    only: Annotated[
        list[str] | None,
        typer.Option(help="An architecture; repeatable.", show_default="all that are built here"),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="A model of your own instead: a folder or a name on the hub.")
    ] = None,
    to: Annotated[str | None, typer.Option(help="Also write the table here, as Markdown.")] = None,
    json_file: Json = None,
) -> None:
    """Try architectures of transformers: tree scoring, cached rollouts, gradients, time.

    Each is built small with random weights. Differences are the largest from whole forwards of each row
    and candidate alone; times are over those of plain forwards of as many tokens. Takes some minutes.

    Example: [bold]opdlab bench families --only qwen3_5 --only nemotron_h[/]

    Example: [bold]opdlab bench families --model Qwen/Qwen3.5-0.8B[/]
    """
    from opdlab.bench import bench_families

    bench_families(only or [], model, to, json_file)


@app.command()
def start(
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each command; the best counts.")] = 3,
    json_file: Json = None,
) -> None:
    """Startup time of commands, in wall and processor seconds.

    Example: [bold]opdlab bench start --repeats 5[/]
    """
    from opdlab.bench import bench_start

    bench_start(repeats, json_file)


def _check(device: str, dtype: str) -> None:
    from opdlab.errors import ConfigError
    from opdlab.modelling import DTYPES

    if dtype not in DTYPES:
        raise ConfigError(f"--dtype: {dtype!r} is not one of {', '.join(DTYPES)}")
    if why := _unusable(device):
        raise ConfigError(f"--device: {why}")


def _unusable(device: str) -> str:
    """Why torch can compute nothing there; empty where it can."""
    import torch

    try:
        place = torch.device(device)
        if place.type != "cuda":
            torch.zeros(1, device=place).item()
            return ""
    except (RuntimeError, AssertionError, NotImplementedError):
        return f"torch cannot compute on {device!r} here; use cpu or cuda"
    if not torch.cuda.is_available():
        return "torch finds no CUDA device here; use cpu"
    # Asked for without a tensor there, whose memory this process would keep.
    count = torch.cuda.device_count()
    if (place.index or 0) < count:
        return ""
    return f"there is no {device} here; the last one is cuda:{count - 1}"
