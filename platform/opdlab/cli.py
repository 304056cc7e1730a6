"""The command line. Only light modules are imported here, so that `--help` answers at once."""

from __future__ import annotations

import errno
import os
import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from opdlab import __version__, credentials
from opdlab.bench import app as bench_app
from opdlab.errors import ConfigError, OpdlabError

_QUIET = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}

app = typer.Typer(
    help=(
        "opdlab: the laboratory for on-policy distillation of language models.\n\n"
        "Begin with [bold]opdlab train quickstart[/], which needs neither a GPU nor a download: it "
        "trains a small student by OPD and by LGR and compares the two."
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

File = Annotated[
    str,
    typer.Argument(
        metavar="EXPERIMENT",
        help="A YAML file, or the name of a shipped one (see `opdlab experiments`).",
        show_default=False,
    ),
]


def _overrides(example: str) -> Any:
    """The argument that replaces values of a file; `example` is one that the command takes."""
    return typer.Argument(
        metavar="KEY.PATH=VALUE",
        help=f"Values that replace those of the file, such as `{example}`.",
        show_default=False,
    )


Overrides = Annotated[list[str] | None, _overrides("training.steps=20")]
Measuring = Annotated[list[str] | None, _overrides("evaluation.samples=16")]
Pretraining = Annotated[list[str] | None, _overrides("steps=20")]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on from the last checkpoint of the same experiment.")
]
Output = Annotated[str, typer.Option(help="Folder that experiments write to.")]


class Cluster(StrEnum):
    """Where submitit sends workers."""

    SLURM = "slurm"
    LOCAL = "local"


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"opdlab {__version__}")
        raise typer.Exit


@app.callback()
def _before(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the version and exit.", is_eager=True, callback=_show_version
        ),
    ] = False,
) -> None:
    # Training ends at a step of its own choosing, to save a checkpoint first.
    if context.invoked_subcommand not in ("train", "pretrain", "sweep"):
        signal.signal(signal.SIGTERM, _terminate)


@app.command()
def validate(experiment: File, overrides: Overrides = None) -> None:
    """Check an experiment and say every fault in it, with file, line and key.

    Example: [bold]opdlab validate my.yaml training.steps=20[/]
    """
    from opdlab.configuration import load, run_names
    from opdlab.console import shown

    config = load(experiment, overrides or ())
    runs = ", ".join(run_names(config))
    typer.echo(shown(f"{experiment} is valid: {config.kind} {config.name}, runs: {runs}"))


@app.command()
def plan(experiment: File, overrides: Overrides = None) -> None:
    """Show what an experiment would do: settings, sizes, memory, teacher cost, folders.

    No weights are loaded; nothing is trained or written. Example: [bold]opdlab plan quickstart[/]
    """
    from opdlab.configuration import load
    from opdlab.planning import show

    show(load(experiment, overrides or ()))


@app.command()
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
) -> None:
    """Train, evaluate and compare the runs of an experiment.

    Examples:

    [bold]opdlab train quickstart[/]

    [bold]opdlab train my.yaml training.steps=20 method.reward_weight=0.3[/]

    [bold]opdlab train my.yaml --seeds 5[/]  # is it the method, or the luck of one training?

    [bold]opdlab train my.yaml --resume[/]  # after Ctrl-C, a crash or a kill
    """
    from opdlab.training import train as run

    run(experiment, overrides or [], resume, seeds)


