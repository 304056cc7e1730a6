"""Teachers of single domains: every response is scored by the teacher of its prompt's domain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import torch

from opdlab.errors import RefusedError
from opdlab.records import Questions, Rollout, TeacherScores
from opdlab.scoring.pieces import join
from opdlab.scoring.scorer import Scorer
from opdlab.scoring.tree import part
from opdlab.transfers import to_host


@dataclass(frozen=True, eq=False)
class Specialist:
    """A teacher with the domains it is asked about, as patterns (`code/*`)."""

    domains: tuple[str, ...]
    teacher: Scorer


def chosen(domain: str, patterns: Sequence[Sequence[str]]) -> int | None:
    """Number of the first list of patterns that a domain matches; None for the general teacher."""
    for number, each in enumerate(patterns):
        if any(fnmatchcase(domain, pattern) for pattern in each):
            return number
    return None


def score_by_domain(
    general: Scorer,
    specialists: Sequence[Specialist],
    rollout: Rollout,
    questions: Questions,
    domains: Sequence[str],
) -> TeacherScores:
    """What each row's own teacher answers, in the rollout's order.

    Args:
        general: scores the rows of domains that no specialist knows.
        questions: of a method that does not need whole distributions, which differ in their heads.
        domains: of each row.

    Raises:
        NonFiniteError, ModelError, RefusedError: as `Scorer.score`; the last when each had its turn,
            in which those in this process meet the other processes.
    """
    rollout = rollout.host
    (candidates,) = to_host([questions.candidates])
    patterns = [one.domains for one in specialists]
    mine = [chosen(domain, patterns) for domain in domains]
    pieces, refused = [], list[tuple[list[int], RefusedError]]()
    for number in (None, *range(len(specialists))):
        teacher = general if number is None else specialists[number].teacher
        rows = [row for row, each in enumerate(mine) if each == number]
        if not rows:
            teacher.stand_by()
            continue
        piece, place = part(rollout, torch.tensor(rows))
        asked = replace(questions, candidates=candidates[place])
        try:
            pieces.append((teacher.score(piece, asked), place))
        except RefusedError as error:
            refused.append((rows, error))
    if refused:
        raise _merged(refused, len(mine) - sum(len(rows) for rows, _ in refused))
    return join(pieces)


def _merged(refused: Sequence[tuple[list[int], RefusedError]], scored: int) -> RefusedError:
    """One error for what several teachers' servers refused, with the rows that each was asked about.

    Args:
        scored: rows that the other teachers have scored.
    """
    by = {rows[row]: (error, why) for rows, error in refused for row, why in error.rows.items()}
    errors = [error for _, error in refused]
    first, _ = by[min(by)]
    merged = first.told_as(
        rows={row: why for row, (_, why) in by.items()},
        count=sum(error.count for error in errors) + scored,
        # What one did not ask, since it answered nothing, is asked in the next round.
        ended=not scored and all(error.ended for error in errors),
        refused=sum(error.refused for error in errors),
        unusable=any(error.unusable for error in errors),
    )
    merged.__cause__ = first
    return merged
