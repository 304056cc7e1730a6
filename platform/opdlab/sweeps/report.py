"""What a sweep found: the best trials with intervals, what matters, Optuna's plots, a config to train."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from rich.table import Table

from opdlab import plugins
from opdlab.configuration import Experiment, loader
from opdlab.console import BOLD, DIM, END, RED, YELLOW, console
from opdlab.errors import DataError
from opdlab.evaluation import STYLE, comparison
from opdlab.files import write_whole
from opdlab.sweeps import study as studies
from opdlab.sweeps.importance import (
    FEWEST,
    Group,
    Share,
    groups,
    importance,
    importance_figure,
    of_one_objective,
)
from opdlab.sweeps.settings import Sweep
from opdlab.sweeps.space import Dimension
from opdlab.sweeps.study import Progress, SweepError
from opdlab.sweeps.worker import trial_config
from opdlab.tracking import Tracker, mlflow_page

BEST = "best.yaml"
SHOWN = 8
LARGEST_LINK = 100
CONTOUR_ROW = 200  # pixels
COMPLETE = TrialState.COMPLETE


def standing(study: optuna.Study, sweep: Sweep, state: Progress) -> str:
    """One line on a running sweep: how trials ended, and the best so far."""
    ended = [trial.state.name.lower() for trial in state.finished.values()]
    counts = [f"{ended.count(name)} {name}" for name in ("complete", "pruned", "fail")]
    parts = [", ".join(counts), f"{state.running} running"]
    best = ranked(state, sweep, ()) if len(sweep.objectives) == 1 else []
    if best and feasible(best[0]):
        parts.append(f"best {best[0].values[0]:.4g} (trial {studies.first_number(best[0])})")
    return "  ".join(parts)


def ranked(state: Progress, sweep: Sweep, front: Container[int]) -> list[FrozenTrial]:
    """Complete trials, the best first: within the limits, on the Pareto front, by each objective in turn.

    Args:
        front: numbers of the trials on the Pareto front.
    """
    signs = [-1 if one.direction == "maximize" else 1 for one in sweep.objectives]

    def place(trial: FrozenTrial) -> tuple[bool, bool, list[float]]:
        values = [sign * value for sign, value in zip(signs, trial.values, strict=True)]
        return not feasible(trial), studies.first_number(trial) not in front, values

    return sorted((t for t in state.finished.values() if t.state == COMPLETE), key=place)


def feasible(trial: FrozenTrial) -> bool:
    """Whether a trial keeps every constraint."""
    return all(value <= 0 for value in trial.constraints.values())


def write(
    config: Experiment, sweep: Sweep, study: optuna.Study, record: Tracker, experiment: str
) -> None:
    """Print the findings, and keep them in the sweep's folder and in MLflow.

    Raises:
        SweepError: trials ended, and none was completed.
    """
    state = studies.progress(study)
    folder = studies.folder_of(config)
    front = pareto_front(study)
    trials = ranked(state, sweep, front)
    shares = {
        objective.metric: importance(of_one_objective(study, index))
        for index, objective in enumerate(sweep.objectives)
    }
    content = {
        "objectives": [objective.model_dump() for objective in sweep.objectives],
        "space": {key: described(one) for key, one in sweep.space.items()},
        "trials": [row(trial) for trial in state.finished.values()],
        "pareto_front": sorted(front),
        "importance": {
            metric: {key: asdict(share) for key, share in found.items()}
            for metric, found in shares.items()
        },
    }
    results = folder / "sweep.json"
    write_whole(results, json.dumps(content, indent=1) + "\n")
    record.artifact(results)
    for path in plots(study, sweep, shares, folder / "plots"):
        record.artifact(path, "plots")
    if (run := len(state.finished)) < sweep.trials and studies.exhausted(study, sweep):
        console.print(
            f"{YELLOW}The space has {run} points, and all were tried{END}; equal trials come out the same."
        )
    elif run < sweep.trials:
        console.print(
            f"{YELLOW}The time budget ended the sweep after {run} of {sweep.trials} trials{END}; "
            f"run the same command again to continue."
        )
    if not state.finished:
        return
    say_failures(state, folder)
    if not trials:
        raise SweepError(f"no trial was completed; {results} has all of them")
    console.print(trials_table(trials, sweep, front))
    if len(sweep.space) > 1:
        say_what_matters(study, sweep, shares)
    if feasible(trials[0]):
        _compare(folder, trials, config, sweep)
        best = save_best(config, sweep, trials, front, record)
        also = f"; all on the Pareto front: {folder / 'front'}" if front else ""
        console.print(f"best: {BOLD}opdlab train {best}{END}{also}; plots: {folder / 'plots'}")
    else:
        (folder / BEST).unlink(missing_ok=True)
        say_none_kept(trials)
        console.print(f"plots: {folder / 'plots'}")
    ids = [t.user_attrs["mlflow_run"] for t in trials if "mlflow_run" in t.user_attrs]
    ids = ids[:LARGEST_LINK]
    mlflow_page.show_link(config.output, config.tracking.uri, experiment, ids, view=record.run_id)


def say_failures(state: Progress, folder: Path) -> None:
    """Print each distinct reason why trials failed; why they were pruned, too, where none was completed."""
    ended = {n: trial for n, trial in state.finished.items() if trial.state != COMPLETE}
    if len(ended) < len(state.finished):
        ended = {n: trial for n, trial in ended.items() if trial.state == TrialState.FAIL}
    numbers: dict[str, list[int]] = {}
    reasons: dict[str, str] = {}
    for number, trial in ended.items():
        name = f"trial-{number:04d}"
        reason = (
            trial.user_attrs.get("reason") or f"no reason was left: see {folder / name}/log.txt"
        )
        said = f"{trial.state.name.lower()}: {reason}"
        # Each names the log of its own.
        same = said.replace(name, "trial")
        reasons.setdefault(same, said)
        numbers.setdefault(same, []).append(number)
    for same, said in reasons.items():
        which = ", ".join(map(str, numbers[same]))
        console.print(f"{RED}trial {which}{END} {said}", soft_wrap=True)


def say_none_kept(trials: Sequence[FrozenTrial]) -> None:
    """Say that every trial broke a limit, and for each limit how near the nearest came."""
    console.print(f"{RED}No trial kept all limits{END}, so there is no best one:")
    for limit in trials[0].constraints:
        kept = sum(trial.constraints[limit] <= 0 for trial in trials)
        nearest = min(trials, key=lambda trial: trial.constraints[limit])
        number, excess = studies.first_number(nearest), nearest.constraints[limit]
        missed = f"missed by {excess:.3g} in trial {number}, the nearest"
        near = f"kept by {kept} of {len(trials)} trials" if kept else missed
        console.print(f"  {limit}: {near}")


def save_best(
    config: Experiment,
    sweep: Sweep,
    trials: Sequence[FrozenTrial],
    front: Container[int],
    record: Tracker,
) -> Path:
    """Keep the first of the trials as the best, with those on the Pareto front; returns what to train."""
    folder = studies.folder_of(config)
    best = save_config(config, sweep, trials[0], "best", folder / BEST)
    record.artifact(best)
    if front:
        for path in save_front(config, sweep, trials, front, folder / "front"):
            record.artifact(path, "front")
    for objective, value in zip(sweep.objectives, trials[0].values, strict=True):
        record.set({f"best/{objective.metric}": value})
    return best


def save_config(
    config: Experiment, sweep: Sweep, trial: FrozenTrial, name: str, path: Path
) -> Path:
    """A trial as an experiment to train, measured as the one of the sweep is."""
    update = {"name": f"{config.name}-{name}", "evaluation": config.evaluation}
    loader.save_resolved(trial_config(config, sweep, trial.params).model_copy(update=update), path)
    return path


def save_front(
    config: Experiment,
    sweep: Sweep,
    trials: Sequence[FrozenTrial],
    front: Container[int],
    folder: Path,
) -> list[Path]:
    """An experiment to train for each trial on the Pareto front, and for no other."""
    folder.mkdir(exist_ok=True)
    for earlier in folder.glob("trial-*.yaml"):
        earlier.unlink()
    names = {f"trial-{n:04d}": t for t in trials if (n := studies.first_number(t)) in front}
    return [
        save_config(config, sweep, trial, name, folder / f"{name}.yaml")
        for name, trial in names.items()
    ]


def pareto_front(study: optuna.Study) -> set[int]:
    """Trials within the constraints that no other beats in one objective without losing in another.

    Empty where there is one objective, which has a best trial instead.
    """
    if len(study.directions) == 1:
        return set()
    return {studies.first_number(trial) for trial in study.best_trials}


def row(trial: FrozenTrial) -> dict[str, Any]:
    """A trial as plain values."""
    return {
        "trial": studies.first_number(trial),
        "state": trial.state.name.lower(),
        "params": trial.params,
        "values": trial.values if trial.state == COMPLETE else None,
        "constraints": trial.constraints,
        "reason": trial.user_attrs.get("reason", ""),
        "metrics": {k: v for k, v in trial.user_attrs.items() if isinstance(v, float)},
    }


def described(one: Dimension) -> dict[str, Any]:
    """A key's range as plain values; of whole sections that are chosen by a name, the names."""
    told = one.model_dump(mode="json")
    return {**told, "values": list(told["values"])} if "values" in told else told


