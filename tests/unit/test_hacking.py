"""The hacking watch: planted repetition, length and confidence raise alarms, healthy runs do not."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from end_to_end.laboratory import save_model
from unit.test_training import build, fit, rollout_of

from opdlab.configuration.config import Experiment
from opdlab.configuration.loader import load_experiment
from opdlab.configuration.training_settings import HackingWatch
from opdlab.training.hacking import Alarms, longest_repeat, unwatched

SETTINGS = HackingWatch(window=5)
GRPO = "method={type: grpo, ratio_clip: 0.2}"
FULL = "method={type: opd, support: full}"
GIVEN = (
    "prompts={type: dataset, path: p.jsonl, completion_column: c, answer_column: a, grader: exact, "
    "given: %s}"
)
HEALTHY = {
    "repetition_rate": 0.05,
    "longest_repeat": 0.05,
    "response_length": 30.0,
    "fidelity": 0.8,
    "accuracy": 0.4,
}


def run(steps: Iterable[dict[str, float]]) -> dict[int, dict[str, str]]:
    """New alarms by step, of a run whose steps differ from a healthy one as given."""
    alarms, found = Alarms(SETTINGS, 60), {}
    for step, changes in enumerate(steps):
        if new := alarms.see({**HEALTHY, **changes}, step + 1):
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
    alarms = Alarms(SETTINGS, 60)
    for step in range(60):
        row = dict(HEALTHY) if step < 30 else {**HEALTHY, "fidelity": 0.95, "accuracy": 0.1}
        if step % 3:
            del row["accuracy"]
        alarms.see(row, step + 1)
    assert list(alarms.raised) == ["confidence"]


def collapsing(steps: int, settings: HackingWatch) -> dict[int, str]:
    """Alarms by step where a teacher grows surer all the time and the later answers are all wrong."""
    alarms, found = Alarms(settings, steps), {}
    for step in range(1, steps + 1):
        row = {**HEALTHY, "fidelity": 0.5 + 0.4 * step / steps}
        del row["accuracy"]
        if (step - 1) % settings.grade_every == 0:
            row["accuracy"] = 0.9 if step <= steps / 2 else 0.0
        for name in alarms.see(row, step):
            found[step] = name
    return found


@pytest.mark.parametrize("steps", [32, 60, 96, 120, 400])
def test_the_alarm_of_confidence_rings_in_runs_of_every_length(steps: int) -> None:
    """Gradings come every five steps, and windows are of steps whatever is measured in them."""
    settings = HackingWatch()
    ((step, alarm),) = collapsing(steps, settings).items()
    assert alarm == "confidence"
    assert steps / 2 < step <= steps / 2 + settings.window + 1


def test_a_window_is_of_the_same_steps_for_every_sign() -> None:
    alarms = Alarms(HackingWatch(), 60)
    for step in range(1, 61):
        graded = {"accuracy": float(step)} if step % 5 == 1 else {}
        alarms.see({"fidelity": float(step), **graded}, step)
    assert alarms.first["fidelity"] == list(range(1, 21))
    assert alarms.first["accuracy"] == [1, 6, 11, 16]
    assert [step for step, _ in alarms.last["fidelity"]] == list(range(41, 61))
    assert [step for step, _ in alarms.last["accuracy"]] == [41, 46, 51, 56]


def test_a_fall_of_accuracy_within_its_noise_is_no_alarm() -> None:
    def seen(first: list[float], last: list[float]) -> list[str]:
        alarms = Alarms(HackingWatch(window=20, grade_every=5), 40)
        for step in range(1, 41):
            row = {"fidelity": 0.5 + step / 100}
            if step % 5 == 1:
                row["accuracy"] = (first if step <= 20 else last)[step % 20 // 5]
            alarms.see(row, step)
        return list(alarms.raised)

    # Both fall by 0.2; by hand the standard errors are 0.173 and 0.0173.
    assert seen([0.9, 0.3, 0.9, 0.5], [0.7, 0.1, 0.7, 0.3]) == []
    assert seen([0.67, 0.63, 0.67, 0.63], [0.47, 0.43, 0.47, 0.43]) == ["confidence"]


def experiment(*overrides: str) -> Experiment:
    return load_experiment("quickstart", ["runs=[]", *overrides])


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["training.steps=9"], "9 steps hold no two windows of 5"),
        (["training.hacking.grade_every=0"], "no answers are graded"),
        (["training.hacking.grade_every=30"], "graded every 30 steps"),
        (["training.steps=12"], "each window of 6 steps needs two gradings"),
        (["training.hacking.window=3"], "each window of 3 steps needs two gradings"),
        (
            ["prompts={type: dataset, path: prompts.jsonl}"],
            "answers are not graded (prompts.answer_column",
        ),
        ([GRPO, "rollout.group_size=4", "training.epochs=11"], "graded every 11 steps"),
        (["method={type: opd, ratio_cap: 2}", "training.epochs=5"], "graded every 25 steps"),
        (["method={type: sft}"], "the answers are the teacher's, and not the student's"),
        ([FULL, GIVEN % 1.0], "the answers are those of the data (prompts.given)"),
        ([FULL, GIVEN % 0.1], "steps with answers of the data are not graded, and all have"),
    ],
)
def test_what_is_not_watched_is_said_with_the_reason(overrides: list[str], reason: str) -> None:
    (said,) = unwatched(experiment(*overrides))
    assert reason in said


def test_an_alarm_that_is_said_to_be_unwatched_cannot_ring() -> None:
    for steps, settings in [
        (9, HackingWatch()),
        (60, HackingWatch(grade_every=30)),
        (12, HackingWatch()),
    ]:
        assert collapsing(steps, settings) == {}


def test_a_resumed_run_knows_how_it_began() -> None:
    rows = [{**HEALTHY, "step": float(step)} for step in range(1, 21)]
    again = Alarms(SETTINGS, 60)
    again.replay(rows, until=15)
    for step in range(16, 21):
        again.see({**HEALTHY, "repetition_rate": 0.6}, step)
    assert list(again.raised) == ["repetition"]


def test_the_longest_loop_is_measured_by_hand() -> None:
    # 5 5 5 5: one loop of period 1, three tokens repeat; of 4 tokens.
    assert longest_repeat(rollout_of([[5, 5, 5, 5]])) == pytest.approx(3 / 4)
    # 9 8 7 1 2 1 3 4: one token repeats the second before it, which is no whole turn.
    assert longest_repeat(rollout_of([[9, 8, 7, 1, 2, 1, 3, 4]])) == 0
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
