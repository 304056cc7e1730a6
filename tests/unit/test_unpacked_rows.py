"""That rows are not packed is known within a block and a thread, and nowhere else."""

from __future__ import annotations

from threading import Thread
from typing import Any

import torch
from transformers import masking_utils

from opdlab.modelling.unpacked import unpacked_rows

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
