"""Doctor's look at the machine: packages, versions, device, disk."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import sys
import sysconfig
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import torch
from packaging.requirements import Requirement
from transformers import PreTrainedModel

from opdlab.configuration import Experiment
from opdlab.doctor.data_check import as_expected
from opdlab.doctor.lines import Line, failed, judged, skipped
from opdlab.errors import ConfigError, DataError, OpdlabError
from opdlab.modelling import models
from opdlab.plugins import GRADERS, posed, type_name, verdicts_on
from opdlab.training import require_accelerator

PACKAGES = ("opdlab", "opdlab_evaluators", "opdlab_dashboards")
GRADED = 4
"""Problems of each benchmark whose known answers are graded."""
WEIGHTS_KEPT = 5
"""Copies of the student's weights that a run writes: with two moments in the checkpoint, the trained
model, and its copy in the tracking store."""


def one_origin(path: Sequence[str] | None = None) -> Line:
    """Whether our packages can be imported from one place only, and the standard library is itself."""
    what = "packages come from one place"
    found = {name: _origins(name, sys.path if path is None else path) for name in PACKAGES}
    twice = [
        f"{name} in {', '.join(map(str, where))}" for name, where in found.items() if len(where) > 1
    ]
    ours = Path(platform.__file__ or "").resolve()
    shadowed = not ours.is_relative_to(Path(sysconfig.get_path("stdlib")).resolve())
    if shadowed:
        twice.append(f"`import platform` finds {ours}, not the standard library")
    where = next(iter(found["opdlab"]), None)
    return judged(
        what,
        not twice,
        "; ".join(twice) or str(where),
        "pip uninstall opdlab for one copy, or start elsewhere, with PYTHONSAFEPATH=1",
    )


def _origins(name: str, path: Sequence[str]) -> list[Path]:
    places = [Path(entry or ".") / name / "__init__.py" for entry in path]
    found = [place.resolve() for place in places if place.is_file()]
    spec = importlib.util.find_spec(name)
    if spec is not None and spec.origin is not None:
        found.append(Path(spec.origin).resolve())
    return list(dict.fromkeys(place.parent for place in found))


def versions(wanted: Sequence[str] | None = None) -> Line:
    """Whether every library is of a version that opdlab was made for."""
    what = "library versions fit"
    try:
        wanted = requires("opdlab") or [] if wanted is None else wanted
    except PackageNotFoundError:
        return skipped(
            what, "opdlab is not installed as a package, so its requirements are unknown"
        )
    wrong, right = [], 0
    for requirement in map(Requirement, wanted):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            wrong.append(f"{requirement.name} {found}, wanted {requirement.specifier}")
        right += 1
    found = "; ".join(wrong) or f"{right} libraries, torch {version('torch')}"
    return judged(what, not wrong, found, "pip install --upgrade opdlab, with its constraints file")


def device(config: Experiment) -> Line:
    """Whether the accelerator that is asked for is there."""
    asked = config.training.accelerator
    kind = models.device("auto")
    count = torch.accelerator.device_count() if kind != "cpu" else 0
    teacher = torch.device(config.training.teacher_device or "cpu")
    if not is_here(teacher):
        return judged(
            "the device is there",
            False,
            f"training.teacher_device is {teacher}, and there are {count} GPUs",
            "set training.teacher_device to one that is there, or leave it out",
        )
    own = torch.cuda.get_device_name if kind == "cuda" else lambda i: f"{kind}:{i}"
    names = ", ".join(map(own, range(count))) or "no GPU"
    if asked in ("gpu", "cuda"):
        needed = config.training.devices
        remedy = "set training.accelerator: cpu, or fewer training.devices"
        return judged(
            "the device is there", count >= needed, f"{needed} asked for, {names}", remedy
        )
    try:
        require_accelerator(config.training)
    except ConfigError as error:
        return failed("the device is there", str(error), "see the message")
    use = f"cpu, {torch.get_num_threads()} threads" if asked == "cpu" or not count else names
    return judged("the device is there", True, f"{asked}: {use}", "")


def is_here(device: torch.device) -> bool:
    """Whether torch finds a device."""
    if device.type == "cpu":
        return True
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    own = found is not None and found.type == device.type
    return own and (device.index or 0) < torch.accelerator.device_count()


def places(config: Experiment) -> tuple[torch.device, torch.device]:
    """Where training would have the student and its teachers, as far as these devices are here."""
    own = torch.device(models.device(config.training.accelerator))
    teachers = torch.device(config.training.teacher_device or own)
    return own, teachers if is_here(teachers) else own


def benchmarks(config: Experiment) -> Line:
    """Whether the problems of every benchmark can be read: they are wanted after a long training."""
    what = "the benchmarks' problems are there"
    if not config.evaluation.benchmarks:
        return skipped(what, "nothing is evaluated")
    count, missing, graders = 0, {}, set()
    for one in config.evaluation.benchmarks:
        try:
            count += len(one.problems())
            graders.add(one.grader_version)
        except OpdlabError as error:
            missing[one.benchmark] = str(error)
    found = f"{count} problems of {len(config.evaluation.benchmarks)} benchmarks; graders: "
    found += ", ".join(sorted(graders))
    if missing:
        found = f"not those of {', '.join(missing)}; {next(iter(missing.values()))}"
    remedy = "put the data there, or leave the benchmark out; `opdlab data check` shows more"
    return judged(what, not missing, found, remedy)


def graders_start(*runs: Experiment) -> Line:
    """Whether all that judges answers can work here, such as a sandbox for programs."""
    what = "the graders can work here"
    asked: dict[str, Callable[[], None]] = {}
    for run in runs:
        asked |= {one.benchmark: one.require_grader for one in run.evaluation.benchmarks}
        if not (run.method.graded or run.training.hacking.grade_every):
            continue  # nobody asks whether answers to the prompts are right
        if run.prompts.type == "problems":
            asked |= {one.benchmark: one.require_grader for one in run.prompts.sources}
        elif run.prompts.type == "dataset":
            own = (one.grader for one in run.prompts.resolved())
            asked |= {f"grader {type_name(GRADERS, one)}": one.require for one in own if one}
    if not asked:
        return skipped(what, "nothing is graded")
    refused: dict[str, list[str]] = {}
    for name, require in asked.items():
        try:
            require()
        except OpdlabError as error:
            refused.setdefault(str(error), []).append(name)
    found = "; ".join(f"not that of {', '.join(names)}: {said}" for said, names in refused.items())
    remedy = "allow what is named there, or leave out what needs it"
    return judged(what, not refused, found or f"{len(asked)} of {len(asked)}", remedy)


def graders(config: Experiment) -> Line:
    """Whether each grader, with the libraries that are here, judges what is known as it must."""
    what = "the graders judge known answers correctly"
    count, wrong = 0, []
    for one in config.evaluation.benchmarks:
        try:
            one.require_grader()
        except OpdlabError:
            continue  # told by the line before
        try:
            sound = [p for p in posed.problems(one) if posed.known_fault(one, p) is None]
            trials = list(posed.trials(one, sound[:GRADED]))
            verdicts = verdicts_on(one, [(trial.problem, trial.completion) for trial in trials])
        except DataError:
            continue  # told by the line on problems
        except OpdlabError as error:
            wrong.append(f"{one.benchmark}: {error}")
            continue
        count += len(trials)
        wrong += [
            f"{one.benchmark}: {trial.completion!r:.60} for problem {trial.problem.id} is judged "
            f"{verdict.status}"
            for trial, verdict in zip(trials, verdicts, strict=True)
            if not as_expected(trial, verdict)
        ]
    if not count and not wrong:
        return skipped(what, "nothing is graded, or nothing known is there to be graded")
    found = f"{count} answers" if not wrong else f"{'; '.join(wrong[:3])} ({len(wrong)} in all)"
    remedy = "see the line on library versions; `opdlab data check --grade` shows more"
    return judged(what, not wrong, found, remedy)


def to_write(runs: Sequence[Experiment], student: PreTrainedModel) -> int:
    """Bytes of weights that trainings of a student write, the copies that stay included."""
    weights = sum(
        p.numel() * max(p.element_size(), 4) for p in student.parameters() if p.requires_grad
    )
    return weights * sum(WEIGHTS_KEPT + run.training.copies for run in runs)


def disk(config: Experiment, needed: int, free: int | None = None) -> Line:
    """Whether what the runs will write fits on the disk.

    Args:
        needed: bytes.
        free: bytes, by default what is free where the results go.
    """
    folder = Path(config.output).absolute()
    while not folder.exists():
        folder = folder.parent
    if free is None:
        free = shutil.disk_usage(folder).free
    found = f"{free / 1e9:.1f} GB free in {folder}, about {needed / 1e9:.3g} GB needed"
    remedy = (
        "free some space, or set output to another disk; tracking.weights: false saves a copy of each "
        "run, a larger training.keep_every those that stay"
    )
    return judged("the results fit on the disk", free > needed, found, remedy)
