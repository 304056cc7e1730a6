"""An average of weights: its numbers, its place beside training, its way through a checkpoint."""

from contextlib import suppress

import pytest
import torch

from opdlab.errors import ResumeError
from opdlab.training.averaging import WeightAverage


def walk(steps: int, dtype: torch.dtype = torch.float32) -> tuple[torch.nn.Parameter, list[float]]:
    """A weight and the values that it takes, one a step."""
    weight = torch.nn.Parameter(torch.zeros(3, dtype=dtype))
    return weight, [float(i * i % 7) / 8 for i in range(1, steps + 1)]


def averaged(weight: torch.nn.Parameter, values: list[float], decay: float) -> WeightAverage:
    average = WeightAverage([weight], decay)
    for value in values:
        with torch.no_grad():
            weight.fill_(value)
        average.update()
    return average


def test_the_average_is_the_plain_mean_at_first_and_forgets_by_its_decay_afterwards():
    weight, values = walk(40)
    average = averaged(weight, values, decay=0.9)
    expected = 0.0
    for step, value in enumerate(values, start=1):
        share = 1 / step if step < 10 else 0.1
        expected += share * (value - expected)
    assert average.mean[0].tolist() == pytest.approx([expected] * 3, abs=1e-6)
    short = averaged(*walk(8), decay=0.9)
    assert short.mean[0][0].item() == pytest.approx(sum(walk(8)[1]) / 8, abs=1e-6)


def test_the_average_of_bfloat16_weights_keeps_updates_that_bfloat16_would_round_away():
    weight = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    average = averaged(weight, [1.0] * 200 + [1.0078125] * 40, decay=0.999)
    assert average.mean[0].dtype == torch.float32
    assert 1.0005 < average.mean[0][0].item() < 1.0078


def test_a_token_that_is_ruled_out_is_so_in_the_average():
    bias = torch.nn.Parameter(torch.tensor([-torch.inf, 0.5]))
    average = WeightAverage([bias], decay=0.9)
    for _ in range(3):
        average.update()
    assert average.mean[0].tolist() == [-torch.inf, 0.5]


def test_a_student_has_its_own_weights_again_after_it_was_looked_at():
    weight, values = walk(20)
    average = averaged(weight, values, decay=0.9)
    before = weight.detach().clone()
    with suppress(KeyboardInterrupt), average.applied():
        seen = weight.detach().clone()
        raise KeyboardInterrupt
    assert torch.equal(seen, average.mean[0])
    assert torch.equal(weight, before)


def test_an_average_goes_on_from_a_checkpoint_bit_for_bit():
    weight, values = walk(30)
    whole = averaged(weight, values, decay=0.9)
    first = averaged(walk(30)[0], values[:17], decay=0.9)
    state = {"steps": first.state()["steps"], "mean": [m.clone() for m in first.state()["mean"]]}
    other, _ = walk(30)
    second = WeightAverage([other], 0.9)
    second.load(state)
    for value in values[17:]:
        with torch.no_grad():
            other.fill_(value)
        second.update()
    assert torch.equal(whole.mean[0], second.mean[0])


@pytest.mark.parametrize("state", [None, {"steps": 3, "mean": [torch.zeros(4)]}])
def test_a_checkpoint_without_an_average_of_these_weights_is_refused(state):
    with pytest.raises(ResumeError, match=r"training\.average"):
        WeightAverage([walk(1)[0]], 0.9).load(state)
