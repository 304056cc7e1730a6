"""Samples of a server that was seen later to draw otherwise than it was asked to."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from opdlab import identity
from opdlab.errors import OtherDrawsError
from opdlab.evaluation.store import SampleSet
from opdlab.files import write_whole
from opdlab.serving import UNPROVEN

LOG = logging.getLogger("opdlab")


def withdraw_unproven(stores: Iterable[Path], error: OtherDrawsError | None = None) -> list[Path]:
    """Withdraw what the same server answered, to earlier processes too, that saw too little of it to tell.

    Also what a process was withdrawing when it was killed.

    Args:
        stores: folders of samples.
        error: what was seen of the server; None for nothing new.

    Returns:
        The marks of what is withdrawn. Who has corrected the records of it removes them.
    """
    found: dict[Path, tuple[str, str]] = {}
    for mark in (one for store in stores for one in sorted(store.glob(f"*/{UNPROVEN}"))):
        # Another trial of a sweep may withdraw its references, too.
        with suppress(FileNotFoundError):
            how, _, reason = mark.read_text().partition("\n")
            found[mark] = how, reason
    reasons = {how: reason for how, reason in found.values() if reason}
    if error is not None:
        reasons[error.how] = str(error)
    withdrawn = {mark: reasons[how] for mark, (how, _) in found.items() if how in reasons}
    # All are marked before the first is withdrawn: whoever comes after a kill knows what is left.
    for mark, reason in withdrawn.items():
        write_whole(mark, f"{found[mark][0]}\n{reason}")
    for mark, reason in withdrawn.items():
        known = (one for one in identity.read(mark.parents[1]) if one.draws == mark.parent.name)
        asked = next(known, None)  # where its record is gone, whoever reads the samples is told
        if asked and (count := SampleSet(mark.parents[1], asked).withdraw(reason)):
            LOG.warning(
                "%s. %d samples of %s on %s that it answered before are withdrawn: they are stored as "
                "server_error, and are asked for again where the evaluation goes on",
                reason,
                count,
                asked.checkpoint,
                asked.benchmark,
            )
    return [*withdrawn]
