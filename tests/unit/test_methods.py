"""OPD and LGR against numbers worked out by hand, and against enumeration."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from opdlab.diagnosis.observe import some_candidates
from opdlab.errors import ConfigError
from opdlab.methods.base import Method
from opdlab.methods.divergences import at, policy_gradient, reverse_kl
from opdlab.methods.grpo import GRPO
from opdlab.methods.jsd import JSD
from opdlab.methods.kl_estimator import KLEstimator
from opdlab.methods.lgr import LGR
from opdlab.methods.opd import OPD
from opdlab.methods.sft import SFT
from opdlab.offline.request import candidates_of
from opdlab.records import Rollout, TeacherScores
from opdlab.scoring.tree import draws

EOS = 9


def rollout_of(tokens: list[int], candidates: list[list[int]], entropy: list[float]) -> Rollout:
    """One row with a prompt of two tokens."""
    T = len(tokens)
    return Rollout(
        tokens=torch.tensor([[1, 2, *tokens]]),
        prompt_lengths=torch.tensor([2]),
        response_lengths=torch.tensor([T]),
        ended=torch.tensor([tokens[-1] == EOS]),
        log_prob=torch.full((T,), math.log(0.25)),
        entropy=torch.tensor(entropy),
        candidates=torch.tensor(candidates, dtype=torch.long),
        seeds=torch.tensor([5]),
        eos_ids=(EOS,),
    )


def scores_of(confidence: list[list[float]], sampled: list[float]) -> TeacherScores:
    T = len(sampled)
    return TeacherScores(
        log_prob=torch.full((T,), math.log(0.5)),
        entropy=torch.zeros(T),
        fidelity=torch.tensor(sampled),
        sampled_confidence=torch.tensor(sampled),
        confidence=torch.tensor(confidence),
    )


def log_probs(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64).log_softmax(-1)


def test_sampled_opd_has_the_log_ratio_as_advantage():
    rollout = rollout_of([3, EOS], [[], []], [1.0, 1.0])
    supervision = OPD().supervise(rollout, scores_of([[], []], [0.5, math.nan]))
    assert supervision.advantage.tolist() == pytest.approx([math.log(2)] * 2)
    assert OPD().questions(rollout).candidates.shape == (2, 0)


def test_an_advantage_is_clipped_only_where_asked():
    rollout = rollout_of([3], [[]], [1.0])
    supervision = OPD(advantage_clip=0.1).supervise(rollout, scores_of([[]], [0.5]))
    assert supervision.advantage.tolist() == pytest.approx([0.1])


def test_reverse_kl_is_the_sum_by_hand():
    student, teacher = log_probs([0.0, math.log(3)]), log_probs([0.0, 0.0])
    by_hand = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert reverse_kl(student, teacher).item() == pytest.approx(by_hand)


def test_the_sampled_gradient_is_in_expectation_that_of_the_reverse_kl():
    logits = torch.tensor([[0.3, -1.0, 0.8, 0.1]], dtype=torch.float64, requires_grad=True)
    teacher = log_probs([0.9, 0.2, -0.5, 0.0])
    (exact,) = torch.autograd.grad(reverse_kl(logits.log_softmax(-1), teacher).sum(), logits)
    expected = torch.zeros_like(exact)
    for y in range(4):
        student = logits.log_softmax(-1)
        token = torch.tensor([y])
        advantage = (at(teacher, token) - at(student, token)).detach()
        loss = policy_gradient(at(student, token), advantage, at(student, token).detach())
        (gradient,) = torch.autograd.grad(loss.sum(), logits)
        expected += student.detach()[0, y].exp() * gradient
    torch.testing.assert_close(expected, exact)


def test_the_importance_ratio_weighs_the_gradient_and_is_capped():
    now = torch.tensor([-1.0], requires_grad=True)
    for before, weight in [(-1.5, math.exp(0.5)), (-4.0, 2.0)]:
        loss = policy_gradient(now, torch.tensor([1.0]), torch.tensor([before]), ratio_cap=2.0)
        (gradient,) = torch.autograd.grad(loss.sum(), now)
        assert gradient.item() == pytest.approx(-weight)


def test_the_group_reward_is_standardised_by_the_population_deviation():
    rollout = rollout_of([3], [[3, 4]], [1.0])
    supervision = LGR(top_k=2, support="full").supervise(rollout, scores_of([[0.9, 0.5]], [0.9]))
    # mean 0.7, population deviation 0.2
    assert supervision.advantage.tolist() == pytest.approx([1.0])


def test_the_reward_comes_on_top_of_the_distillation_advantage():
    rollout = rollout_of([4], [[3, 4]], [1.0])
    method = LGR(top_k=2, reward_weight=0.5)
    supervision = method.supervise(rollout, scores_of([[0.9, 0.5]], [0.5]))
    assert supervision.advantage.tolist() == pytest.approx([math.log(2) - 0.5])


@pytest.mark.parametrize("variant", ["sampled", "topk"])
@pytest.mark.parametrize("support", ["sampled", "full"])
def test_a_step_raises_the_candidate_that_leaves_the_teacher_more_certain(variant, support):
    # Student and teacher agree, so OPD's own term is silent and only the reward moves anything.
    method = LGR(top_k=2, variant=variant, support=support)
    moved = torch.zeros(5)
    for token in (3, 4):
        rollout = replace(
            rollout_of([token], [[3, 4]], [1.0]), log_prob=torch.tensor([math.log(0.5)])
        )
        confident = {3: 0.9, 4: 0.5}
        supervision = method.supervise(rollout, scores_of([[0.9, 0.5]], [confident[token]]))
        logits = torch.tensor([[-50.0, -50.0, -50.0, 0.0, 0.0]], requires_grad=True)
        student = logits.log_softmax(-1)
        teacher = student.detach() if method.full else None
        method.token_loss(student, teacher, supervision).sum().backward()
        assert logits.grad is not None
        moved -= logits.grad[0]
    assert moved[3] > 0.1
    assert moved[4] < -0.1


def test_every_candidate_gets_its_own_term_weighted_by_its_share():
    method = LGR(top_k=2, variant="topk", support="full")
    rollout = rollout_of([3], [[3, 4]], [1.0])
    supervision = method.supervise(rollout, scores_of([[0.9, 0.5]], [0.9]))
    student = log_probs([0.0, 0.0, 0.0, math.log(3), 0.0]).float()
    loss = method.token_loss(student, student, supervision)
    by_hand = -(0.75 * 1.0 * math.log(3 / 7) + 0.25 * -1.0 * math.log(1 / 7))
    assert loss.item() == pytest.approx(by_hand, rel=1e-5)
    assert supervision.advantage.item() == 0.0


def test_only_positions_above_the_entropy_threshold_are_asked_about():
    rollout = rollout_of([3, 4], [[3, 4], [3, 4]], [0.19, 0.21])
    asked = LGR(top_k=2).questions(rollout).candidates
    assert asked.tolist() == [[-1, -1], [3, 4]]


def test_a_candidate_that_ends_the_response_leaves_the_group():
    rollout = rollout_of([3], [[3, EOS, 4]], [1.0])
    method = LGR(top_k=3, support="full", variant="topk")
    assert method.questions(rollout).candidates.tolist() == [[3, -1, 4]]
    nan = math.nan
    supervision = method.supervise(rollout, scores_of([[0.9, nan, 0.5]], [0.9]))
    assert supervision.candidate_advantage.tolist() == [pytest.approx([1.0, 0.0, -1.0])]


def test_a_candidate_that_the_student_rules_out_leaves_the_group():
    rollout = rollout_of([3], [[3, 4, 5]], [1.0])
    rollout = replace(rollout, candidate_log_prob=torch.tensor([[-0.1, -2.4, -1e37]]))
    assert LGR(top_k=3).questions(rollout).candidates.tolist() == [[3, 4, -1]]
    assert some_candidates(rollout, 1, np.random.default_rng(0)).tolist() == [[3, 4, -1]]


def test_a_sampled_eos_gets_no_reward_and_asks_nothing():
    rollout = rollout_of([EOS], [[3, EOS, 4]], [1.0])
    method = LGR(top_k=3, support="full")
    assert method.questions(rollout).candidates.tolist() == [[-1, -1, -1]]
    nan = math.nan
    supervision = method.supervise(rollout, scores_of([[nan, nan, nan]], [nan]))
    assert supervision.advantage.tolist() == [0.0]


def test_a_group_that_agrees_gets_no_reward_and_rounding_is_not_amplified():
    rollout = rollout_of([3, 3], [[3, 4], [3, 4]], [1.0, 1.0])
    method = LGR(top_k=2, support="full")
    scores = scores_of([[1.0, 1.0], [0.99999, 0.99998]], [1.0, 0.99999])
    supervision = method.supervise(rollout, scores)
    assert supervision.advantage.abs().max() < 1e-3
    assert supervision.metrics["flat_group_share"].tolist() == [1.0, 1.0]


def test_a_sampled_token_outside_the_group_is_measured_by_the_group():
    rollout = rollout_of([7], [[3, 4]], [1.0])
    supervision = LGR(top_k=2, support="full").supervise(rollout, scores_of([[0.9, 0.5]], [0.8]))
    assert supervision.advantage.tolist() == pytest.approx([0.5])


def test_a_group_of_one_is_no_group():
    rollout = rollout_of([3], [[3, EOS]], [1.0])
    supervision = LGR(top_k=2, support="full").supervise(
        rollout, scores_of([[0.9, math.nan]], [0.9])
    )
    assert supervision.advantage.tolist() == [0.0]


@pytest.mark.parametrize("other", [4, 0])
def test_shuffled_confidences_are_a_permutation_within_each_group(other: int):
    rollout = rollout_of([3] * 200, [[3, other, EOS, 5]] * 200, [1.0] * 200)
    nan = math.nan
    scores = scores_of([[0.9, 0.4, nan, 0.1]] * 200, [0.9] * 200)
    method = LGR(top_k=4, support="full", variant="topk")
    plain = method.supervise(rollout, scores).candidate_advantage
    mixed = replace(method, control="shuffled").supervise(rollout, scores).candidate_advantage
    assert (mixed[:, 2] == 0).all()
    torch.testing.assert_close(mixed.sort(-1).values, plain.sort(-1).values)
    orders = {tuple(round(x, 3) for x in row.tolist()) for row in mixed}
    assert len(orders) == 6
    sampled = replace(method, control="shuffled", variant="sampled").supervise(rollout, scores)
    torch.testing.assert_close(sampled.advantage, mixed[:, 0])


def test_a_reward_is_limited_before_it_is_weighed():
    rollout = rollout_of([3, 4], [[3, 4]] * 2, [1.0] * 2)
    scores = scores_of([[0.9, 0.5]] * 2, [0.9, 0.5])
    method = LGR(top_k=2, support="full", reward_clip=0.5, reward_weight=3.0)
    assert method.supervise(rollout, scores).advantage.tolist() == pytest.approx([1.5, -1.5])


def test_grpo_limits_the_teachers_part_alone():
    rollout = replace(
        rollout_of([3, 4], [[], []], [1.0] * 2),
        group=torch.tensor([0]),
        outcome=torch.tensor([1.0]),
    )
    far = replace(scores_of([[], []], [0.5, 0.5]), log_prob=torch.tensor([-9.0, 0.0]))
    method = GRPO(scale="none", distillation_weight=2.0, advantage_clip=0.25)
    assert method.supervise(rollout, far).advantage.tolist() == pytest.approx([-0.5, 0.5])


SAMPLED = ("sampled", "log pi_T - log pi_S (k1)", "policy gradient")
WHOLE = ("full", "exact", "back-propagation")
GRADE = "grade of the whole answer"


@pytest.mark.parametrize(
    ("method", "says"),
    [
        (OPD(), SAMPLED),
        (OPD(support="full"), WHOLE),
        (OPD(support="top_k", top_k=3), ("top-k with tail", "exact over K + 1 buckets", WHOLE[2])),
        (GRPO(), ("none", GRADE, SAMPLED[2])),
        (GRPO(distillation_weight=1.0), ("sampled", f"{GRADE} + k1", SAMPLED[2])),
        (GRPO(distillation_weight=1.0, support="full"), ("full", GRADE, "both")),
        (LGR(), (SAMPLED[0], f"{SAMPLED[1]}, confidence one step ahead", SAMPLED[2])),
        (LGR(support="full"), ("full", "exact, confidence one step ahead", "both")),
        (LGR(variant="topk"), (SAMPLED[0], f"{SAMPLED[1]}, confidence one step ahead", "both")),
        (SFT(), ("sampled", "negative log-likelihood", WHOLE[2])),
        (SFT(support="full"), WHOLE),
        (KLEstimator(), ("sampled", "k2", WHOLE[2])),
        (KLEstimator(estimator="k1", delivery="policy_gradient"), ("sampled", "k1", SAMPLED[2])),
    ],
)
def test_what_a_method_says_of_itself(method: Method, says: tuple[str, str, str]):
    said = method.contract
    assert (said.support, said.estimator, said.delivery) == says


def test_only_what_needs_no_draws_of_the_student_is_correct_without_a_ratio():
    assert OPD(support="full").corrected
    assert OPD(support="top_k", top_k=3).corrected
    assert not OPD().corrected
    assert OPD(ratio_clip=0.2).corrected


def test_what_rewards_are_measured_against_is_said():
    said = {
        name: (method.contract.baseline, method.contract.normalisation)
        for name, method in {
            "opd": OPD(),
            "grpo": GRPO(),
            "dr": GRPO(scale="none"),
            "group": LGR(),
            "potential": LGR(reward="potential"),
        }.items()
    }
    assert said == {
        "opd": ("none", "none"),
        "grpo": ("mean of the group", "deviation of the group"),
        "dr": ("mean of the group", "none"),
        "group": ("mean of the group", "deviation of the group"),
        "potential": ("confidence before", "none"),
    }


def test_grpo_without_distillation_asks_nothing_of_the_teacher():
    rollout = replace(
        rollout_of([3, 4], [[], []], [1.0] * 2),
        group=torch.tensor([0]),
        outcome=torch.tensor([1.0]),
    )
    never = replace(scores_of([[], []], [0.5, 0.5]), log_prob=torch.tensor([-math.inf, math.nan]))
    assert GRPO(scale="none").supervise(rollout, never).advantage.tolist() == [0.0, 0.0]


def drawn_positions(top_k: int, seeds: list[int], each: int = 4000):
    """Rows of tokens sampled from random distributions, with a teacher's confidence in every token."""
    draw = torch.Generator().manual_seed(1)
    T, V = each * len(seeds), 12
    log_p = torch.randn(T, V, generator=draw).mul(1.5).log_softmax(-1)
    token = torch.multinomial(log_p.exp(), 1, generator=draw)[:, 0]
    confidence = torch.rand(T, V, generator=draw)
    confidence[:, EOS] = math.nan
    top = log_p.topk(top_k, -1)
    rollout = Rollout(
        tokens=torch.cat([torch.ones(len(seeds), 1, dtype=torch.long), token.view(-1, each)], -1),
        prompt_lengths=torch.ones(len(seeds), dtype=torch.long),
        response_lengths=torch.full((len(seeds),), each),
        ended=torch.zeros(len(seeds), dtype=torch.bool),
        log_prob=at(log_p, token),
        entropy=-(log_p.exp() * log_p).sum(-1),
        candidates=top.indices,
        seeds=torch.tensor(seeds),
        eos_ids=(EOS,),
        candidate_log_prob=top.values,
    )
    asked = confidence.gather(-1, top.indices)
    return rollout, scores_of(asked.tolist(), at(confidence, token).tolist())


