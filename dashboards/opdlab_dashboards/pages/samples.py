"""`opdlab samples`: every sample of a run, or of two side by side, in one file that a browser opens."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from opdlab import __version__
from opdlab.console import BOLD, END, console, progress_bar
from opdlab.errors import DataError, PluginError, writing_to
from opdlab.evaluation import (
    SampleSet,
    comparison,
    evaluator_of,
    find_run,
    last_sets,
    require_different,
    short_names,
)
from opdlab.files import natural, require_own_page, write_page
from opdlab.records import Problem, Sample, Verdict

TEXT_BUDGET = 40_000_000
"""Characters of completions in one page, so that any browser opens it."""
LEAST_TEXT = 2000
MISSING = "."
"""Mark of a sample that was not drawn or not graded."""
PAGE = "samples.html"


@dataclass(frozen=True)
class Sheet:
    """The samples of one benchmark, in one run or in two.

    Attributes:
        sets: what was asked for, one a run; None where that run did not measure the benchmark.
        problems: those known, by id, in the benchmark's order; only an id where the data are gone.
        note: what the reader must know before comparing; empty where there is nothing.
        samples: of each run, by problem and index.
    """

    benchmark: str
    sets: Sequence[SampleSet | None]
    problems: Mapping[str, Problem | None]
    note: str
    samples: Sequence[Mapping[tuple[str, int], Sample]]

    @property
    def k(self) -> int:
        """Samples a problem, at most."""
        return max(one.asked.samples for one in self.sets if one is not None)


def samples(runs: Sequence[str], output: str, to: str | None) -> None:
    """Write the page and say where it is.

    Args:
        runs: one run or two, as folders or as names below `output`.
        to: file to write; `samples.html` in the folder of the first run by default.

    Raises:
        DataError: more than two runs, one run twice, one without samples, or two without a common
            benchmark.
    """
    if len(runs) > 2:
        raise DataError(f"samples shows one run, or two side by side; {len(runs)} were named")
    folders = [find_run(run, Path(output)) for run in runs]
    path = Path(to) if to else folders[0] / PAGE
    require_own_page(path)
    require_different(list(zip(runs, folders, strict=True)))
    names = list(short_names(runs).values())
    common = in_common(folders, names)
    with progress_bar() as progress:
        each = progress.track(common.items(), description="read samples")
        sheets = [_sheet(name, sets, names) for name, sets in each]
    with writing_to(path):
        write_page(path, page(names, sheets))
    comparison.remark(comparison.unknown_trainings(folders))
    console.print(f"Page: {BOLD}{path.absolute().as_uri()}{END}", soft_wrap=True)


def in_common(folders: Sequence[Path], names: Sequence[str]) -> dict[str, list[SampleSet]]:
    """The samples of the runs on each benchmark that all of them measured.

    Raises:
        DataError: there is none, or a folder holds no samples.
    """
    measured = [_by_benchmark(last_sets(folder)) for folder in folders]
    common = [name for name in measured[0] if all(name in one for one in measured)]
    if not common:
        listed = "; ".join(
            f"{name}: {', '.join(one)}" for name, one in zip(names, measured, strict=True)
        )
        raise DataError(f"the runs have no benchmark in common ({listed})")
    return {name: [one[name] for one in measured] for name in common}


def _by_benchmark(sets: Sequence[SampleSet]) -> dict[str, SampleSet]:
    several = len({one.checkpoint for one in sets}) > 1
    return {
        f"{one.asked.benchmark} of {one.checkpoint}" if several else one.asked.benchmark: one
        for one in sorted(sets, key=lambda one: (one.asked.benchmark, natural(one.checkpoint)))
    }


def _sheet(name: str, sets: Sequence[SampleSet], names: Sequence[str]) -> Sheet:
    found = [{(s.problem, s.index): s for s in one.samples(partial=True)} for one in sets]
    notes = [
        _unfinished(one, len(own), name) for one, own, name in zip(sets, found, names, strict=True)
    ]
    notes.append(_differences(sets, names))
    known: list[dict[str, Problem]] = []
    for one in sets:
        try:
            known.append({p.id: p for p in evaluator_of(one).problems()})
        except (DataError, PluginError, TypeError) as error:
            known.append({})
            notes.append(f"Reference answers are not shown: {error}")
    # Every sample is on the page, whatever problems the other run was asked.
    listed = dict.fromkeys(name for each in known for name in each)
    listed |= dict.fromkeys(sorted({key[0] for own in found for key in own}, key=natural))
    problems = {problem: _shared(problem, known, found) for problem in listed}
    return Sheet(name, sets, problems, " ".join(filter(None, notes)), found)


def _shared(
    name: str,
    known: Sequence[Mapping[str, Problem]],
    found: Sequence[Mapping[tuple[str, int], Sample]],
) -> Problem | None:
    """The problem of this id; None where a run that answered it was asked one that is not known here."""
    answered = [{key[0] for key in own} for own in found]
    asked = [each.get(name) for each, own in zip(known, answered, strict=True) if name in own]
    first = asked[0] if asked else next(each[name] for each in known if name in each)
    return first if all(one == first for one in asked) else None


def _unfinished(one: SampleSet, count: int, name: str) -> str:
    total = one.asked.problems * one.asked.samples
    return f"{name} is not finished: {count} of {total} samples." if count < total else ""


def _differences(sets: Sequence[SampleSet], names: Sequence[str]) -> str:
    """What two runs were asked differently."""
    odd = sets[0].asked.differences(sets[-1].asked)
    return f"{names[0]} and {names[-1]} were measured in different ways: {odd}." if odd else ""


def page(names: Sequence[str], sheets: Sequence[Sheet]) -> str:
    """The whole page."""
    count = sum(len(own) for sheet in sheets for own in sheet.samples)
    limit = max(LEAST_TEXT, TEXT_BUDGET // max(count, 1))
    overview = {
        "runs": list(names),
        "statuses": list(Verdict.STATUSES),
        "sheets": [_overview(sheet) for sheet in sheets],
    }
    blocks = [
        _block(f"problem-{number}-{place}", _detail(sheet, problem, limit))
        for number, sheet in enumerate(sheets)
        for place, problem in enumerate(sheet.problems)
    ]
    values = {
        "TITLE": escape(" and ".join(names)),
        "STYLE": _file("viewer.css"),
        "VERSION": escape(__version__),
        "OVERVIEW": _block("overview", overview),
        "PROBLEMS": "\n".join(blocks),
        "SCRIPT": _file("chat.js") + _file("viewer.js"),
    }
    text = _file("viewer.html")
    for key, value in values.items():
        text = text.replace(f"<!--{key}-->", value, 1)
    return text


def _file(name: str) -> str:
    return (files("opdlab_dashboards") / "viewer" / name).read_text()


def _block(name: str, content: Any) -> str:
    # No text of a model may end the element.
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{text}</script>'


def _overview(sheet: Sheet) -> dict[str, Any]:
    """Marks of all samples: one character a sample, the place of its status among the statuses."""
    return {
        "name": sheet.benchmark,
        "k": sheet.k,
        "note": sheet.note,
        "graders": [one.asked.grader for one in sheet.sets if one is not None],
        "problems": list(sheet.problems),
        "marks": [
            [
                "".join(_mark(own.get((problem, i))) for i in range(sheet.k))
                for problem in sheet.problems
            ]
            for own in sheet.samples
        ],
        "tokens": [
            [_mean_tokens(own, problem, sheet.k) for problem in sheet.problems]
            for own in sheet.samples
        ],
    }


def _mark(sample: Sample | None) -> str:
    return MISSING if sample is None else str(Verdict.STATUSES.index(sample.status))


def _mean_tokens(own: Mapping[tuple[str, int], Sample], problem: str, k: int) -> int:
    there = [own[problem, i] for i in range(k) if (problem, i) in own]
    lengths = [sample.tokens for sample in there if sample.answered]
    return round(sum(lengths) / len(lengths)) if lengths else 0


def _detail(sheet: Sheet, problem: str, limit: int) -> dict[str, Any]:
    """A problem with its samples; a prompt that all of them share stands there once."""
    rows = [[own.get((problem, i)) for i in range(sheet.k)] for own in sheet.samples]
    prompts = list(dict.fromkeys(s.prompt for row in rows for s in row if s is not None))
    known = sheet.problems[problem]
    return {
        "prompts": prompts or ([known.prompt] if known else []),
        "gold": None if known is None else known.gold,
        "samples": [[_sample(s, prompts, limit) if s else None for s in row] for row in rows],
    }


def _sample(sample: Sample, prompts: list[str], limit: int) -> dict[str, Any]:
    return {
        "prompt": prompts.index(sample.prompt),
        "text": _shortened(sample.completion, limit),
        "answer": sample.answer,
        "reason": sample.reason,
        "tokens": sample.tokens,
        "stop": sample.stop,
        "seed": str(sample.seed),  # beyond what a browser's numbers hold
        "seconds": round(sample.seconds, 3),
    }


def _shortened(text: str, limit: int) -> str | list[str | int]:
    """The text, or its beginning, the number of characters left out, and its end."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return [text[:half], len(text) - 2 * half, text[-half:]]
