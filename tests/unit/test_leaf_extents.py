"""What leaves of plain causal rows see is found on the host as it is from the rule itself."""

from __future__ import annotations

import pytest
import torch

from opdlab.scoring.leaf_attention import _all_before, _extents

SOME = torch.Generator().manual_seed(0)


@pytest.mark.parametrize(("rows", "leaves", "step"), [(1, 7, 3), (3, 12, 5), (2, 9, 9)])
def test_extents_of_causal_leaves_need_no_rule(rows: int, leaves: int, step: int) -> None:
    places = torch.randint(1, 40, (rows, leaves), generator=SOME).sort(1).values
    steps = [slice(i, min(i + step, leaves)) for i in range(0, leaves, step)]
    S = int(places.max())
    parts = [torch.arange(S) < places[:, some, None] for some in steps]
    assert _all_before(places, steps) == _extents(parts, torch.ones(S, dtype=torch.bool))
