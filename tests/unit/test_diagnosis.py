"""Fidelity as `opdlab diagnose` measures it: against whole forwards and numbers made by hand."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from end_to_end.laboratory import save_model

from opdlab.diagnosis import bootstrap, decay, findings, page, report
from opdlab.diagnosis.fidelity import Curves
from opdlab.diagnosis.findings import Observed, find
from opdlab.diagnosis.observation import HandOvers, Tokens, load, save
from opdlab.diagnosis.observe import WINDOW, Asked, Bench, hand_over, respond, spread
from opdlab.diagnosis.run import clean
from opdlab.diagnosis.sigmoid import sigmoid
from opdlab.diagnosis.work import CONTROL
from opdlab.errors import DataError
from opdlab.modelling import models
from opdlab.plugins.evaluator import Evaluator
from opdlab.records import Problem, Verdict
from opdlab.sampling.rollout import CachedEngine
from opdlab.scoring.teacher import Teacher


@dataclass(frozen=True)
class Echo(Evaluator):
    """Right is an answer that begins with the gold."""

    benchmark = "echo"
    grader_version = "1"

    def problems(self) -> Sequence[Problem]:
        return [Problem("echo", f"{n}", f"M{n}a+{n}=", gold="") for n in range(6)]

    def grade(self, problem: Problem, completion: str) -> Verdict:
        right = completion.startswith(problem.gold)
        return Verdict("correct" if right else "wrong", completion, "" if right else "another one")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bench, torch.nn.Module]:
    folder = tmp_path_factory.mktemp("models")
    paths = [save_model(folder / name, width, scale=4.0) for name, width in (("s", 16), ("t", 32))]
    student, teacher = (models.load_model(str(path)) for path in paths)
    tokenizer = models.load_tokenizer(str(paths[0]))
    problems = Echo().problems()
    asked = [Asked(number, 0, problem, Echo()) for number, problem in enumerate(problems)]
    return (
        Bench(
            teacher=Teacher(teacher).probe(),
            context=models.positions(teacher),
            engine=CachedEngine(max_new_tokens=40),
            top_k=4,
            tokenizer=tokenizer,
            template="none",
            eos_ids=models.eos_ids(teacher, tokenizer),
            teacher_ends=models.eos_ids(teacher, tokenizer),
            pad_id=models.pad_id(teacher, tokenizer),
            vocabulary=len(tokenizer),
            asked=asked,
            seed=5,
        ),
        student,
    )


def distributions(model: torch.nn.Module, bench: Bench, one: Tokens) -> np.ndarray:
    """Next-token distributions before each token of a response and after the last, by one forward."""
    prompt = bench.tokenizer(bench.asked[int(one.problem[0])].problem.prompt)["input_ids"]
    with torch.no_grad():
        tokens = torch.tensor([[*prompt, *one.token.tolist()]])
        said = model(input_ids=tokens).logits[0, len(prompt) - 1 :].softmax(-1)
    return said.double().numpy()


def test_tokens_say_what_whole_forwards_say(bench) -> None:
    bench, student = bench
    seen = respond(bench, student, range(6), looked_at=10_000)
    assert len(seen.responses()) == 6
    for one in seen.responses():
        theirs = distributions(bench.teacher.model, bench, one)
        ours = distributions(student, bench, one)
        place = np.arange(len(one))
        assert one.teacher == pytest.approx(np.log(theirs[place, one.token]), abs=1e-4)
        assert one.student == pytest.approx(np.log(ours[place, one.token]), abs=1e-4)
        known = ~np.isin(one.token, bench.eos_ids)
        assert one.fidelity[known] == pytest.approx(theirs[1:].max(1)[known], abs=1e-5)
        assert np.isnan(one.fidelity[~known]).all()
        entropy = -(theirs[:-1] * np.log(theirs[:-1])).sum(1)
        assert one.entropy == pytest.approx(entropy, abs=1e-4)


def test_d_ahead_is_that_of_whole_forwards_and_no_eos_is_a_candidate(bench) -> None:
    bench, student = bench
    seen = respond(bench, student, range(2), looked_at=10_000)
    one = seen.responses()[0]
    for place in (0, 3):
        kept = one[np.arange(place)]
        top = distributions(student, bench, kept if place else one)[place].argsort()[::-1][:4]
        after = []
        for token in top:
            if token in bench.eos_ids:
                continue
            row = replace(one[np.arange(place + 1)], token=np.append(one.token[:place], token))
            after.append(distributions(bench.teacher.model, bench, row)[-1].max())
        assert one.ahead[place] == pytest.approx(max(after) - min(after), abs=1e-5)
    few = respond(bench, student, range(2), looked_at=7)
    assert 0 < np.isfinite(few.ahead).sum() <= 7


def test_the_spread_of_a_single_candidate_is_none() -> None:
    nan = float("nan")
    confidence = torch.tensor([[0.5, 0.25, nan], [0.5, nan, nan], [nan, nan, nan]])
    assert spread(confidence).tolist() == pytest.approx([0.25, nan, nan], nan_ok=True)


def test_a_hand_over_keeps_the_prefix_and_the_teacher_goes_on(bench) -> None:
    bench, student = bench
    seen = respond(bench, student, range(6), looked_at=0).responses()
    cut = 12
    long = [one for one in seen if len(one) > cut]
    texts = [
        bench.tokenizer.decode(one.token[:cut].tolist(), skip_special_tokens=True) for one in seen
    ]
    kept = [
        replace(one, problem=replace(one.problem, gold=texts[one.number])) for one in bench.asked
    ]
    found = hand_over(replace(bench, asked=kept), seen, range(6), cut)
    assert len(found) == len(long) > 1
    assert found.correct.tolist() == [1.0] * len(long)
    other = [replace(one, problem=replace(one.problem, gold="?" * cut)) for one in bench.asked]
    assert not hand_over(replace(bench, asked=other), seen, range(6), cut).correct.any()
    for one, before in zip(long, found.before, strict=True):
        said = distributions(bench.teacher.model, bench, one[np.arange(cut)]).max(1)
        assert before == pytest.approx(said[cut - WINDOW + 1 :].mean(), abs=1e-5)


@dataclass(frozen=True, kw_only=True)
class Listening(CachedEngine):
    """Keeps the prompts that it was given."""

    given: list[Sequence[int]] = field(default_factory=list)

    def sample(self, model, prompts, seeds, **asked):
        self.given.extend(prompts)
        return super().sample(model, prompts, seeds, **asked)


@pytest.mark.parametrize("cut", [1, 12])
def test_the_teacher_reads_the_prompt_and_as_many_tokens_as_were_kept(bench, cut: int) -> None:
    bench, student = bench
    seen = respond(bench, student, range(6), looked_at=0).responses()
    engine = Listening(max_new_tokens=2)
    hand_over(replace(bench, engine=engine), seen, range(6), cut)
    prompts = [bench.tokenizer(one.problem.prompt)["input_ids"] for one in bench.asked]
    wanted = [
        (*prompt, *one.token[:cut].tolist())
        for prompt, one in zip(prompts, seen, strict=True)
        if len(one) > cut
    ]
    assert engine.given == wanted != []


def test_from_an_empty_prefix_the_teacher_answers_by_itself_and_is_as_sure_as_a_forward_says(
    bench,
) -> None:
    bench, student = bench
    seen = respond(bench, student, range(6), looked_at=0).responses()
    found = hand_over(bench, seen, range(6), 0)
    assert len(found) == 6
    assert np.isnan(found.before).all()
    alone = respond(replace(bench, seed=bench.seed + 1), bench.teacher.model, range(6), 0)
    for one, after in zip(alone.responses(), found.after, strict=True):
        if len(one) > WINDOW:
            said = distributions(bench.teacher.model, bench, one).max(1)
            assert after == pytest.approx(said[1 : WINDOW + 1].mean(), abs=1e-5)


def test_the_teachers_part_stays_within_its_context(bench) -> None:
    bench, student = bench
    seen = respond(bench, student, range(6), looked_at=0).responses()
    wide = replace(bench, engine=replace(bench.engine, max_new_tokens=100_000))
    assert np.isfinite(hand_over(wide, seen[:2], range(2), 5).correct).all()


def made(
    curve, problems: int = 40, length: int = 300, own: bool = False, seed: int = 0
) -> Observed:
    """Responses whose fidelity follows a curve, and hand-overs whose accuracy does."""
    draw = np.random.default_rng(seed)
    lengths = draw.integers(length // 2, length, problems)
    position = np.concatenate([np.arange(n) for n in lengths])
    problem = np.repeat(np.arange(problems), lengths)
    F = curve(position / 1000) + 0.02 * draw.standard_normal(len(position))
    zeros = np.zeros(len(position))
    student = -draw.random(len(position))
    entropy = draw.random(len(position))
    tokens = Tokens(
        problem,
        zeros.astype(int),
        position,
        zeros.astype(int),
        student,
        0.5 * student - 1,
        entropy,
        F.clip(0, 1),
        draw.random(len(position)),
    )
    handed = []
    for cut in (0, 40, 80, 120, 160):
        mine = np.flatnonzero(lengths > cut)
        right = (draw.random(len(mine)) < curve(cut / 1000)).astype(float)
        none = np.zeros(len(mine))
        before = np.full(len(mine), np.nan if cut == 0 else curve(cut / 1000))
        handed.append(HandOvers(mine, none, none + cut, right, none, before, none + 0.9))
    name = CONTROL if own else f"student-{seed}"
    return Observed(name, own, tokens, HandOvers.join(handed))


FALLING = {"amplitude": 0.5, "eps": 40.0, "t_star": 0.12, "floor": 0.4}


def falling(t):
    return sigmoid(t, *FALLING.values())


def later(t):
    return sigmoid(t, 0.5, 40.0, 0.17, 0.4)


def flat(t):
    return 0.9 + 0 * t


@pytest.fixture(scope="module")
def found() -> dict:
    seen = [made(falling), made(later, seed=1), made(flat, own=True, seed=2)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bootstrap, "REPLICATES", 200)
        return find(seen, problems=40, bins=24, least=0.6)


def test_a_falling_curve_is_found_with_its_boundary_and_a_flat_one_is_not_identified(found) -> None:
    student, control = found["models"]["student-0"], found["models"][CONTROL]
    assert student["fit"]["identified"], student["fit"]["text"]
    assert student["fit"]["values"]["t_star"] == pytest.approx(0.12, abs=0.01)
    assert student["fall"]["value"] > 0.4
    assert student["fall"]["low"] < student["fall"]["value"] < student["fall"]["high"]
    assert not control["fit"]["identified"]
    assert "flat" in control["fit"]["text"]
    assert control["fall"]["low"] < 0.01


def late_by_hand(before: Tokens, after: Tokens, width: int) -> list[float]:
    """The late difference of every problem, cell by cell."""
    cells: list[dict[tuple[int, int], list[float]]] = [{}, {}]
    for side, tokens in zip(cells, (before, after), strict=True):
        for problem, position, F in zip(
            tokens.problem.tolist(), tokens.position.tolist(), tokens.fidelity.tolist(), strict=True
        ):
            side.setdefault((problem, position // width), []).append(F)
    both = cells[0].keys() & cells[1].keys()
    held = [
        {b for _, b in side if len({p for p, other in side if other == b}) >= 5} for side in cells
    ]
    bins = sorted({b for _, b in both} & held[0] & held[1])
    late = bins[-(len(bins) // 4) :]
    apart = {}
    for problem, b in sorted(both):
        if b in late:
            gap = np.mean(cells[1][problem, b]) - np.mean(cells[0][problem, b])
            apart.setdefault(problem, []).append(gap)
    return [float(np.mean(each)) for each in apart.values()]


def test_drift_is_how_far_the_late_fidelity_lies_below_the_controls(found) -> None:
    drift = found["models"]["student-0"]["drift"]
    each = late_by_hand(made(flat, seed=2).tokens, made(falling).tokens, found["bin_width"])
    assert drift["value"] == pytest.approx(np.mean(each))
    assert drift["problems"] == len(each) < 40
    assert drift["value"] == pytest.approx(falling(0.3) - 0.9, abs=0.02)
    assert drift["high"] < 0
    assert "drift" not in found["models"][CONTROL]


def leveled(lengths: Sequence[int], levels: Sequence[float]) -> Tokens:
    """Answers whose fidelity depends on the problem alone."""
    draw = np.random.default_rng(5)
    problem = np.repeat(np.arange(len(lengths)), lengths)
    position = np.concatenate([np.arange(n) for n in lengths])
    F = np.asarray(levels)[problem] + 0.01 * draw.standard_normal(len(problem))
    zeros = np.zeros(len(problem))
    numbers = zeros.astype(int)
    return Tokens(problem, numbers, position, numbers, zeros, zeros, zeros, F, zeros)


def test_whoever_still_writes_is_no_decay() -> None:
    """The teacher is less sure of some problems, whoever answers and wherever; the student's answers to the
    others are short. Nothing falls, nothing drifts, no sigmoid is found."""
    levels = [0.95 if n % 2 else 0.65 for n in range(64)]
    student = leveled([60 if n % 2 else 200 for n in range(64)], levels)
    curves = [decay.curve_of(one, 64, 10, 200) for one in (leveled([200] * 64, levels), student)]
    pooled = curves[1].mean()
    assert pooled[0] - pooled[-1] > 0.1
    fall = decay.fall(student)
    assert (fall["value"], fall["problems"]) == (pytest.approx(0, abs=0.005), 64)
    assert fall["low"] < 0 < fall["high"]
    drift = decay.late_change(*curves)
    assert (drift.value, drift.problems) == (pytest.approx(0, abs=0.005), 32)
    assert str(drift).endswith("no difference is shown (n = 32 problems that both reach)")
    (moved,), _ = curves[1].within()
    assert np.ptp(moved) < 0.01
    assert not decay.sigmoid_of(curves[1], 0)["identified"]


def test_p_of_a_mean_and_of_replicates_are_those_worked_out_by_hand() -> None:
    signs = 2 * 2.0**-10  # all ten alike, by chance
    assert bootstrap.sign_flip(np.full(10, 0.3), 0) == pytest.approx(signs, abs=0.0015)
    assert bootstrap.sign_flip(np.full(200, 0.3), 0) == 1 / (1 + bootstrap.FLIPS)
    assert bootstrap.sign_flip(np.tile([0.3, -0.3], 10), 0) == 1.0
    below = np.arange(1000) < 30
    assert bootstrap.two_sided(below, ~below) == bootstrap.two_sided(~below, below) == 0.06
    assert bootstrap.two_sided(below[:10], ~below[:10]) == 0.1
    assert bootstrap.two_sided(np.ones(10, bool), np.ones(10, bool)) == 1.0


def test_an_answer_falls_from_two_tokens_on() -> None:
    """Problems 0 and 1 have two known tokens each, problem 2 one."""
    problem = np.array([0, 0, 1, 1, 1, 2])
    fidelity = np.array([0.9, 0.5, 0.8, np.nan, 0.6, 0.1])
    zeros, numbers = np.zeros(6), np.zeros(6, int)
    position = np.array([0, 1, 0, 1, 2, 0])
    tokens = Tokens(problem, numbers, position, numbers, zeros, zeros, zeros, fidelity, zeros)
    found = decay.fall(tokens)
    assert (found["problems"], found["value"]) == (2, pytest.approx(0.3))
    assert (found["early"], found["late"]) == (pytest.approx(0.85), pytest.approx(0.55))


def test_hard_problems_with_long_answers_end_no_horizon_and_make_no_correlation() -> None:
    """The teacher is as sure of a problem, and as often right, from any cut on; hard ones take longer."""
    levels, lengths = np.linspace(0.5, 0.98, 48), np.linspace(280, 50, 48).astype(int)
    tokens = leveled(lengths.tolist(), levels.tolist())
    cuts = np.repeat([40, 80, 120, 160, 200], 48)
    problem, none = np.tile(np.arange(48), 5), np.zeros(240)
    kept = lengths[problem] > cuts
    arrays = (
        problem,
        none.astype(int),
        cuts,
        levels[problem],
        none,
        levels[problem],
        levels[problem],
    )
    handed = HandOvers(*(one[kept] for one in arrays))
    curves = decay.curve_of(tokens, 48, 10, 280)
    assert curves.mean()[0] > 0.7 > curves.mean()[-1]
    horizon = decay.horizon(curves, 0.7, 0)
    assert horizon["at_end"]
    assert horizon["low"] == horizon["high"] == horizon["seen"]
    calm = replace(tokens, fidelity=levels[tokens.problem])
    assert findings.correlation_over_cuts(Observed("s", False, calm, handed))["r"] is None
    moving = replace(handed, correct=handed.correct - handed.cut / 1000)
    drifting = replace(calm, fidelity=calm.fidelity - tokens.position / 500)
    together = findings.correlation_over_cuts(Observed("s", False, drifting, moving))
    assert (together["r"], together["cuts"]) == (pytest.approx(1, abs=1e-3), 5)


def test_the_curve_of_all_problems_is_their_plain_mean_where_all_reach_every_position() -> None:
    draw = np.random.default_rng(2)
    total = draw.random((7, 5))
    whole = Curves(np.arange(5.0), total, np.ones((7, 5)))
    assert whole.of_all()[0] == pytest.approx(total.mean(0))
    cut = Curves(
        np.arange(5.0),
        np.where(np.tri(7, 5) > 0, total * 0 + 0.1 * np.arange(7)[:, None], 0),
        np.tri(7, 5),
    )
    assert cut.of_all()[0] == pytest.approx([0.3] * 5)


def test_a_replicate_without_tokens_has_no_horizon_and_not_0() -> None:
    count = np.zeros((6, 3))
    count[0] = 1
    times = np.array([[1.0] * 6, [0.0, 2, 1, 1, 1, 1]])
    found = decay.horizons(Curves(np.arange(1.0, 4), 0.9 * count, count), 0.5, times)
    assert (found[0], np.isnan(found[1])) == (3000, True)


def test_the_curve_within_problems_is_that_of_least_squares() -> None:
    draw = np.random.default_rng(1)
    count = draw.integers(0, 5, (9, 6)).astype(float)
    total = count * draw.random((9, 6))
    times = draw.integers(0, 3, (1, 9)).astype(float)
    (found,), _ = Curves(np.arange(6.0), total, count).within(times)
    rows, places = np.nonzero(count)
    design = np.hstack([np.eye(9)[rows], np.eye(6)[places]])
    weight = np.sqrt(times[0, rows] * count[rows, places])
    values = total[rows, places] / count[rows, places]
    solved = np.linalg.lstsq(design * weight[:, None], values * weight, rcond=None)[0][9:]
    assert np.diff(found) == pytest.approx(np.diff(solved))
    weights = times @ count
    assert (found * weights).sum() == pytest.approx((times @ total).sum())
    whole = Curves(np.arange(6.0), total + 1, np.ones((9, 6)))
    assert whole.within()[0][0] == pytest.approx((total + 1).mean(0)) == whole.mean()


def test_positions_that_no_problem_joins_have_no_sigmoid() -> None:
    count = np.kron(np.eye(2), np.ones((10, 6)))
    fit = decay.sigmoid_of(Curves(np.arange(12.0), count * 0.5, count), 0)
    assert "join all positions" in fit["text"]


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (
            (200, 0.95),
            (100, 0.95),
            "not known, as all that both reach, 95 tokens, lies within both",
        ),
        (
            (100, 0.95),
            (200, 0.95),
            "not known, as all that both reach, 95 tokens, lies within both",
        ),
        ((100, 0.95), (100, 0.3), "at most -95 tokens [-inf, -95], down"),
        ((100, 0.3), (100, 0.95), "at least +95 tokens [+95, +inf], up"),
        ((100, 0.3), (100, 0.3), "+0 tokens [+0, +0], no difference is shown"),
        ((1, 0.95), (100, 0.95), "nothing to compare"),
    ],
)
def test_a_horizon_that_answers_cut_off_has_no_difference_that_it_does_not(
    before: tuple[int, float], after: tuple[int, float], said: str
) -> None:
    curves = []
    for length, level in (before, after):
        tokens = leveled([length] * 12, [level] * 12)
        ended = np.where(tokens.position == length - 1, np.nan, tokens.fidelity)
        curves.append(decay.curve_of(replace(tokens, fidelity=ended), 12, 10, 200))
    assert said in str(decay.horizon_change(*curves, 0.6, seed=0))


def test_a_student_whose_answers_end_at_once_has_nothing_to_measure(found) -> None:
    one = made(flat)
    first = one.tokens.position == 0
    gone = replace(one.tokens[first], fidelity=np.full(first.sum(), np.nan))
    collapsed = replace(one, name="collapsed", tokens=gone, handed=one.handed[one.handed.cut == 0])
    seen = find([made(falling), collapsed, made(flat, own=True)], 40, 24, 0.6)
    said = seen["models"]["collapsed"]
    assert "nothing to measure" in said["fit"]["text"]
    assert "nothing to compare" in said["drift"]["text"]
    shifts = seen["shifts"]["collapsed"].values()
    assert all("nothing to" in each["text"] for each in shifts)
    seen |= {"experiment": "made", "teacher": "t", "window": WINDOW, "top_k": 8}
    assert "collapsed" in page.html(seen)
    assert list(report.tables(seen))
    assert (
        seen["models"]["student-0"]["fall"]["value"]
        == found["models"]["student-0"]["fall"]["value"]
    )


def test_a_horizon_that_was_not_seen_to_end_is_no_number_of_its_own(found) -> None:
    metrics = report.metrics(found)
    assert {"student-0/horizon", "own/horizon_at_least"} <= set(metrics)
    assert not {"own/horizon", "student-0/horizon_at_least"} & set(metrics)


def test_a_boundary_that_moved_outwards_is_said_to_have(found) -> None:
    moved = found["shifts"]["student-1"]["t_star"]
    assert moved["text"].endswith("outwards")
    assert moved["low"] < 0.05 < moved["high"]


def test_the_late_fidelity_and_the_horizon_move_with_the_boundary(found) -> None:
    """0.6 is crossed 50 tokens later."""
    late, horizon = (found["shifts"]["student-1"][name] for name in ("late", "horizon"))
    each = late_by_hand(made(falling).tokens, made(later, seed=1).tokens, found["bin_width"])
    assert late["value"] == pytest.approx(np.mean(each))
    assert late["low"] < late["value"] < late["high"]
    assert abs(horizon["value"] - 50) <= found["bin_width"]
    assert horizon["low"] <= horizon["value"] <= horizon["high"]
    assert f"(n = {len(each)} problems that both reach)" in late["text"]


def test_a_student_that_did_not_change_is_not_said_to_have() -> None:
    one = decay.curve_of(made(falling).tokens, 40, 12, 300)
    late = decay.late_change(one, one)
    assert late.value == 0
    assert -0.2 < late.low < 0 < late.high < 0.2
    assert "no difference is shown" in str(late)
    horizon = decay.horizon_change(one, one, 0.6, seed=0)
    assert "+0 tokens [+0, +0], no difference is shown" in str(horizon)


def test_changes_between_models_are_over_the_same_problems_so_a_copy_changed_by_nothing() -> None:
    """Problems differ, so replicates of the horizon do; drawn together for both, nothing is left."""
    draw = np.random.default_rng(0)
    tokens = made(falling).tokens
    level = draw.normal(0, 0.15, 40)[tokens.problem]
    one = decay.curve_of(replace(tokens, fidelity=tokens.fidelity + level), 40, 12, 300)
    alone = decay.horizon(one, 0.6, 0)
    assert alone["high"] - alone["low"] > 5
    change = decay.horizon_change(one, one, 0.6, 0)
    assert (change.value, change.low, change.high) == (0, 0, 0)
    late = decay.late_change(one, one)
    nothing = decay.over_problems("difference_interval", np.zeros(late.problems))
    assert (late.value, late.low, late.high) == (0, *nothing)


def test_a_horizon_beyond_what_was_seen_moved_by_that_much_or_more() -> None:
    before, after = (decay.curve_of(made(c).tokens, 40, 12, 300) for c in (falling, flat))
    assert ": at least +" in str(decay.horizon_change(before, after, 0.6, seed=0))


def steps(places: Sequence[int]) -> Curves:
    """Problems that the teacher is sure of up to a token each."""
    position = np.arange(20)
    sure = np.where(position < np.array(places)[:, None], 1.0, 0.0)
    return Curves((position + 0.5) / 1000, sure, np.ones_like(sure))


@pytest.mark.parametrize("signs", [1, -1])
def test_p_of_a_moved_horizon_counts_the_replicates_that_did_not_move_so(signs: int) -> None:
    R = bootstrap.REPLICATES
    still, further = steps([8] * 9), steps([9] * 9)
    both = (still, further)[::signs]
    assert decay.horizon_change(*both, 0.5, seed=0).p == 1 / R  # by a single token
    assert decay.horizon_change(still, still, 0.5, seed=0).p == 1.0
    # Six of nine problems move further: where more than half of a replicate are of these, all do.
    some = (still, steps([9] * 6 + [8] * 3))[::signs]
    moved = {}
    for seed in range(20):
        times = bootstrap.resampled(9, seed)
        moved[seed] = times[:, :6].sum(1) / times.sum(1) > 0.5
    seed = next(seed for seed, replicates in moved.items() if not replicates[0])
    share = (~moved[seed]).mean()
    assert 0.05 < share < 0.45
    assert decay.horizon_change(*some, 0.5, seed=seed).p == pytest.approx(2 * share)


def test_two_problems_have_an_interval_and_one_has_none() -> None:
    low, high = decay.over_problems("difference_interval", np.array([0.1, 0.3]))
    assert low < 0.2 < high
    assert np.isnan(decay.over_problems("difference_interval", np.array([0.1]))).all()


def test_the_horizon_is_where_fidelity_falls_below_the_limit(found) -> None:
    """F crosses 0.6 where 0.5 / (1 + exp(40 (t - 0.12))) = 0.2, at 0.12 + ln(1.5) / 40 = 0.130."""
    horizon = found["models"]["student-0"]["horizon"]
    assert abs(horizon["value"] - 130) <= found["bin_width"]
    assert horizon["low"] <= horizon["value"] <= horizon["high"]
    assert not horizon["at_end"]
    assert found["models"][CONTROL]["horizon"]["at_end"]


def test_accuracy_falls_with_the_cut_and_follows_fidelity(found) -> None:
    rows = found["models"]["student-0"]["hand_over"]
    assert [row["cut"] for row in rows] == [0, 40, 80, 120, 160]
    assert rows[0]["accuracy"] > rows[-1]["accuracy"] + 0.2
    for row in rows[1:]:
        assert row["accuracy_low"] <= row["accuracy"] <= row["accuracy_high"]
        assert row["jump"] == pytest.approx(0.9 - falling(row["cut"] / 1000))
        assert row["accuracy_from_nothing"] > 0.7
    assert found["models"]["student-0"]["accuracy_with_fidelity"]["r"] > 0.7
    assert "or nothing varies" in found["models"][CONTROL]["accuracy_with_fidelity"]["why"] or (
        found["models"][CONTROL]["accuracy_with_fidelity"]["r"] is not None
    )


def test_the_pair_distance_and_an_independent_d_ahead_are_found(found) -> None:
    student = found["models"]["student-0"]
    assert student["pair"]["r"] == pytest.approx(1.0)
    assert student["pair"]["slope"] == pytest.approx(0.5)
    assert abs(student["ahead"]["rank_r"]) < 0.1
    assert student["ahead"]["rank_r_low"] < 0 < student["ahead"]["rank_r_high"]
    assert "pair" not in found["models"][CONTROL]


def test_a_grader_that_failed_is_no_wrong_answer() -> None:
    one = made(flat)
    correct = one.handed.correct.copy()
    correct[one.handed.cut == 80] = np.nan
    rows = findings.hand_over_findings(replace(one, handed=replace(one.handed, correct=correct)))
    assert rows[2]["faults"] == rows[2]["n"]
    assert np.isnan(rows[2]["accuracy"])
    assert rows[1]["faults"] == 0


def test_bins_that_few_problems_reach_are_left_out() -> None:
    one = made(falling)
    position, count = one.tokens.position, 40
    curves = decay.curve_of(one.tokens, count, 10, 300)
    middle = (curves.position * 1000).astype(int)
    for place, at in enumerate(middle.tolist()):
        inside = (position // 10 == at // 10) & np.isfinite(one.tokens.fidelity)
        assert curves.count[:, place].sum() == inside.sum()
        assert curves.total[:, place].sum() == pytest.approx(one.tokens.fidelity[inside].sum())
        assert len(np.unique(one.tokens.problem[inside])) >= 5
    assert middle.max() < position.max() - 10


def test_the_page_needs_nothing_from_outside_and_every_figure_states_its_n(found) -> None:
    found = found | {"experiment": "<made>", "teacher": "t", "window": WINDOW, "top_k": 8}
    text = page.html(found)
    assert "&lt;made&gt;" in text
    assert "<made>" not in text
    assert not re.findall(r"""<(?:script|link|img)[^>]*(?:src|href)=["']?(?!data:)[^>"' ]+""", text)
    for _, said, figure in page.sections(found):
        shown = said + (figure.to_json() or "")
        assert re.search(r"n ?= ?[\d,]+|n are", shown), said
    assert json.loads(json.dumps(clean(found), allow_nan=False))["problems"] == 40
    measured = {"own/fall", "student-0/t_star", "student-0/pair_r", "student-1/late_change"}
    assert measured <= set(report.metrics(found))
    assert "own/t_star" not in report.metrics(found)


def test_what_was_seen_comes_back_from_the_disk_and_damage_is_noticed(tmp_path: Path) -> None:
    tokens = made(falling).tokens
    path = tmp_path / "some" / "tokens.npz"
    save(tokens, path)
    back = load(Tokens, path)
    assert all(np.array_equal(getattr(back, name), value) for name, value in vars(tokens).items())
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match="remove it"):
        load(Tokens, path)
    assert not list(path.parent.glob("*.partial"))


