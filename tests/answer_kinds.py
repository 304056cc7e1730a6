"""The table of kinds of answers; `python tests/answer_kinds.py [KIND]` prints it beside math-verify."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

FILE = Path(__file__).with_name("answer_kinds.yaml")
LIMIT_S = 5


def pairs() -> Iterator[tuple[str, str, str, bool]]:
    """Kind, gold, answer, and whether it is right, of every line of the table."""
    for kind, rows in yaml.safe_load(FILE.read_text(encoding="utf-8")).items():
        for row in rows:
            for right in (True, False):
                for answer in row["right" if right else "near"]:
                    yield kind, row["gold"], answer, right


def _library(gold: str, answer: str) -> bool | None:
    """What math-verify alone says; None where it does not end within LIMIT_S."""
    from opdlab_evaluators.answers.equality import _verify

    signal.signal(signal.SIGALRM, _late)
    signal.alarm(LIMIT_S)
    try:
        return _verify(gold, answer)
    except TimeoutError:
        return None
    finally:
        signal.alarm(0)


def _late(*_: object) -> None:
    raise TimeoutError


def main() -> None:
    """Print each verdict that is not as the table says, of both, and how many there are of each kind."""
    from opdlab_evaluators.answers.equality import decide

    counts: dict[str, list[int]] = {}
    for kind, gold, answer, right in pairs():
        if len(sys.argv) > 1 and sys.argv[1] not in kind:
            continue
        ours = decide(gold, answer)
        theirs = _library(gold, answer)
        row = counts.setdefault(kind, [0] * 5)
        row[0] += 1
        row[1] += ours.equal and not right
        row[2] += right and not ours.equal
        row[3] += theirs is True and not right
        row[4] += right and theirs is False
        if ours.equal != right or "-v" in sys.argv:
            print(
                f"{kind}: gold {gold!r}, {answer!r} should be {right}: {ours}; math-verify {theirs}"
            )
    print(
        f"{'kind':28s}  pairs   ours: false right, false wrong   math-verify: false right, false wrong"
    )
    for kind, row in counts.items():
        print(f"{kind:28s}  {row[0]:5d}  {row[1]:17d}  {row[2]:11d}  {row[3]:23d}  {row[4]:11d}")
    total = [sum(column) for column in zip(*counts.values(), strict=True)]
    print(
        f"{'all':28s}  {total[0]:5d}  {total[1]:17d}  {total[2]:11d}  {total[3]:23d}  {total[4]:11d}"
    )


if __name__ == "__main__":
    main()