@pytest.mark.parametrize("top_k", [2, 3, 8])
@pytest.mark.parametrize("mass", [None, 0.6])
def test_a_shuffled_reward_has_no_correlation_with_the_true_one(top_k: int, mass: float | None):
    rollout, scores = drawn_positions(top_k, [0, 1, 2, 3, 4])
    method = LGR(top_k=top_k, support="full", probability_mass=mass)
    asked = method.questions(rollout).candidates
    true = method.supervise(rollout, scores).advantage
    control = replace(method, control="shuffled").supervise(rollout, scores).advantage
    outside = (asked >= 0).sum(-1).ge(2) & (asked != rollout.token[:, None]).all(-1)
    outside &= ~rollout.is_eos
    for part in (true != 0, outside):
        r = torch.corrcoef(torch.stack([true[part], control[part]]))[0, 1].item()
        assert abs(r) < 4 / math.sqrt(part.sum())
    assert outside.sum() > 100
    # Its size is that of a member of the group.
    assert control[outside].std(correction=0).item() == pytest.approx(1.0, abs=0.1)
    assert (control[rollout.is_eos] == 0).all()


def test_what_is_drawn_beside_the_tokens_depends_on_the_training_seed():
    method = LGR(top_k=3, support="full", control="shuffled", confidence="sampled_prob")
    asked, rewards = set(), set()
    for seed in range(5):
        rollout, scores = drawn_positions(3, [seed * 2**40 + row for row in (0, 1)], each=50)
        asked.add(float(draws(rollout, rollout.candidates).trunk[0]))
        rewards.add(tuple(method.supervise(rollout, scores).advantage.tolist()))
    assert len(asked) == len(rewards) == 5


