"""What is known of rows is known within a block and a thread, and nowhere else."""

from __future__ import annotations

from threading import Thread
from typing import Any

import torch
from transformers import masking_utils

from opdlab.modelling.unasked import masked_rows, unpacked_rows
from opdlab.planning.footprint import contentless

PACKED = torch.tensor([[0, 1, 2, 0, 1]])


def test_elsewhere_packed_rows_are_told_apart() -> None:
    found: list[Any] = []

    def elsewhere() -> None:
        found.append(masking_utils.find_packed_sequence_indices(PACKED))

    with unpacked_rows():
        assert masking_utils.find_packed_sequence_indices(position_ids=PACKED) is None
        thread = Thread(target=elsewhere)
        thread.start()
        thread.join()
    elsewhere()
    assert [one.tolist() for one in found] == [[[0, 0, 0, 1, 1]]] * 2


def test_within_its_block_a_mask_of_nothing_is_made() -> None:
    ones = torch.ones(1, 4, dtype=torch.bool)

    def made() -> torch.Tensor | None:
        return masking_utils.sdpa_mask(1, 1, 4, 3, attention_mask=ones)

    assert made() is None
    with masked_rows():
        mask = made()
    assert mask is not None
    assert mask.all()
    assert made() is None


def test_what_a_plan_put_there_and_took_away_again_is_taught_anew() -> None:
    with contentless(), unpacked_rows(), masked_rows():
        pass
    with unpacked_rows():
        assert masking_utils.find_packed_sequence_indices(position_ids=PACKED) is None
    ones = torch.ones(1, 4, dtype=torch.bool)
    with masked_rows():
        assert masking_utils.sdpa_mask(1, 1, 4, 3, attention_mask=ones) is not None