def plots(
    study: optuna.Study, sweep: Sweep, shares: Mapping[str, dict[str, Share]], folder: Path
) -> list[Path]:
    """Optuna's interactive plots as pages of their own; those that the trials do not allow are left out.

    Args:
        shares: importance of each key for each objective; of an objective without, it is not drawn.
    """
    import optuna.visualization as draw

    folder.mkdir(exist_ok=True)
    metrics = [objective.metric for objective in sweep.objectives]
    makers: dict[str, Callable[[], Any]] = {}
    for index, metric in enumerate(metrics):
        alone, options = of_one_objective(study, index), {"target_name": metric}
        suffix = "" if len(metrics) == 1 else f"-{metric.replace('/', '-')}"
        for name in ("optimization_history", "parallel_coordinate", "slice", "contour"):
            makers[name + suffix] = partial(getattr(draw, f"plot_{name}"), alone, **options)
        if shares[metric]:
            makers["param_importances" + suffix] = partial(
                importance_figure, shares[metric], metric, conditions(sweep)
            )
    if len(metrics) == 1:
        makers["intermediate_values"] = lambda: draw.plot_intermediate_values(study)
    elif len(metrics) <= 3:
        makers["pareto_front"] = lambda: draw.plot_pareto_front(study, target_names=metrics)
    makers["timeline"] = lambda: draw.plot_timeline(study)
    written = []
    for name, make in makers.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                figure = make()
        except (ValueError, RuntimeError):
            continue
        if name.startswith("contour"):
            # Of many keys the rows would be too low for their titles.
            figure.update_layout(height=max(CONTOUR_ROW * len(sweep.space), 500))
        path = folder / f"{name}.html"
        write_whole(path, figure.to_html(include_plotlyjs=True))
        written.append(path)
    return written