@app.command()
def sweep(
    experiment: File,
    overrides: Overrides = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes that work on trials side by side.")
    ] = 1,
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

    [bold]opdlab sweep my.yaml --workers 16 --cluster slurm sweep.storage=postgresql+psycopg://me@host/sweeps[/]
    """
    from opdlab.sweeps import sweep as run

    run(experiment, overrides or [], workers, cluster)


@app.command()
def pretrain(experiment: File, overrides: Pretraining = None, resume: Resume = False) -> None:
    """Make a small model from nothing, by supervised training on correct traces.

    Example: [bold]opdlab pretrain pretrain/student[/]
    """
    from opdlab.configuration import load_pretraining
    from opdlab.pretraining import pretrain as run

    run(load_pretraining(experiment, overrides or ()), resume)


@app.command("eval")
def evaluate(
    experiment: File,
    model: Annotated[
        str,
        typer.Option(
            help="A model folder, `embedded:NAME`, the folder of a run, or of the hub NAME@REVISION.",
            show_default=False,
        ),
    ],
    overrides: Measuring = None,
    server: Annotated[
        str | None,
        typer.Option(
            help="Base of OpenAI's API where the model is served, such as http://localhost:8000/v1; then "
            "only its tokenizer is read from --model.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Measure a model on the benchmarks of an experiment: mean@k, pass@k, intervals.

    Examples:

    [bold]opdlab eval quickstart --model embedded:teacher evaluation.samples=16[/]

    [bold]opdlab eval my.yaml --model runs/my-001/lgr 'evaluation.benchmarks=[{type: gsm8k}]'[/]

    [bold]opdlab eval my.yaml --model Qwen3-1.7B --server http://localhost:8000/v1[/]  # of vLLM, SGLang ...

    What was sampled is kept: after Ctrl-C or a kill the same command goes on.
    """
    from opdlab.evaluation import evaluate_command

    evaluate_command(experiment, model, overrides or [], server)


@app.command()
def regrade(
    run: Annotated[
        str,
        typer.Argument(help="Folder of a run, or its name below --output.", show_default=False),
    ],
    output: Output = "runs",
) -> None:
    """Judge a run's stored completions with the grader installed now; show verdicts that changed.

    No completion changes, and older verdicts stay beside the new ones, which count from then on.

    Examples:

    [bold]opdlab regrade quickstart-001/opd[/]  # after an upgrade

    [bold]opdlab regrade runs/evaluations/student-1a2b3c4d[/]  # where a grader had failed
    """
    from opdlab.evaluation import regrade as again

    again(run, output)


@app.command()
def samples(
    runs: Annotated[
        list[str],
        typer.Argument(
            help="Folder of a run, or its name below --output; or of two, side by side.",
            show_default=False,
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


@app.command()
def compare(
    runs: Annotated[
        list[str],
        typer.Argument(help="Folders of runs, or their names below --output.", show_default=False),
    ],
    output: Output = "runs",
) -> None:
    """Compare runs problem by problem: paired differences with intervals and p-values.

    The others are set against the first. Runs joined by commas are training seeds of one method, as is the
    name of a run that was trained with several seeds; each side then needs the same seeds.

    Examples:

    [bold]opdlab compare quickstart-001/opd quickstart-001/lgr[/]

    [bold]opdlab compare seeds-001/opd seeds-001/lgr[/]  # methods, over the seeds of `--seeds`
    """
    from opdlab.evaluation import compare as run

    run(runs, output)


@app.command()
def doctor(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="EXPERIMENT | objective [FILE]  [KEY=VALUE ...]",
            help="An experiment to examine; or `objective`, with a Python file that holds a method, an "
            "experiment, or nothing for all that is installed.",
            show_default=False,
        ),
    ],
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the table of objectives as Markdown.")
    ] = False,
) -> None:
    """Look for what could spoil an experiment, before it costs anything.

    Packages, versions, device and disk; tokenizers and templates; whether samples, scores and gradients are
    what they should be. Each line passes, fails with a remedy, or says why it was skipped; the exit
    status is 1 where one failed.

    `doctor objective` says which true gradient an objective has, by running its own code on every answer of
    a tiny world, and whether that is what it declares.

    Examples:

    [bold]opdlab doctor quickstart[/]

    [bold]opdlab doctor objective[/]  # for every installed method, and controls that are known to be wrong

    [bold]opdlab doctor objective my_method.py weight=0.5[/]
    """
    if words[0] == "objective":
        from opdlab.doctor import report

        target, overrides = (words[1], words[2:]) if words[1:] else (None, [])
        healthy = report(target, overrides, markdown)
    else:
        from opdlab.doctor import examine

        healthy = examine(words[0], words[1:])
    if not healthy:
        raise SystemExit(1)


