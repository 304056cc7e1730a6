"""`opdlab compare`: runs set against the first of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from opdlab.errors import DataError
from opdlab.evaluation import over_seeds
from opdlab.evaluation.comparison import (
    all_differences,
    find_run,
    last_sets,
    remarks,
    unknown_trainings,
)
from opdlab.evaluation.results import Comparison
from opdlab.evaluation.store import SampleSet
from opdlab.identity import read as read_measurements


def compare(runs: Sequence[str], output: str) -> Comparison:
    """Compare runs by name or folder; each one after the first is set against the first.

    A side may be several runs, `a,b,c`, that differ in their training seed alone, or a method that was
    trained with several seeds; then differences are taken seed by seed. Benchmarks that not all runs
    measured in one way are left out, and named.

    Raises:
        DataError: fewer than two sides, a run that is named twice or has no samples, or no benchmark that
            all measured in one way.
    """
    if len(runs) < 2:
        raise DataError("compare needs two runs or more; the others are compared with the first")
    sides = [
        [run for name in _named(side, output) for run in over_seeds.runs_of(name, Path(output))]
        for side in runs
    ]
    flat = [name for side in sides for name in side]
    if twice := [name for name, count in Counter(flat).items() if count > 1]:
        raise DataError(f"{twice[0]} is named twice: a run cannot be compared with itself")
    names = short_names(flat)
    folders = {short: find_run(name, Path(output)) for name, short in names.items()}
    require_different(list(folders.items()))
    sets = {short: last_sets(folder) for short, folder in folders.items()}
    chosen, left_out = comparable(sets)
    measured = {
        name: [sample for one in own for sample in one.samples()] for name, own in chosen.items()
    }
    notes = [left_out, *remarks(measured), *unknown_trainings(folders.values())]
    if any(len(side) > 1 for side in sides):
        short = [[names[name] for name in side] for side in sides]
        found, more = over_seeds.compare(short, folders, measured)
        return Comparison(measured, found, True, (*notes, *more))
    first, *others = names.values()
    found = all_differences(measured, [(first, other) for other in others])
    return Comparison(measured, found, notes=tuple(notes))


def _named(side: str, output: str) -> list[str]:
    """The names in a side; of a folder that has a comma in its own name, that one."""
    whole = any((folder / "samples").is_dir() for folder in (Path(side), Path(output) / side))
    return [side] if whole else side.split(",")


def require_different(runs: Sequence[tuple[str, Path]]) -> None:
    """Refuse, with `DataError`, one run that is given by two spellings, by a link, or as a copy."""
    known: dict[object, int] = {}
    for place, (name, folder) in enumerate(runs):
        ids = [one.id for one in read_measurements(folder / "samples")]
        for key in (folder.resolve(), *ids):
            other = known.setdefault(key, place)
            if other != place:
                raise DataError(
                    f"{runs[other][0]} and {name} are one run ({folder.resolve()}), or one is a copy of "
                    "the other: a run cannot be compared with itself"
                )


def comparable(
    sets: Mapping[str, Sequence[SampleSet]],
) -> tuple[dict[str, list[SampleSet]], str]:
    """Of each run, the benchmarks that all runs measured in one way; and in words, what is left out.

    Raises:
        DataError: there is none.
    """
    names = {run: {one.asked.benchmark: one for one in own} for run, own in sets.items()}
    kept, reasons = [], []
    for name in dict.fromkeys(name for own in names.values() for name in own):
        lacking = [run for run, own in names.items() if name not in own]
        if lacking:
            reasons.append(f"{name} (not measured by {', '.join(lacking)})")
            continue
        first, *others = (own[name].asked for own in names.values())
        odd = next(filter(None, map(first.differences, others)), "")
        if odd:
            reasons.append(f"{name} (measured in different ways: {odd})")
        else:
            kept.append(name)
    listed = "; ".join(reasons)
    if not kept:
        raise DataError(
            f"the runs have no benchmark that all measured in one way: {listed}. Evaluate one of them "
            "again as the other was; if only the grader differs, `opdlab regrade` is enough"
        )
    chosen = {run: [own[name] for name in kept] for run, own in names.items()}
    return chosen, f"Left out: {listed}." if listed else ""


def short_names(runs: Sequence[str]) -> dict[str, str]:
    """Each run's last folder, or the whole path where that would not tell it from another."""
    lasts = [Path(run).name for run in runs]
    return {
        run: last if lasts.count(last) == 1 else run for run, last in zip(runs, lasts, strict=True)
    }
