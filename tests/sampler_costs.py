"""What asking for a trial costs, by sampler and by how many are known: `python tests/sampler_costs.py`.

Processor time of one thread, with Optuna's SQLite file, as a worker asks; medians of five.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from pathlib import Path

import optuna

from opdlab.sweeps.settings import Sweep
from opdlab.sweeps.study import make_sampler, suggest

KNOWN = (10, 50, 200)
ROUNDS = 5
SPACE = {
    "method.top_k": {"type": "int", "low": 2, "high": 16},
    "method.entropy_threshold": {"type": "float", "low": 0.0, "high": 1.0, "step": 0.05},
    "method.reward_weight": {"type": "float", "low": 0.1, "high": 10.0, "step": 0.1},
}


def score(chosen: dict[str, float]) -> float:
    """Something smooth with one best place."""
    k, threshold, weight = chosen.values()
    return -((k - 6) ** 2) / 50 - (threshold - 0.3) ** 2 - math.log(weight) ** 2


def ask(study: optuna.Study, sweep: Sweep) -> float:
    """Seconds of one trial that takes no time itself."""
    study.sampler = make_sampler(sweep, len(study.get_trials(deepcopy=False)))
    started = time.process_time()
    study.optimize(lambda trial: score(suggest(sweep, trial)), n_trials=1)
    return time.process_time() - started


def costs(name: str, folder: Path) -> dict[int, float]:
    """Median seconds for each number of trials known."""
    sweep = Sweep.model_validate({"space": SPACE, "trials": 300, "sampler": name})
    study = optuna.create_study(storage=f"sqlite:///{folder / name}.db", direction="maximize")
    found = {}
    for known in KNOWN:
        # CMA-ES learns from its own trials alone; for the others those of another sampler will do.
        filler = sweep if name == "cmaes" else sweep.model_copy(update={"sampler": "random"})
        while len(study.get_trials(deepcopy=False)) < known:
            ask(study, filler)
        found[known] = statistics.median(ask(study, sweep) for _ in range(ROUNDS))
    return found


def main() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    print(f"| sampler | {' | '.join(f'{known} known' for known in KNOWN)} |")
    with tempfile.TemporaryDirectory() as folder:
        for name in ("random", "grid", "tpe", "cmaes", "gp"):
            found = costs(name, Path(folder))
            cells = " | ".join(f"{1000 * seconds:.0f} ms" for seconds in found.values())
            print(f"| {name} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