@app.command()
def diagnose(
    experiment: Annotated[
        str,
        typer.Argument(
            metavar="EXPERIMENT | RUN",
            help="An experiment; or the folder of a run, for its student before and after training.",
            show_default=False,
        ),
    ],
    overrides: Measuring = None,
    student: Annotated[
        list[str] | None,
        typer.Option(
            help="A model (of the hub: NAME@REVISION), or the folder of a run, in place of the "
            "experiment's; may be repeated, in the order of training.",
            show_default=False,
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(help="A model in place of the experiment's teacher.", show_default=False),
    ] = None,
    problems: Annotated[
        int | None,
        typer.Option(min=2, help="Test problems of each benchmark, at most.", show_default="all"),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Answers to each problem.")] = 1,
    cuts: Annotated[int, typer.Option(min=2, help="Places of hand-over.")] = 7,
    bins: Annotated[int, typer.Option(min=6, help="Bins of the position, at most.")] = 24,
    least: Annotated[
        float,
        typer.Option(
            min=0.0, max=1.0, help="Fidelity that counts for the effective horizon (C_min)."
        ),
    ] = 0.8,
) -> None:
    """Measure how the teacher's supervision decays along a student's answers, and write a page.

    Fidelity by position against the teacher's own prefixes, accuracy where the teacher takes over, jump of
    confidence, sigmoid fit, effective horizon, one-step discriminability, pair distance.

    Examples:

    [bold]opdlab diagnose quickstart[/]

    [bold]opdlab diagnose runs/quickstart-001/lgr[/]  # before and after that run's training

    [bold]opdlab diagnose my.yaml --student runs/my-001/opd --student runs/my-001/lgr[/]
    """
    from opdlab.diagnosis import Settings, diagnose as run

    settings = Settings(problems, samples, cuts, bins, least)
    run(experiment, overrides or [], student or [], teacher, settings)


@app.command()
def power(
    experiment: File,
    overrides: Measuring = None,
    accuracy: Annotated[
        float, typer.Option(min=0.01, max=0.99, help="Expected share of correct samples.")
    ] = 0.5,
    like: Annotated[
        list[str] | None,
        typer.Option(
            help="An earlier run to take the spread from; twice, for two whose difference is like the "
            "one looked for.",
            show_default=False,
        ),
    ] = None,
    output: Output = "runs",
) -> None:
    """Say how large a difference must be for an experiment's evaluation to find it; nothing is run.

    Examples:

    [bold]opdlab power my.yaml evaluation.samples=32 --accuracy 0.4[/]

    [bold]opdlab power my.yaml --like my-001/opd --like my-001/lgr[/]
    """
    from opdlab.evaluation import show

    show(experiment, overrides or [], accuracy, like or [], output)


@app.command()
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
    """Rank everything that was measured, as far as it can be told apart; write a page and tables.

    Examples:

    [bold]opdlab leaderboard[/]

    [bold]opdlab leaderboard http://127.0.0.1:5000 more-runs --to site[/]
    """
    from opdlab import plugins

    show = plugins.load(plugins.DASHBOARDS, "leaderboard")
    show(sources or ["runs"], to, benchmark or [])


@app.command()
def report(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN",
            help="Folders of runs, or of a whole execution, here or below --output; the first run is what "
            "the others are set against.",
            show_default=False,
        ),
    ],
    output: Annotated[
        str, typer.Option(help="Folder that experiments write to, or address of an MLflow store.")
    ] = "runs",
    to: Annotated[str, typer.Option(help="File to write.")] = "report.html",
) -> None:
    """Write one page on an experiment: what is shown, what is not, and what it would take.

    Examples:

    [bold]opdlab report quickstart-001[/]

    [bold]opdlab report quickstart-001 --output http://127.0.0.1:5000[/]
    """
    from opdlab import plugins

    plugins.load(plugins.DASHBOARDS, "report")(runs, output, to)


@app.command()
def ui(
    output: Output = "runs",
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="Port of the page on this machine.")
    ] = 5000,
    uri: Annotated[
        str | None,
        typer.Option(help="MLflow store, where it is not the one in the output folder."),
    ] = None,
) -> None:
    """Open the MLflow page on what was tracked; Ctrl-C ends it."""
    from opdlab.tracking import serve

    serve(output, port, uri)


@app.command()
def sync(output: Output = "runs") -> None:
    """Send to MLflow what could not be sent while its server was away."""
    from opdlab.tracking import sync as run

    run(output)


