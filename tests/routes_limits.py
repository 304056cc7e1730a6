"""How far lookahead reaches on `routes`: the tables of what was trained, and what the teachers know when.

`python tests/routes_limits.py runs` reads the folders that `opdlab train routes` and its variants
left there.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from opdlab.configuration import loader
from opdlab.configuration.config import Experiment
from opdlab.evaluation.comparison import read_run
from opdlab.modelling import models
from opdlab.prompts.drawn import encode
from opdlab.records import Sample
from opdlab_evaluators.embedded.routes import MASTERED, PASSAGE, UNMASTERED
from opdlab_evaluators.statistics.resampling import holm
from opdlab_evaluators.statistics.seeds import OverSeeds, paired_over_seeds

SEEDS = range(5)


def runs_of(group: Path, arm: str) -> list[list[Sample]]:
    """The samples of an arm's runs, a list a seed; none where one is missing."""
    folders = [group / f"{arm}-{seed}" for seed in SEEDS]
    done = [folder / "model" for folder in folders]
    return [read_run(folder) for folder in folders] if all(map(Path.exists, done)) else []


def right(run: Sequence[Sample]) -> float:
    return sum(sample.status == "correct" for sample in run) / len(run)


def on_mastered_route(run: Sequence[Sample]) -> float:
    return sum(sample.completion.startswith(MASTERED) for sample in run) / len(run)


def percent(values: Sequence[float]) -> str:
    """Mean, lowest and highest, in percent."""
    low, high = 100 * min(values), 100 * max(values)
    return f"{100 * sum(values) / len(values):.1f} ({low:.1f} to {high:.1f})"


def scores(name: str, runs: Sequence[Sequence[Sample]]) -> str:
    shares = percent([on_mastered_route(run) for run in runs])
    return f"| {name} | {percent([right(run) for run in runs])} | {shares} |"


@torch.no_grad()
def certainty(config: Experiment, ahead: int) -> dict[str, list[float]]:
    """The teacher's largest probability, mean over test problems, 1 ... `ahead` tokens after either route
    token, along the passage and then the label `a`."""
    model = models.load_model(config.teacher.path)
    tokenizer = models.load_tokenizer(config.teacher.path)
    (family,) = config.evaluation.benchmarks
    delay = config.prompts.sources[0].delay  # type: ignore[union-attr]
    found = {}
    for route in (MASTERED, UNMASTERED):
        after = []
        for problem in family.problems()[:64]:
            text = problem.prompt + route + PASSAGE[:delay] + "a"
            ids = encode(tokenizer, text, "none")
            said = model(torch.tensor([ids])).logits[0].softmax(-1).amax(-1)
            first = len(ids) - 2 - delay
            after.append(said[first : first + ahead])
        found[route] = torch.stack(after).mean(0).tolist()
    return found


def main(output: Path) -> None:
    """Print the tables."""
    groups = sorted(path.parent for path in output.glob("routes*-001/config.yaml"))
    default = runs_of(output / "routes-001", "lgr")
    compared: list[tuple[str, OverSeeds]] = []
    for group in groups:
        config = loader.load_experiment(group / "config.yaml")
        arms = list(dict.fromkeys(run.name.rpartition("-")[0] for run in config.runs))
        runs = {arm: found for arm in arms if (found := runs_of(group, arm))}
        print(f"\n{group.name}\n| | mean@8 | share of `>` |\n| --- | --- | --- |")
        for reference in config.evaluation.references:
            print(scores(reference, [read_run(group / reference)]))
        for arm, found in runs.items():
            print(scores(arm, found))
        if config.evaluation.references:
            delay = config.prompts.sources[0].delay  # type: ignore[union-attr]
            for route, values in certainty(config, delay + 1).items():
                print(f"teacher after `{route}`:", " ".join(f"{value:.3f}" for value in values))
        base = runs.get("opd")
        for arm, found in runs.items():
            if base is not None and arm != "opd":
                compared.append((f"{group.name}: {arm} - opd", paired_over_seeds(base, found)[0]))
            elif base is None:
                compared.append((f"{arm} - lgr", paired_over_seeds(default, found)[0]))
    adjusted = holm([each.p for _, each in compared])
    print("\n| difference | points | each seed | p | Holm |\n| --- | --- | --- | --- | --- |")
    for (name, each), p in zip(compared, adjusted, strict=True):
        value, low, high = (100 * x for x in (each.value, each.low, each.high))
        seeds = " ".join(f"{100 * x:+.1f}" for x in each.differences)
        print(
            f"| {name} | {value:+.1f} [{low:+.1f}, {high:+.1f}] | {seeds} | {each.p:.2g} | {p:.2g} |"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