def trials_table(trials: Sequence[FrozenTrial], sweep: Sweep, front: Container[int]) -> Table:
    """The best trials with what was chosen and what came out.

    Args:
        front: numbers of the trials on the Pareto front, all of which are shown.
    """
    several = len(sweep.objectives) > 1
    by = f", by {sweep.objectives[0].metric}; ● Pareto front, first" if several else ""
    some = "Best of" if feasible(trials[0]) else "None within the limits of"
    table = Table(title=f"{some} {len(trials)} complete trials{by}", **STYLE)
    table.add_column("trial", justify="right")
    for objective in sweep.objectives:
        table.add_column(objective.metric, justify="right")
    names = list(sweep.space)
    for name in names:
        last = name.rpartition(".")[2]
        alone = sum(other.rpartition(".")[2] == last for other in names) == 1
        table.add_column(last if alone else name, justify="right")
    for place, trial in enumerate(trials):
        number = studies.first_number(trial)
        if place >= SHOWN and number not in front:
            continue
        table.add_row(
            f"{'● ' if number in front else ''}{number}"
            f"{'' if feasible(trial) else f' {RED}beyond a limit{END}'}",
            *(f"{value:.4f}" for value in trial.values),
            *(_short(trial.params.get(name)) for name in names),
        )
    return table


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)