@app.command()
def experiments() -> None:
    """List the experiments that come with the package."""
    from rich.table import Table

    from opdlab.configuration import documents
    from opdlab.console import console
    from opdlab.files import shipped

    table = Table("name", "what it is to find out", box=None, pad_edge=False)
    for name, path in shipped.experiments().items():
        table.add_row(
            name, str(documents.read(path, str(path)).data.get("description", "")).strip()
        )
    console.print(table)


@app.command("plugins")
def list_plugins() -> None:
    """List installed methods, rollout engines and evaluators, and those that cannot be used."""
    from rich.table import Table

    from opdlab import plugins
    from opdlab.console import END, RED, console

    table = Table("kind", "type", "package", "what it is", box=None, pad_edge=False)
    for group in (plugins.METHODS, plugins.ROLLOUTS, plugins.EVALUATORS):
        for name in plugins.names(group):
            try:
                text = plugins.summary(plugins.load(group, name))
            except plugins.PluginError as error:
                text = f"{RED}{error}{END}"
            table.add_row(group.removeprefix("opdlab."), name, plugins.package(group, name), text)
    console.print(table)


data_app = typer.Typer(help="Data of benchmarks.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(bench_app, name="bench")


@data_app.command("check")
def check_data(
    benchmarks: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="BENCHMARK",
            help="Types, as in an experiment; all that have data by default.",
            show_default=False,
        ),
    ] = None,
    path: Annotated[
        str | None, typer.Option(help="File or folder with the data, in place of OPDLAB_DATA.")
    ] = None,
    grade: Annotated[
        bool,
        typer.Option(
            "--grade",
            help="Also grade rewritten and wrong answers: other problems' answers, trivial programs.",
        ),
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option(help="Grade only the first so many problems of each benchmark.", min=1),
    ] = None,
) -> None:
    """Check the data of benchmarks: count, hashes, and that each gold answer is judged right.

    --grade tests the grader on these data, too: the authors' solutions and rewritten answers must be judged
    right, other problems' answers and trivial programs wrong.

    Data are looked for in --path, in the folder that OPDLAB_DATA names, then on the hub. The exit code is 1
    if a benchmark fails, or if one that was named is missing.

    Examples:

    [bold]opdlab data check[/]  # for all of them

    [bold]opdlab data check aime_2026 --path downloads/aime_2026.jsonl[/]

    [bold]opdlab data check humaneval --grade --limit 20[/]
    """
    from opdlab.doctor import check

    check(benchmarks or [], path, grade, limit)


@app.command()
def schema() -> None:
    """Print the JSON schema of experiment files, for editors.

    Example: [bold]opdlab schema > experiment.schema.json[/]
    """
    import json

    from opdlab.configuration import json_schema

    typer.echo(json.dumps(json_schema(), indent=1, ensure_ascii=False))


def _terminate(number: int, frame: Any) -> NoReturn:
    raise SystemExit(128 + number)


_OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}
_OF_THE_DISK |= {errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR}
_OF_THE_DISK |= {errno.ELOOP, errno.EBUSY, errno.EMFILE, errno.ENFILE, errno.ESTALE}


def main() -> None:
    """Run a command; an error meant for people is one message on stderr, without a traceback."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    sys.argv[1:] = map(credentials.cut_argument, sys.argv[1:])
    try:
        app(prog_name=Path(sys.argv[0]).name)
    except OpdlabError as error:
        _fail(f"{type(error).__name__}: {error}", 2 if isinstance(error, ConfigError) else 1)
    except OSError as error:
        # A file may be taken away from under a command; without a name it is a fault of the program's own.
        if error.errno not in _OF_THE_DISK and not (error.filename and error.strerror):
            raise
        name = error.filename2 or error.filename
        place = f"{name} cannot be used: " if name else ""
        _fail(
            f"StorageError: {place}{error.strerror}. What was written before is whole: make room, give the "
            "rights or put the file right, and run the same command again",
            1,
        )


def _fail(message: str, code: int) -> NoReturn:
    from opdlab.console import shown

    # https://no-color.org: any text in the variable asks for none.
    text = shown(message)
    typer.echo(text if os.environ.get("NO_COLOR") else typer.style(text, fg="red"), err=True)
    raise SystemExit(code) from None
