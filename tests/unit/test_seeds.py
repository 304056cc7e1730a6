"""Seeds of every size that an experiment may name, where they are used."""

from __future__ import annotations

import numpy as np
import optuna
import pytest
import torch

from opdlab.configuration.loader import load_experiment
from opdlab.errors import ConfigError
from opdlab.seeds import LARGEST_SEED, row_seeds, small_seed
from opdlab.sweeps.settings import Sweep
from opdlab.sweeps.study import make_sampler

SEEDS = [0, 1, 2**22 - 1, 2**22, 8_388_608, 20261126, 2**32, 2**40, 2**53 + 1, LARGEST_SEED]


def test_rows_of_small_seeds_lie_end_to_end() -> None:
    assert row_seeds(3, range(2, 4)) == [3 * 2**40 + 2, 3 * 2**40 + 3]


def test_rows_of_seeds_of_any_size_fit_a_tensor_and_are_all_different() -> None:
    rows = [row for seed in SEEDS for row in row_seeds(seed, [0, 1, 2, 2**40 - 1])]
    assert len(set(rows)) == len(rows)
    assert torch.tensor(rows).tolist() == rows
    assert min(rows) >= 0


def test_small_seeds_fit_numpy_and_keep_those_that_do() -> None:
    assert small_seed(20261126) == 20261126
    found = [small_seed(seed) for seed in SEEDS]
    assert len(set(found)) == len(found)
    for seed in found:
        np.random.RandomState(seed)


@pytest.mark.parametrize("sampler", ["tpe", "random", "gp", "grid"])
def test_a_date_seeds_every_sampler_of_a_sweep(sampler: str) -> None:
    sweep = Sweep.model_validate(
        {
            "sampler": sampler,
            "sampler_seed": 20261126,
            "trials": 2,
            "space": {
                "training.update_tokens": {"type": "choice", "values": [100, 200]}
                if sampler == "grid"
                else {"type": "float", "low": 0.1, "high": 1.0}
            },
        }
    )
    study = optuna.create_study(sampler=make_sampler(sweep, 1))
    assert study.ask() is not None


@pytest.mark.parametrize("key", ["seed", "evaluation.seed", "sweep.seeds", "sweep.sampler_seed"])
def test_a_seed_beyond_64_bits_is_refused_at_load(key: str) -> None:
    name = "quickstart" if "sweep" not in key else "sweeps/routes"
    with pytest.raises(ConfigError, match=r"9223372036854775807"):
        load_experiment(name, [f"{key}={[2**63] if key.endswith(chr(115)) else 2**63}"])
