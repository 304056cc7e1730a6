"""The hacking watch: planted repetition, length and confidence raise alarms, healthy runs do not."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from end_to_end.laboratory import save_model
from unit.test_training import build, fit, rollout_of

from opdlab.config import HackingWatch
from opdlab.training.hacking import Alarms, longest_repeat

SETTINGS = HackingWatch(window=5)
HEALTHY = {
    "repetition_rate": 0.05,
    "longest_repeat": 0.05,
    "response_length": 30.0,
    "fidelity": 0.8,
    "accuracy": 0.4,
}


def run(steps: Iterable[dict[str, float]]) -> dict[int, dict[str, str]]:
    """New alarms by step, of a run whose steps differ from a healthy one as given."""
    alarms, found = Alarms(SETTINGS), {}
    for step, changes in enumerate(steps):
        if new := alarms.see({**HEALTHY, **changes}):
            found[step] = new
    return found


@pytest.mark.parametrize(
    ("planted", "alarm"),
    [
        ({"repetition_rate": 0.5}, "repetition"),
        ({"longest_repeat": 0.6}, "loops"),
        ({"response_length": 90.0}, "length"),
        ({"response_length": 5.0}, "length"),
        ({"fidelity": 0.95, "accuracy": 0.1}, "confidence"),
    ],
)
def test_a_planted_change_raises_its_alarm_once(planted: dict[str, float], alarm: str) -> None:
    found = run([{}] * 10 + [planted] * 20)
    ((step, new),) = found.items()
    assert list(new) == [alarm]
    assert 10 <= step < 15


@pytest.mark.parametrize(
    "harmless",
    [
        {"repetition_rate": 0.15},
        {"response_length": 45.0},
        {"fidelity": 0.95, "accuracy": 0.6},  # surer and righter
        {"fidelity": 0.7, "accuracy": 0.1},  # worse, and the teacher says so
        {"repetition_rate": 0.0, "longest_repeat": 0.0},
    ],
)
def test_changes_that_are_no_hacking_raise_nothing(harmless: dict[str, float]) -> None:
    assert run([{}] * 10 + [harmless] * 20) == {}


def test_a_single_odd_step_raises_nothing() -> None:
    assert run([{}] * 10 + [{"response_length": 70.0}] + [{}] * 10) == {}


def test_steps_without_a_grade_are_passed_over() -> None:
    alarms = Alarms(SETTINGS)
    for step in range(60):
        row = dict(HEALTHY) if step < 30 else {**HEALTHY, "fidelity": 0.95, "accuracy": 0.1}
        if step % 3:
            del row["accuracy"]
        alarms.see(row)
    assert list(alarms.raised) == ["confidence"]


def test_a_resumed_run_knows_how_it_began() -> None:
    rows = [{**HEALTHY, "step": float(step)} for step in range(1, 21)]
    again = Alarms(SETTINGS)
    again.replay(rows, until=15)
    for _ in range(5):
        again.see({**HEALTHY, "repetition_rate": 0.6})
    assert list(again.raised) == ["repetition"]


def test_the_longest_loop_is_measured_by_hand() -> None:
    # 5 5 5 5: one loop of period 1, three tokens repeat; of 4 tokens.
    assert longest_repeat(rollout_of([[5, 5, 5, 5]])) == pytest.approx(3 / 4)
    # 1 2 1 2 1 2 7: four tokens repeat the two before them; of 7.
    assert longest_repeat(rollout_of([[1, 2, 1, 2, 1, 2, 7]])) == pytest.approx(4 / 7)
    # 1 2 3 1 4: one token comes again, no whole turn does.
    assert longest_repeat(rollout_of([[1, 2, 3, 1, 4]])) == 0.0
    # Loops do not cross from one answer to the next.
    assert longest_repeat(rollout_of([[1, 2], [1, 2]])) == 0.0
    assert longest_repeat(rollout_of([[3], [4]])) == 0.0
    assert longest_repeat(rollout_of([[5, 5, 5, 5], [1, 2, 3, 4]])) == pytest.approx(3 / 8)


def test_training_answers_are_graded_now_and_then(tmp_path: Path) -> None:
    student, teacher = tmp_path / "student", tmp_path / "teacher"
    folders = save_model(student, 16), save_model(teacher, 32, scale=4.0)
    rows = fit(build(folders, {"type": "opd"}, steps=5, hacking={"grade_every": 2}))
    assert ["accuracy" in row for row in rows] == [True, False, True, False, True]
    rows = fit(build(folders, {"type": "opd"}, steps=2, hacking={"grade_every": 0}))
    assert not any("accuracy" in row for row in rows)
