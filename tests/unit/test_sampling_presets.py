"""Named ways of sampling, and single values in their place."""

import pytest

from opdlab.configuration.evaluation_settings import Evaluation
from opdlab.evaluation.measured import sampling_engine
from opdlab.sampling.rollout import CachedEngine

ENGINE = CachedEngine(max_new_tokens=80, temperature=0.3, top_p=0.5)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, (1.0, 1.0, 80)),
        ({"sampling": "on_policy"}, (1.0, 1.0, 80)),
        ({"sampling": "reasoning"}, (0.6, 0.95, 32_768)),
        ({"sampling": "greedy"}, (0.0, 1.0, 80)),
        ({"sampling": "reasoning", "max_new_tokens": 100}, (0.6, 0.95, 100)),
        ({"sampling": "reasoning", "temperature": 0.0}, (0.0, 0.95, 32_768)),
        ({"sampling": "greedy", "top_p": 0.9}, (0.0, 0.9, 80)),
    ],
)
def test_a_preset_gives_every_value_that_is_not_set(settings, expected):
    engine = sampling_engine(ENGINE, Evaluation(**settings))
    assert (engine.temperature, engine.top_p, engine.max_new_tokens) == expected
