"""The table of kinds of answers; `python tests/answer_kinds.py [KIND]` prints it beside math-verify.

A row of the file has a reference answer (`gold`) and answers that are right or near misses; `said` and
`unsaid` are whole completions of both sorts, of which the answer is taken out first.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import yaml

FILE = Path(__file__).with_name("answer_kinds.yaml")
LIMIT_S = 20
SORTS = (("right", True), ("near", False), ("said", True), ("unsaid", False))


def pairs() -> Iterator[tuple[str, str, str, bool]]:
    """Kind, gold, answer, and whether it is right, of every line of the table."""
    from opdlab_evaluators.answers.extraction import extract

    for kind, rows in yaml.load(FILE.read_text(encoding="utf-8"), yaml.CSafeLoader).items():
        for row in rows:
            for sort, right in SORTS:
                for answer in row.get(sort, ()):
                    if sort in ("said", "unsaid"):
                        found = extract(answer)
                        answer = "" if found is None else found.text
                    yield kind, row["gold"], answer, right


def _serve(end: Connection) -> None:
    from opdlab_evaluators.answers.equality import math_verify_says

    while True:
        try:
            end.send(math_verify_says(*end.recv()))
        except EOFError:
            return


class Library:
    """math-verify alone, in a process that is killed when it takes longer than LIMIT_S."""

    def __init__(self) -> None:
        self.process: multiprocessing.Process | None = None

    def says(self, gold: str, answer: str) -> bool | None:
        """What it says; None where it does not end in time."""
        if self.process is None:
            self.ours, theirs = multiprocessing.Pipe()
            self.process = multiprocessing.Process(target=_serve, args=(theirs,), daemon=True)
            self.process.start()
            theirs.close()
        self.ours.send((gold, answer))
        if self.ours.poll(LIMIT_S):
            return self.ours.recv()
        self.process.kill()
        self.process.join()
        self.process = None
        return None


def main() -> None:
    """Print each verdict that is not as the table says, and how many there are of each kind, for both."""
    from opdlab_evaluators.answers.equality import decide, math_verify_says

    math_verify_says(
        "1", "1"
    )  # what it imports is shared with the processes that are forked from here
    library = Library()
    counts: dict[str, list[int]] = {}
    for kind, gold, answer, right in pairs():
        if len(sys.argv) > 1 and sys.argv[1] not in kind:
            continue
        theirs = library.says(gold, answer)
        # The second opinion changes no verdict of ours, but for sums and integrals.
        ours = decide(gold, answer, opinion=lambda _, __, theirs=theirs: bool(theirs))
        row = counts.setdefault(kind, [0] * 6)
        row[0] += right
        row[1] += not right
        row[2] += ours.equal and not right
        row[3] += right and not ours.equal
        row[4] += theirs is True and not right
        row[5] += right and not theirs
        if ours.equal != right or "-v" in sys.argv:
            print(
                f"{kind}: gold {gold!r}, {answer!r} should be {right}: {ours}; math-verify {theirs}"
            )
    counts["all"] = [sum(column) for column in zip(*counts.values(), strict=True)]
    print(
        "| kind | right | near misses | ours: false right | false wrong"
        " | math-verify: false right | false wrong |"
    )
    print("| --- " * 7 + "|")
    for kind, row in counts.items():
        print(f"| {kind} | " + " | ".join(map(str, row)) + " |")


if __name__ == "__main__":
    main()
