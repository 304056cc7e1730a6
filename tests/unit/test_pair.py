"""What a method or mask may ask of the vocabulary that student and teacher share."""

from __future__ import annotations

import pytest

from opdlab.configuration.loader import load_experiment
from opdlab.errors import ConfigError
from opdlab.training.pair import require_within


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("method={type: lgr, top_k: 43}", r"method\.top_k is 43, but .* share 42 tokens"),
        ("method={type: opd, support: top_k, top_k: 43}", r"method\.top_k is 43"),
        (
            "method={type: lgr, base: {type: opd, support: top_k, top_k: 43}}",
            r"method\.base\.top_k is 43",
        ),
        ("method={type: lgr, entropy_threshold: 3.74}", "so no position would be active"),
        ("training.mask.entropy_above=3.74", "so no token would carry loss"),
    ],
)
def test_what_no_vocabulary_of_this_size_can_meet_is_refused(override: str, said: str) -> None:
    config = load_experiment("quickstart", ["runs=[]", override])
    with pytest.raises(ConfigError, match=said):
        require_within(config, 42)
    require_within(config, 43)


def test_the_run_that_asks_too_much_is_named() -> None:
    config = load_experiment("quickstart", ["runs.1.set.method.top_k=43"])
    with pytest.raises(ConfigError, match=r"run lgr: method\.top_k is 43"):
        require_within(config, 42)
