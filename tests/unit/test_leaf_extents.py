"""What leaves of causal rows and windows see is found on the host as it is from the rule itself."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from transformers import masking_utils as rules

from opdlab.scoring.leaf_attention import _extents, _seen_by, _seen_within, reach_of

SOME = torch.Generator().manual_seed(0)
WINDOW: Any = rules.sliding_window_causal_mask_function


@pytest.mark.parametrize(("rows", "leaves", "step"), [(1, 7, 3), (3, 12, 5), (2, 9, 9)])
@pytest.mark.parametrize(
    "rule", [rules.causal_mask_function, WINDOW(1), WINDOW(2), WINDOW(9), WINDOW(100)]
)
@pytest.mark.parametrize("past", [0, 3])
def test_extents_of_known_rules_need_no_rule(
    rule: Any, rows: int, leaves: int, step: int, past: int
) -> None:
    places = past + torch.randint(1, 40, (rows, leaves), generator=SOME).sort(1).values
    steps = [slice(i, min(i + step, leaves)) for i in range(0, leaves, step)]
    S, zero = int(places.max()) - past, torch.zeros(1, dtype=torch.long)
    key = torch.arange(S)
    seen = rule(zero, zero, places[..., None], key) & (key < places[..., None] - past)
    reach = reach_of(rule)
    assert reach is not None
    known = _extents(_seen_within(places[:, some], reach, S, past) for some in steps)
    assert known == _extents(_seen_by(seen[:, some]) for some in steps)


def test_rules_that_say_more_than_a_window_are_asked() -> None:
    row: Any = rules.causal_mask_function
    assert reach_of(row) == sys.maxsize
    assert reach_of(WINDOW(7)) == 7
    chunks: Any = rules.chunked_causal_mask_function(4, torch.zeros(1, dtype=torch.long))
    own: Any = rules.and_masks(WINDOW(7), lambda batch, head, query, key: query != key + 3)
    either: Any = rules.or_masks(WINDOW(7), WINDOW(9))
    for rule in (chunks, own, either):
        assert reach_of(rule) is None