def test_no_advantage_carries_a_gradient():
    rollout = rollout_of([3], [[3, 4]], [1.0])
    supervision = LGR(top_k=2).supervise(rollout, scores_of([[0.9, 0.5]], [0.9]))
    assert not supervision.advantage.requires_grad
    assert not supervision.candidate_advantage.requires_grad


def test_a_potential_reward_is_the_rise_of_confidence_and_a_limit_holds_it() -> None:
    rollout = rollout_of([3, 4, 5, EOS], [[], [], [], []], [1.0, 1.0, 0.1, 1.0])
    scores = scores_of([[]] * 4, [0.6, 0.9, 0.2, math.nan])
    method = LGR(reward="potential", support="full")
    assert method.questions(rollout).candidates.shape == (4, 0)
    found = method.supervise(rollout, scores)
    # The third position is certain, the last ends the response.
    assert found.advantage.tolist() == pytest.approx([0.6, 0.3, 0.0, 0.0])
    limited = replace(method, reward_clip=0.5).supervise(rollout, scores)
    assert limited.advantage.tolist() == pytest.approx([0.5, 0.3, 0.0, 0.0])


def test_a_target_share_takes_the_most_uncertain_positions() -> None:
    rollout = rollout_of([3] * 4, [[3, 4]] * 4, [0.3, 0.1, 0.0, 0.2])
    asked = LGR(top_k=2, active_share=0.5).questions(rollout).candidates
    assert (asked >= 0).any(-1).tolist() == [True, False, False, True]
    everywhere = LGR(top_k=2, active_share=1.0).questions(rollout).candidates
    assert (everywhere >= 0).any(-1).tolist() == [True, True, False, True]


