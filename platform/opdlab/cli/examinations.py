"""Commands that look for faults, and at how far a teacher can be relied on."""

from __future__ import annotations

from typing import Annotated

import typer

from opdlab.cli import completion
from opdlab.cli.arguments import File, Measuring, Overrides


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
    """Check models, tokenizers, sampling, scores and gradients of an experiment before training.

    Packages, versions, device and disk; tokenizers and templates; whether samples, scores and gradients
    are what they should be. Each line passes, fails with a remedy, or says why it was skipped; the exit
    status is 1 where one failed.

    `doctor objective` says which true gradient an objective has, by running its own code on every
    answer of a tiny world, and whether that is what it declares.

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


def diagnose(
    experiment: Annotated[
        str,
        typer.Argument(
            metavar="EXPERIMENT | RUN",
            help="An experiment; or the folder of a run, for its student before and after training.",
            show_default=False,
            autocompletion=completion.experiments_or_runs,
        ),
    ],
    overrides: Measuring = None,
    student: Annotated[
        list[str] | None,
        typer.Option(
            help="A model (on the hub: NAME@REVISION), or the folder of a run, instead of the "
            "experiment's; may be repeated, in the order of training.",
            show_default=False,
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(help="A model instead of the experiment's teacher.", show_default=False),
    ] = None,
    problems: Annotated[
        int | None,
        typer.Option(min=2, help="Most test problems per benchmark.", show_default="all"),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Answers to each problem.")] = 1,
    cuts: Annotated[
        int, typer.Option(min=2, help="Prefix lengths from which the teacher completes answers.")
    ] = 7,
    bins: Annotated[int, typer.Option(min=6, help="Most bins of the position.")] = 24,
    least: Annotated[
        float,
        typer.Option(
            min=0.0, max=1.0, help="Threshold of fidelity for the effective horizon (C_min)."
        ),
    ] = 0.8,
) -> None:
    """Measure how the teacher's supervision decays along a student's answers, and write a page.

    Fidelity by position against the teacher's own prefixes, accuracy when the teacher completes
    answers, jump of confidence, sigmoid fit, effective horizon, one-step discriminability, pair
    distance.

    Examples:

    [bold]opdlab diagnose quickstart[/]

    [bold]opdlab diagnose runs/quickstart-001/lgr[/]  # before and after that run's training

    [bold]opdlab diagnose my.yaml --student runs/my-001/opd --student runs/my-001/lgr[/]
    """
    from opdlab import api

    api.diagnose(
        experiment,
        *overrides or (),
        students=student or (),
        teacher=teacher,
        problems=problems,
        samples=samples,
        cuts=cuts,
        bins=bins,
        least=least,
    ).show()


def check_data(
    benchmarks: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="BENCHMARK",
            help="Types, as in an experiment, or experiment files; all that have data by default.",
            show_default=False,
        ),
    ] = None,
    path: Annotated[
        str | None, typer.Option(help="File or folder with the data, instead of OPDLAB_DATA.")
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
        typer.Option(help="Grade only the first N problems of each benchmark.", min=1),
    ] = None,
) -> None:
    """Check the data of benchmarks: count, hashes, and whether each reference answer is judged correct.

    --grade tests the grader on these data, too: the authors' solutions and rewritten answers must be
    judged correct, other problems' answers and trivial programs wrong.

    Data are looked for in --path, in the folder that OPDLAB_DATA names, then on the hub. The exit code
    is 1 if a benchmark fails, or if one that was named is missing.

    Examples:

    [bold]opdlab data check[/]  # for all of them

    [bold]opdlab data check aime_2026 --path downloads/aime_2026.jsonl[/]

    [bold]opdlab data check humaneval --grade --limit 20[/]

    [bold]opdlab data check my.yaml --grade[/]  # the benchmarks of an experiment
    """
    from opdlab.doctor import check

    check(benchmarks or [], path, grade, limit)


def check_judge(
    experiment: File,
    labels: Annotated[
        str,
        typer.Option(
            help="File with the columns prompt, answer, reference and label (correct or wrong).",
            show_default=False,
        ),
    ],
    overrides: Overrides = None,
    to: Annotated[
        str | None,
        typer.Option(
            help="JSON Lines file for the judge's verdicts and replies.", show_default=False
        ),
    ] = None,
) -> None:
    """Measure how well an experiment's judge agrees with human labels: agreement, kappa, disagreements.

    Examples:

    [bold]opdlab judge check my.yaml --labels labels.jsonl[/]

    [bold]opdlab judge check my.yaml --labels labels.csv --to judged.jsonl[/]
    """
    from opdlab.doctor import check_judge as run

    run(experiment, labels, overrides or [], to)