def test_changes_that_are_told_together_are_corrected_together() -> None:
    """A student that stays what it is: of its changes by themselves, one in twenty would be called one."""
    draw = np.random.default_rng(8)
    level = draw.uniform(0.5, 0.9, 24)
    said = []
    for _ in range(30):
        before, after = (
            Curves(
                np.arange(1, 9) / 1000,
                level[:, None] + draw.normal(0, 0.1, (24, 8)),
                np.ones((24, 8)),
            )
            for _ in "ab"
        )
        said.append(decay.late_change(before, after, seed=0))
    alone = [one for one in said if one.p < 0.05]
    together = [str(replace(one, claims=len(said))) for one in said]
    assert alone
    assert all("no difference is shown" in one for one in together)
    sure = replace(said[0], value=-0.2, low=-0.3, high=-0.1, p=0.001, claims=49)
    assert ", down (" in str(sure)
    assert "no difference is shown" in str(replace(sure, claims=50))


def test_a_diagnosis_counts_all_the_changes_that_it_tells(found) -> None:
    students = found["students"]
    told = [one["drift"] for one in found["models"].values() if "drift" in one]
    told += [one[name] for one in found["shifts"].values() for name in ("late", "horizon")]
    count = len(students) + 3 * (len(students) - 1)
    assert {one["claims"] for one in told} == {count}
