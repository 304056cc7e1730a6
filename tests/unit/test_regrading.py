"""What `opdlab regrade` prints of an answer: a line that tells, never a whole program."""

import pytest

from opdlab.console.terminal import console
from opdlab.evaluation.regrading import WIDTH, Regraded, brief, changes, cut, table
from opdlab.records import Grade

PROGRAM = "import math\n\n\ndef area(r):\n    return math.pi * r * r\n"


@pytest.mark.parametrize(
    ("old", "new", "shown"),
    [
        ("42", "42", "42"),
        (None, "42", "42"),
        ("41", "42", "42 (before: 41)"),
        ("42", None, "nothing"),
        (PROGRAM, PROGRAM, "line 1 of 5: import math"),
        (PROGRAM, PROGRAM.replace("r * r", "r"), "line 5 of 5: return math.pi * r"),
        (PROGRAM, PROGRAM + "print(1)", "line 6 of 6: print(1)"),
        (PROGRAM, "pass", "pass (before: 5 lines)"),
    ],
)
def test_an_answer_is_shown_in_one_line_by_what_changed(old, new, shown):
    assert brief(old, new) == shown


def test_a_long_line_is_cut_and_only_the_first_is_shown():
    assert cut("a" * WIDTH) == "a" * WIDTH
    assert cut("a" * (WIDTH + 1)) == "a" * (WIDTH - 2) + " …"
    assert cut("first\nsecond") == "first"


def test_verdicts_that_turned_are_counted_apart_from_other_answers(monkeypatch):
    monkeypatch.setattr(console, "width", 100)
    before = Grade("p0", 0, "1", "wrong", PROGRAM, "")
    turned = Grade("p0", 0, "2", "correct", PROGRAM, "[red]")
    other = Grade("p1", 0, "2", "wrong", "x", "")
    one = Regraded("a", "b", "1", "2", {("p0", 0): (before, turned), ("p1", 0): (before, other)}, 9)
    with console.capture() as shown:
        console.print(table([one]))
        console.print(changes(one))
    text = shown.get()
    assert "1 of 9" in text
    assert "1 wrong to correct" in text
    assert "1 with another answer" in text
    assert "wrong to correct   line 1 of 5: import math" in text
    assert "still wrong" in text
    assert "[red]" in text
    assert "math.pi" not in text