def conditions(sweep: Sweep) -> dict[str, str]:
    """Which trials each key exists in, such as `method = lgr`; empty for all."""
    return {
        key: ", ".join(f"{other} = {value}" for other, value in one.when.items())
        for key, one in sweep.space.items()
    }


def say_what_matters(
    study: optuna.Study, sweep: Sweep, shares: Mapping[str, dict[str, Share]]
) -> None:
    """Print the importance of keys, or why there is none."""
    found = groups(study)
    most = max(len(group.trials) for group in found)
    if any(shares.values()):
        console.print(importance_table(shares, found, conditions(sweep)))
    elif most < FEWEST:
        console.print(
            f"{DIM}What matters is unknown: too few: {most} trials, of at least {FEWEST}.{END}\n"
        )
    else:
        console.print(
            f"{DIM}What matters is unknown: the trials came out alike, or differ in one key.{END}\n"
        )


def importance_table(
    found: Mapping[str, dict[str, Share]], by: Sequence[Group], conditions: Mapping[str, str]
) -> Table:
    """Importance of each key for each objective, group by group.

    Args:
        conditions: which trials a key exists in, such as `method = lgr`; none for all.
    """
    title = (
        "Share in the variation that the keys explain (functional ANOVA, 95 % interval over trials)"
    )
    caption = "Compare shares only between keys of the same trials."
    table = Table(title=title, caption=caption if len(by) > 1 else None, **STYLE)
    table.add_column("key")
    table.add_column("of trials with")
    table.add_column("trials", justify="right")
    for metric in found:
        table.add_column(metric, justify="right")
    order = [key for column in found.values() for key in column]
    for group in by:
        for key in sorted(group.keys, key=lambda key: order.index(key) if key in order else 10**9):
            cells = [_cell(column.get(key), group) for column in found.values()]
            table.add_row(key, conditions.get(key) or "all", str(len(group.trials)), *cells)
        table.add_section()
    return table


def _cell(share: Share | None, group: Group) -> str:
    if share is not None:
        return f"{100 * share.share:.0f} % [{100 * share.low:.0f}, {100 * share.high:.0f}]"
    if len(group.trials) < FEWEST:
        return f"too few: {len(group.trials)} trials"
    return "varies alone" if len(group.keys) == 1 else "unknown"


def _compare(folder: Path, trials: Sequence[FrozenTrial], config: Experiment, sweep: Sweep) -> None:
    """The best trial against the next ones, paired: by seed where there are several, else by problem."""
    seeds = [run.name for run in trial_config(config, sweep, trials[0].params).runs]
    names = {f"trial-{studies.first_number(t)}": t.user_attrs["folder"] for t in trials[:SHOWN]}
    here = {name: place for name, place in names.items() if (folder / place).exists()}
    best, *others = names
    if best not in here:
        console.print(
            f"{DIM}{best} ran on another machine, where its samples are: compare there.{END}\n"
        )
    if best not in here or not others:
        return
    sides = {
        name: [comparison.read_run(folder / place / seed) for seed in seeds]
        for name, place in here.items()
    }
    table = Table(title=f"{best} against the next, mean@k over all benchmarks, in points", **STYLE)
    table.add_column("against")
    table.add_column(f"{best} is higher by", justify="right")
    table.add_column("p", justify="right")
    for name in others:
        if name not in here:
            table.add_row(name, "ran on another machine, where its samples are", "")
            continue
        try:
            difference, p = _paired(sides[name], sides[best])
        except DataError as error:
            difference, p = str(error), ""
        table.add_row(name, difference, p)
    console.print(table)
    console.print(
        f"{DIM}Paired by training seed where there are several (95 % interval by Student's t), else by "
        f"problem; not corrected for having chosen the best of many, which favours it.{END}"
    )


def _paired(a: list[Any], b: list[Any]) -> tuple[str, str]:
    if len(a) > 1:
        found = plugins.load(plugins.STATISTICS, "seeds")(a, b)[-1]
        value, low, high, p = found.value, found.low, found.high, found.p
    else:
        found = plugins.load(plugins.STATISTICS, "paired")(a[0], b[0])[-1]
        value, low, high, p = found.mean.value, found.mean.low, found.mean.high, found.mean.p
    return f"{100 * value:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]", f"{p:.3f}"
