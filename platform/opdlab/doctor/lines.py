"""What a check of doctor says: a line that passes, fails with a remedy, or was skipped with a reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Line:
    """What one check found.

    Attributes:
        what: the claim that was checked.
        status: whether it holds, or could not be looked at.
        found: figures that say so, or the reason for skipping.
        remedy: what to do where it fails.
    """

    what: str
    status: Literal["pass", "FAIL", "skip"]
    found: str
    remedy: str = ""


def passed(what: str, found: str) -> Line:
    return Line(what, "pass", found)


def failed(what: str, found: str, remedy: str) -> Line:
    return Line(what, "FAIL", found, remedy)


def skipped(what: str, why: str) -> Line:
    return Line(what, "skip", why)


def judged(what: str, holds: bool, found: str, remedy: str) -> Line:
    """A line that passes or fails."""
    return passed(what, found) if holds else failed(what, found, remedy)
