"""Rows grouped by length: every row once, cuts that pay, and the same states and gradients."""

from itertools import combinations

import pytest
import torch
from small_models import random_rollout, small_model

from opdlab.modelling.head import hidden_states
from opdlab.scoring import length_groups as module
from opdlab.scoring.length_groups import length_groups, states_before_tokens


def cost(groups: list[torch.Tensor], lengths: torch.Tensor) -> int:
    overhead = module._COST_OF_A_FORWARD
    return sum(len(rows) * int(lengths[rows].max()) + overhead for rows in groups)


@pytest.mark.parametrize("rows", [1, 2, 5, 12])
def test_no_other_cut_of_the_rows_costs_less(rows: int) -> None:
    torch.manual_seed(rows)
    lengths = torch.randint(1, 900, (rows,))
    groups = length_groups(lengths)
    assert sorted(torch.cat(groups).tolist()) == list(range(rows))
    order = lengths.argsort(descending=True, stable=True)
    for count in range(rows):
        for cuts in combinations(range(1, rows), count):
            parts = torch.tensor_split(order, list(cuts))
            assert cost(groups, lengths) <= cost(list(parts), lengths)


def test_rows_of_one_length_stay_together() -> None:
    assert len(length_groups(torch.full((300,), 2000))) == 1


def test_states_and_gradients_are_those_of_one_padded_forward(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_COST_OF_A_FORWARD", 1)
    model = small_model("qwen3")
    rollout = random_rollout([3, 5, 2, 9, 4, 1, 6], [40, 3, 17, 60, 2, 25, 9])
    groups = length_groups(rollout.prompt_lengths + rollout.response_lengths)
    assert len(groups) > 2
    gradients = []
    weights = torch.randn(len(rollout.token), 32)
    for states in (
        states_before_tokens(model, rollout),
        hidden_states(model, rollout.tokens)[rollout.row, rollout.column - 1],
    ):
        model.zero_grad()
        (states * weights).sum().backward()
        found = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        gradients.append([states.detach(), *found])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
