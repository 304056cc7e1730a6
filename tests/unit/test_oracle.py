"""The exact-gradient oracle: every objective is what it says, and every wrong one is seen through."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from opdlab.cli import app
from opdlab.configuration.loader import load_experiment
from opdlab.console import terminal
from opdlab.console.terminal import SymbolConsole
from opdlab.doctor.objective import COLUMNS, Examined, installed, setting_of, show
from opdlab.methods.base import Method
from opdlab.methods.divergences import at, policy_gradient
from opdlab.methods.forward_kl import ForwardKL
from opdlab.methods.future_kl import FutureKL, discounted_sum
from opdlab.methods.grpo import GRPO, group_advantage
from opdlab.methods.lgr import LGR
from opdlab.methods.needs import Needs
from opdlab.methods.opd import OPD
from opdlab.methods.reopold import Reopold
from opdlab.methods.sampled import supervision_of
from opdlab.objectives.oracle import EXACT, Finding, Setting, examine, expected_gradient
from opdlab.objectives.oracle_controls import CONTROLS, DetachedTopK
from opdlab.objectives.tiny_world import make_world
from opdlab.objectives.true_gradients import true_gradients
from opdlab.records import ONE_STEP, Questions, Rollout, Supervision, TeacherScores

OBJECTIVES = dict(installed())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_expected_gradient_of_every_objective_is_the_one_it_declares(name: str) -> None:
    method = OBJECTIVES[name]
    assert method.contract.gradient
    finding = examine(method)
    assert finding.declared, str(finding)
    assert finding.difference < EXACT


def test_every_method_of_the_package_is_examined() -> None:
    from importlib.metadata import entry_points

    ours = {
        point.name
        for point in entry_points(group="opdlab.methods")
        if point.module.startswith("opdlab.")
    }
    assert ours == {name.split()[0] for name in OBJECTIVES} & ours
    assert len(ours) >= 9


def test_the_table_leaves_nothing_of_a_long_name_out_on_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = StringIO()
    monkeypatch.setattr(terminal, "console", SymbolConsole(file=written, width=80))
    finding = Finding(
        {"reverse_kl": (1.0, 1.0)}, declared=True, difference=0.0, nearest="reverse_kl"
    )
    lines = [Examined(name, method, finding) for name, method in OBJECTIVES.items()]
    show(lines, COLUMNS, markdown=False)
    assert max(map(len, OBJECTIVES)) > 60
    assert "…" not in written.getvalue()


WHAT_THEY_ARE = {
    "k1, back-propagated": "zero: it trains nothing",
    "k3, back-propagated": "forward KL",
    "k3 as a reward": "reverse KL - forward KL",
    "top-k KL, detached, as a reward": "zero: it trains nothing",
    "top-1 KL, renormalised": "zero: it trains nothing",
    "LGR with the printed sign": "reverse KL, lowers the lookahead reward",
    "k2 as a reward": "none of the known ones (nearest: reverse KL)",
    "advantages whitened after the teacher's term": "none of the known ones (nearest: reverse KL)",
    "top-k KL without its tail": "none of the known ones (nearest: reverse KL of top-k and tail)",
}


@pytest.mark.parametrize("name", CONTROLS)
def test_the_oracle_names_wrong_objectives_for_what_they_are(name: str) -> None:
    finding = examine(CONTROLS[name])
    assert finding.declared is False
    assert str(finding) == WHAT_THEY_ARE[name]
    assert finding.difference > 0.1


@dataclass(frozen=True)
class Subtracted(DetachedTopK):
    """OPD with a detached top-k KL subtracted from its advantage."""

    def token_loss(self, student, teacher, supervision):
        extra = super().token_loss(student, teacher, supervision)
        plain = policy_gradient(
            at(student, supervision.token), supervision.advantage, supervision.log_prob
        )
        return plain + extra


def test_a_detached_top_k_subtracted_from_the_advantage_adds_nothing() -> None:
    finding = examine(Subtracted())
    assert str(finding) == "reverse KL"
    assert finding.difference < EXACT


@dataclass(frozen=True)
class Halves(OPD):
    """Half of one divergence, a third of another, claimed to be the reverse KL alone."""

    needs = Needs("full")

    def token_loss(self, student, teacher, supervision):
        forward = ForwardKL().token_loss(student, teacher, supervision)
        return 0.5 * forward + 0.25 * OPD(support="full").token_loss(student, teacher, supervision)


def test_sums_are_taken_apart_with_their_factors() -> None:
    assert str(examine(Halves())) == "0.25 x reverse KL + 0.5 x forward KL"


def test_a_small_error_of_a_factor_is_seen() -> None:
    honest = LGR(top_k=3, reward_weight=1.01)
    finding = examine(honest)
    assert finding.declared

    class Liar(LGR):
        contract = LGR(top_k=3, reward_weight=1.0).contract

    finding = examine(Liar(top_k=3, reward_weight=1.01))
    assert finding.declared is False
    assert str(finding) == "reverse KL, raises the lookahead reward x 1.01"
    assert 1e-4 < finding.difference < 1e-1


@pytest.mark.parametrize("options", [{}, {"over": "minimum", "certain_above": 0.5}])
def test_a_reward_past_one_step_is_the_one_that_is_declared(options: dict[str, Any]) -> None:
    followed = LGR(top_k=3, lookahead=3, **options)
    assert examine(followed).declared
    assert examine(replace(followed, variant="topk")).declared

    class Near(LGR):
        """Asks one step ahead and claims three."""

        def questions(self, rollout: Rollout) -> Questions:
            return replace(super().questions(rollout), lookahead=ONE_STEP)

    assert examine(Near(top_k=3, lookahead=3, **options)).declared is False


def test_weighing_answers_by_length_bends_sampled_gradients_and_not_exact_ones() -> None:
    by_sequence = Setting(sequence_mean=True)
    assert examine(OPD(support="full"), by_sequence).declared
    bent = examine(OPD(), by_sequence)
    assert bent.declared is False
    assert bent.terms is None
    assert bent.difference > 0.05


def test_old_responses_are_set_right_by_the_importance_ratio_up_to_a_step_size_term() -> None:
    stale = Setting(stale=0.3)
    corrected = examine(OPD(ratio_cap=1e6), stale)
    assert str(corrected) == "reverse KL - KL to the student that sampled"
    assert examine(OPD(), stale).terms is None
    assert examine(OPD(support="full"), stale).declared


AHEAD = Setting(vocabulary=3, worlds=1, deeper=0, stale=0.3, truncation=math.inf)
SAMPLED = [name for name, method in OBJECTIVES.items() if method.sampler == "student"]


@pytest.mark.parametrize("name", SAMPLED)
def test_untruncated_weights_set_answers_of_one_step_ahead_right(name: str) -> None:
    method = OBJECTIVES[name]
    setting = replace(AHEAD, rows=2 if method.graded else 1)
    assert examine(method, setting).declared
    if method.of_answers:
        ahead = make_world(0, 3, 2, stale=0.3, ahead=True)
        fresh = replace(ahead, sampler=ahead.recorded, ahead=False)
        found = expected_gradient(method, ahead, setting)
        wanted = expected_gradient(method, fresh, replace(setting, truncation=None))
        torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-12)


def test_an_experiment_with_answers_of_one_step_ahead_is_examined_on_such_answers() -> None:
    config = load_experiment("quickstart", ["runs=[]", "rollout={type: openai, ahead: 1}"])
    setting = setting_of(config)
    assert (setting.stale > 0, setting.truncation) == (True, math.inf)
    assert examine(
        config.method, replace(setting, worlds=1, deeper=0, vocabulary=3, rows=1)
    ).declared
    assert setting_of(load_experiment("quickstart")).truncation is None


def test_truncated_weights_bend_a_sampled_gradient_less_than_none_would() -> None:
    bent = [
        examine(OPD(), replace(AHEAD, rows=1, truncation=limit)).difference
        for limit in (math.inf, 1.5, None)
    ]
    assert bent[0] < EXACT < bent[1] < bent[2] / 2
    exact = replace(AHEAD, truncation=1.2)
    assert examine(OPD(support="full"), exact).difference < EXACT


def test_a_clipped_ratio_changes_nothing_where_the_student_has_not_moved() -> None:
    for method in (OPD(ratio_clip=0.2), OPD(ratio_cap=1.0), GRPO(ratio_clip=0.2)):
        assert examine(method).declared


def test_group_deviations_weigh_prompts_and_the_oracle_says_how_much() -> None:
    finding = examine(GRPO(), Setting(rows=4, length=1, deeper=0))
    assert finding.declared
    low, high = finding.terms["raise_outcome"]  # type: ignore[index]
    assert 0 < low < high
    plain = examine(GRPO(scale="none"), Setting(rows=4, length=1, deeper=0))
    assert plain.terms["raise_outcome"] == pytest.approx((0.75, 0.75))  # type: ignore[index]


DRAWN = Setting(worlds=1, temperature=0.7, top_p=0.9)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_is_what_it_declares_at_a_temperature_and_top_p_unless_it_is_refused(
    name: str,
) -> None:
    method = OBJECTIVES[name]
    finding = examine(method, DRAWN)
    assert finding.declared is not method.own_samples, str(finding)


@pytest.mark.parametrize("drawn", [{"temperature": 0.7}, {"top_p": 0.9}])
def test_neither_a_temperature_nor_a_top_p_alone_leaves_a_policy_gradient_right(drawn) -> None:
    for method in (OPD(), OPD(ratio_cap=1e6), OPD(ratio_clip=0.2)):
        assert examine(method, Setting(worlds=1, deeper=0, **drawn)).declared is False


class Discounted(FutureKL):
    """The return of a reverse KL with a discount that is not applied again at each token."""

    compounding = False

    def supervise(self, rollout: Rollout, scores: TeacherScores) -> Supervision:
        value = scores.log_prob - rollout.log_prob
        whole = discounted_sum(value, rollout, 1.0)
        next_one = torch.where(rollout.row.roll(-1) == rollout.row, value.roll(-1), 0.0)
        next_one[-1] = 0.0
        later = whole - value if self.compounding else next_one
        return supervision_of(rollout, value + self.discount * later)


@pytest.mark.parametrize("compounding", [True, False])
def test_a_discount_that_does_not_compound_is_seen(compounding: bool) -> None:
    wrong = type("Wrong", (Discounted,), {"compounding": compounding})(discount=0.9)
    finding = examine(wrong)
    assert finding.declared is False
    assert finding.difference > 1e-3


@pytest.mark.parametrize("floor", [math.log(0.2), math.log(4), -7.0])
def test_a_wrong_floor_of_reopold_is_seen(floor: float) -> None:
    wrong = type("Wrong", (Reopold,), {"reward_floor": floor})(mixture=0.2)
    assert examine(wrong, Setting(worlds=1, deeper=0)).declared is False


class OtherScale(GRPO):
    """Outcomes divided by what their name does not say."""

    def supervise(self, rollout: Rollout, scores: TeacherScores) -> Supervision:
        assert rollout.outcome is not None
        assert rollout.group is not None
        found = [group_advantage(rollout.outcome, rollout.group, s)[0] for s in ("none", "batch")]
        plain, right = found
        deviation = rollout.outcome.std(correction=0).clamp(min=1e-6)
        wrong = {
            "its variance": plain / deviation.square(),
            "the sample's deviation": plain / rollout.outcome.std().clamp(min=1e-6),
            "the deviation within groups": plain / plain.square().mean().sqrt().clamp(min=1e-6),
            "nothing": plain,
            "twice": 2 * right,
        }
        return supervision_of(rollout, wrong[self.mistake][rollout.row])

    mistake = ""


@pytest.mark.parametrize(
    "mistake",
    [
        "its variance",
        "the sample's deviation",
        "the deviation within groups",
        "nothing",
        "twice",
    ],
)
def test_a_wrong_scale_of_a_batchs_outcomes_is_seen(mistake: str) -> None:
    wrong = type("Wrong", (OtherScale,), {"mistake": mistake})(scale="batch")
    finding = examine(wrong, Setting(worlds=0))
    assert finding.declared is False
    assert finding.difference > 1e-2
    assert examine(GRPO(scale="batch"), Setting(worlds=0)).declared


def test_a_clip_or_weight_of_the_teachers_part_in_the_wrong_place_is_seen() -> None:
    right = GRPO(distillation_weight=2.0, advantage_clip=0.5)

    class ClipsTheSum(GRPO):
        def supervise(self, rollout: Rollout, scores: TeacherScores) -> Supervision:
            free = replace(right, advantage_clip=None)
            found = GRPO.supervise(free, rollout, scores)
            return replace(found, advantage=found.advantage.clamp(-0.5, 0.5))

    class ClipsAfterTheWeight(GRPO):
        def supervise(self, rollout: Rollout, scores: TeacherScores) -> Supervision:
            tighter = replace(right, advantage_clip=0.25)
            return GRPO.supervise(tighter, rollout, scores)

    for kind in (ClipsTheSum, ClipsAfterTheWeight):
        wrong = kind(distillation_weight=2.0, advantage_clip=0.5)
        assert examine(wrong, Setting(worlds=0)).declared is False
    assert examine(right, Setting(worlds=0)).declared


def test_a_reward_clipped_after_its_weight_is_seen() -> None:
    class ClipsAfterTheWeight(LGR):
        def supervise(self, rollout: Rollout, scores: TeacherScores) -> Supervision:
            return LGR.supervise(LGR(top_k=3, reward_weight=2.0, reward_clip=0.35), rollout, scores)

    wrong = ClipsAfterTheWeight(top_k=3, reward_weight=2.0, reward_clip=0.7)
    assert examine(wrong, Setting(worlds=0, deeper=2)).declared is False
    right = LGR(top_k=3, reward_weight=2.0, reward_clip=0.7)
    assert examine(right, Setting(worlds=0, deeper=2)).declared


def test_the_whole_future_is_the_kl_between_whole_answers() -> None:
    world = make_world(3, 4, 3)
    log_p = world.student.log_softmax(-1)
    whole = torch.zeros((), dtype=torch.float64)
    for answer in world.answers:
        steps = [(world.states[answer[:t]], y) for t, y in enumerate(answer)]
        p = torch.stack([log_p[s, y] for s, y in steps]).sum()
        q = torch.stack([world.teacher[s, y] for s, y in steps]).sum()
        whole = whole + p.exp() * (p - q)
    (by_answers,) = torch.autograd.grad(whole, world.student)
    named = true_gradients(world, FutureKL(discount=1.0))["future_reverse_kl"]
    torch.testing.assert_close(by_answers.flatten(), named)
    setting = Setting(length=3, rows=1)
    found = expected_gradient(FutureKL(discount=1.0), world, setting)
    torch.testing.assert_close(found, named)


def test_the_probabilities_of_all_answers_sum_to_one() -> None:
    for writer in ("student", "teacher"):
        world = make_world(0, 4, 3, writer, stale=0.5)
        assert sum(world.probability.values()) == pytest.approx(1.0, abs=1e-12)
        assert len(world.answers) == 1 + 3 + 9 + 27


def test_potentials_are_a_baseline_so_their_reward_is_the_bare_confidence() -> None:
    """Subtracting what was known before the token moves only the share of EOS."""
    method = LGR(reward="potential", support="full", entropy_threshold=0.0)
    world = make_world(1, 4, 2)
    reward = expected_gradient(method, world, Setting()) - expected_gradient(
        replace(method, reward_weight=0.0), world, Setting()
    )
    by_state = reward.reshape(-1, 4)
    p = world.student.detach().softmax(-1)
    for number, prefix in enumerate(world.student_states):
        c = torch.tensor([world.confidence(prefix, v, "max_prob") for v in range(3)])
        inner = p[number, :3] / p[number, :3].sum()
        # Among tokens with a next step only differences of confidence count.
        pull = -by_state[number, :3] / p[number, :3]
        expected = c - (inner * c).sum()
        torch.testing.assert_close(
            (pull - (inner * pull).sum()) / (pull - (inner * pull).sum()).norm(),
            expected / expected.norm(),
            check_dtype=False,
        )


MY_METHOD = '''
from dataclasses import dataclass
from opdlab.methods.base import Contract
from opdlab.methods.opd import OPD
from opdlab.records import option

@dataclass(frozen=True)
class Mine(OPD):
    """Mine."""
    weight: float = option(1.0, "Weight.", ge=0)

    @property
    def contract(self):
        return Contract("reverse KL", "sampled", "k1", "policy gradient", gradient={"reverse_kl": 1.0})

    def token_loss(self, student, teacher, supervision):
        return self.weight * super().token_loss(student, teacher, supervision)
'''


def test_the_command_examines_a_users_own_objective(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(MY_METHOD)
    good = CliRunner().invoke(app, ["doctor", "objective", str(path), "--markdown"])
    assert good.exit_code == 0, good.output
    assert "| Mine | sampled | policy gradient | reverse KL | holds |" in good.output
    bad = CliRunner().invoke(app, ["doctor", "objective", str(path), "weight=2", "--markdown"])
    assert bad.exit_code == 1
    assert "| 2 x reverse KL | DIFFERS |" in bad.output


def test_the_command_examines_the_runs_of_an_experiment() -> None:
    words = ["doctor", "objective", "quickstart", "--markdown"]
    fine = CliRunner().invoke(app, words)
    assert fine.exit_code == 0, fine.output
    assert "| opd | full |" in fine.output
    sampled = ["runs=[]", "method={type: opd}", "training.normalisation=sequence_mean"]
    bent = CliRunner().invoke(app, [*words, *sampled])
    assert bent.exit_code == 1
    assert "DIFFERS" in bent.output


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no class in it subclasses"),
        ("raise KeyError('oops')", "cannot be run: KeyError"),
        ("from opdlab.methods.base import Method\nclass Half(Method): pass", "Half"),
    ],
)
def test_a_file_without_a_whole_method_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "broken.py"
    path.write_text(text)
    found = CliRunner().invoke(app, ["doctor", "objective", str(path)])
    assert found.exit_code == 1
    assert message in str(found.exception)


def test_a_contract_is_part_of_every_method() -> None:
    assert "contract" in Method.__abstractmethods__