def test_a_probability_mass_takes_the_fewest_candidates_that_hold_it() -> None:
    rollout = replace(
        rollout_of([3, 3], [[3, 4, 5, 6]] * 2, [1.0, 1.0]),
        candidate_log_prob=torch.tensor([[0.4, 0.3, 0.2, 0.1], [0.9, 0.05, 0.03, 0.02]]).log(),
    )
    asked = LGR(top_k=4, probability_mass=0.65).questions(rollout).candidates
    assert asked.tolist() == [[3, 4, -1, -1], [3, 4, -1, -1]]  # never fewer than two
    asked = LGR(top_k=4, probability_mass=0.75).questions(rollout).candidates
    assert asked.tolist() == [[3, 4, 5, -1], [3, 4, -1, -1]]


@pytest.mark.parametrize("support", ["sampled", "full"])
@pytest.mark.parametrize("variant", ["sampled", "topk"])
def test_opd_as_a_base_is_what_lgr_is_without_one(support, variant) -> None:
    rollout = rollout_of([3, 4], [[3, 4], [4, 3]], [1.0, 1.0])
    scores = scores_of([[0.9, 0.5], [0.2, 0.6]], [0.9, 0.2])
    student, teacher = log_probs([0.1, 0.5, -1.0, 0.3, 0.0]), log_probs([0.3, 0.0, 0.2, -0.4, 0.1])
    losses = [
        method.token_loss(
            student.expand(2, 5).float(),
            teacher.expand(2, 5).float() if method.full else None,
            method.supervise(rollout, scores),
        )
        for method in (
            LGR(top_k=2, variant=variant, support=support),
            LGR(top_k=2, variant=variant, base=OPD(support=support)),
        )
    ]
    assert torch.equal(*losses)


def test_a_base_keeps_its_own_limits_and_says_what_it_needs() -> None:
    by_outcome = LGR(base=GRPO(ratio_clip=0.2))
    assert by_outcome.graded
    assert by_outcome.corrected
    assert not LGR(base=GRPO()).corrected
    assert LGR(base=JSD()).full
    assert not LGR(base=JSD()).corrected  # the reward's own term is the sampled token's
    assert LGR(base=JSD(), ratio_cap=2.0).corrected


def test_confidences_past_one_step_are_not_put_on_disk() -> None:
    with pytest.raises(ConfigError, match=r"method\.lookahead: .* set lookahead: 1"):
        candidates_of(LGR(lookahead=2))
    assert candidates_of(LGR()) is not None
