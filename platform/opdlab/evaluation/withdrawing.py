"""Samples of a server that was seen later to draw otherwise than it was asked to."""

from __future__ import annotations

import logging
from pathlib import Path

from opdlab.errors import OtherDrawsError
from opdlab.evaluation.store import SampleSet, sample_sets
from opdlab.serving import UNPROVEN

LOG = logging.getLogger("opdlab")


def withdraw(kept: SampleSet, reason: str) -> int:
    """Count none of what was drawn so far, and say so; returns how many there were."""
    count = kept.withdraw(reason)
    if count:
        LOG.warning(
            "%s. %d samples of %s on %s that it answered before are withdrawn: they are stored as "
            "server_error, and are asked for again where the evaluation goes on",
            reason,
            count,
            kept.checkpoint,
            kept.asked.benchmark,
        )
    return count


def withdraw_unproven(folder: Path, error: OtherDrawsError) -> None:
    """Withdraw what the same server answered to earlier processes that saw too little of it to tell.

    Args:
        folder: of an execution, with a folder for each of its runs.
    """
    for mark in sorted(folder.glob(f"*/samples/*/{UNPROVEN}")):
        if mark.read_text() == error.how:
            for kept in sample_sets(mark.parents[1]):
                if kept.path == mark.parent:
                    withdraw(kept, str(error))
            mark.unlink()
