"""Verdicts on many completions whose programs are run: equal programs of a problem are run once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from opdlab.records import Problem, Verdict
from opdlab_evaluators.programs.judging import Worker
from opdlab_evaluators.programs.pool import ProgramPool


def grade_programs(
    pool: ProgramPool,
    answers: Sequence[tuple[Problem, str]],
    program_of: Callable[[Problem, str], str | None],
    judge: Callable[[Problem, str, Worker], Verdict],
    on_graded: Callable[[int], None] | None = None,
) -> list[Verdict]:
    """One verdict for each answer, in order.

    Args:
        program_of: the program that a completion holds; None if it holds none.
        judge: runs and judges one, in a sandbox.
        on_graded: called with the number of verdicts reached since the last call.
    """
    programs = [program_of(problem, completion) for problem, completion in answers]
    rows: dict[tuple[str, str], list[int]] = {}
    for row, ((problem, _), program) in enumerate(zip(answers, programs, strict=True)):
        if program is not None:
            rows.setdefault((problem.id, program), []).append(row)
    if on_graded is not None and None in programs:
        on_graded(programs.count(None))
    asked = list(rows)
    tasks = [partial(judge, answers[rows[key][0]][0], key[1]) for key in asked]

    def judged(index: int) -> None:
        if on_graded is not None:
            on_graded(len(rows[asked[index]]))

    verdicts = dict(zip(asked, pool.judge(tasks, judged), strict=True))
    return [
        Verdict("no_answer", reason="no program in a fenced block")
        if program is None
        else verdicts[problem.id, program]
        for (problem, _), program in zip(answers, programs, strict=True)
    ]
