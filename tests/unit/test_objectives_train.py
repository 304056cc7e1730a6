"""Every objective in the trainer: epochs, masks, grades, the teacher's answers, refusals."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from end_to_end.laboratory import save_model
from unit.test_training import build, fit, rollout_of

from opdlab.configuration.loader import load, load_experiment
from opdlab.configuration.training_settings import Mask
from opdlab.errors import ConfigError, DataError
from opdlab.methods.divergences import policy_gradient
from opdlab.methods.grpo import group_advantage
from opdlab.modelling.models import load_tokenizer
from opdlab.prompts.drawn import ProblemSource
from opdlab.records import Problem, Rollout, Verdict
from opdlab.training import grading
from opdlab.training.pair import load_pair
from opdlab.training.weights import kept_tokens, token_weights
from opdlab_evaluators.embedded.arithmetic import Arithmetic


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    place = tmp_path_factory.mktemp("models")
    return save_model(place / "student", 16), save_model(place / "teacher", 32, scale=4.0)


METHODS: list[dict[str, Any]] = [
    {"type": "opd", "support": "top_k", "top_k": 4},
    {"type": "kl_estimator", "estimator": "k2"},
    {"type": "kl_estimator", "estimator": "k1", "delivery": "policy_gradient"},
    {"type": "forward_kl"},
    {"type": "jsd", "beta": 0.3},
    {"type": "future_kl", "discount": 0.9},
    {"type": "reopold"},
    {"type": "sft"},
    {"type": "sft", "support": "full"},
    {"type": "lgr", "reward": "potential"},
    {"type": "lgr", "top_k": 4, "base": {"type": "jsd"}},
    {"type": "lgr", "top_k": 4, "active_share": 0.25, "probability_mass": 0.6, "reward_clip": 1.0},
]


@pytest.mark.parametrize("method", METHODS, ids=lambda m: " ".join(map(str, m.values())))
def test_every_objective_takes_a_step_and_moves_the_student(folders, method) -> None:
    module = build(folders, method)
    before = module.student.get_input_embeddings().weight.detach().clone()
    (row,) = fit(module)
    assert row["gradient_norm"] > 0
    assert row["loss_share"] == 1.0
    assert not torch.equal(module.student.get_input_embeddings().weight, before)


def test_top_k_with_all_tokens_is_the_full_divergence(folders) -> None:
    whole = fit(build(folders, {"type": "opd", "support": "full"}))[0]
    top = fit(build(folders, {"type": "opd", "support": "top_k", "top_k": 10_000}))[0]
    assert top["loss"] == pytest.approx(whole["loss"], rel=1e-4)


def test_sft_trains_on_what_the_teacher_writes(folders) -> None:
    rows = fit(build(folders, {"type": "sft"}, steps=40, learning_rate=1e-2))
    assert rows[-1]["loss"] < 0.9 * rows[0]["loss"]
    assert "reverse_kl_sampled" not in rows[0]
    module = build(folders, {"type": "sft"})
    fit(module)
    assert module.rollout is not None
    assert module.scores is not None
    torch.testing.assert_close(
        module.rollout.log_prob, module.scores.log_prob, rtol=1e-3, atol=1e-3
    )


def test_potential_rewards_ask_for_no_leaves_and_shares_are_kept(folders) -> None:
    (row,) = fit(build(folders, {"type": "lgr", "reward": "potential"}))
    assert row["leaves"] == 0
    (row,) = fit(build(folders, {"type": "lgr", "top_k": 4, "active_share": 0.25}))
    assert row["active_share"] == pytest.approx(0.25, abs=0.06)


def test_a_probability_mass_takes_fewer_candidates(folders) -> None:
    rows = [
        fit(build(folders, {"type": "lgr", "top_k": 8, "probability_mass": mass}))[0]
        for mass in (0.01, 0.12, 1.0)
    ]
    sizes = [row["group_size"] for row in rows]
    assert sizes[0] < sizes[1] < sizes[2]


def test_later_epochs_use_the_same_rollout_and_then_a_new_one(folders) -> None:
    method = {"type": "opd", "ratio_clip": 0.2}
    module = build(folders, method, steps=6, epochs=3)
    seen: list[Rollout] = []
    kept = module.figures

    def spy(collected: Any, *rest: Any) -> Any:
        seen.append(collected.rollout)
        return kept(collected, *rest)

    module.figures = spy  # type: ignore[method-assign]
    rows = fit(module)
    assert [a is b for a, b in pairwise(seen)] == [True, True, False, True, True]
    assert module.collector.drawn == 2 * 6
    assert rows[1]["seconds/rollout"] == 0.0
    assert rows[3]["seconds/rollout"] > 0.0


@pytest.mark.parametrize(
    ("moved", "advantage", "weight"),
    [
        (0.1, 1.0, 1.1),  # within the limit
        (0.5, 1.0, 0.0),  # already far in the advantage's direction
        (0.5, -1.0, 1.5),  # far against it: free to come back
        (-0.5, -1.0, 0.0),
        (-0.5, 1.0, 0.5),
    ],
)
def test_a_clipped_ratio_stops_tokens_that_moved_far_the_right_way(
    moved, advantage, weight
) -> None:
    now = torch.tensor([-1.0], requires_grad=True)
    before = now.detach() - torch.log1p(torch.tensor([moved]))
    loss = policy_gradient(now, torch.tensor([advantage]), before, ratio_clip=0.2)
    (gradient,) = torch.autograd.grad(loss.sum(), now)
    assert gradient.item() == pytest.approx(-weight * advantage)


def entropy_rollout() -> Rollout:
    rollout = rollout_of([[3, 4, 5, 6], [3, 4]])
    return replace(rollout, entropy=torch.tensor([0.1, 0.9, 0.2, 0.8, 0.7, 0.3]))


@pytest.mark.parametrize(
    ("mask", "kept"),
    [
        (Mask(), [1, 1, 1, 1, 1, 1]),
        (Mask(first=1), [0, 1, 1, 1, 0, 1]),
        (Mask(first=1, last=2), [0, 1, 1, 0, 0, 1]),
        (Mask(entropy_above=0.5), [0, 1, 0, 1, 1, 0]),
        (Mask(entropy_share=0.5), [0, 1, 0, 1, 1, 0]),
        (Mask(first=1, entropy_share=0.25), [0, 1, 0, 0, 0, 0]),
    ],
)
def test_masks_keep_the_tokens_that_they_name(mask: Mask, kept: list[int]) -> None:
    assert kept_tokens(entropy_rollout(), mask).int().tolist() == kept


def test_a_masked_sequence_mean_is_the_mean_of_what_is_left() -> None:
    weights = token_weights(entropy_rollout(), "sequence_mean", Mask(first=1))
    assert weights.tolist() == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3, 0, 1])


def test_masked_tokens_have_no_gradient_and_no_part_in_the_mean(folders) -> None:
    method = {"type": "opd", "support": "full"}
    (all_of_it,) = fit(build(folders, method))
    (first,) = fit(build(folders, method, mask={"last": 0}))
    assert first["loss"] == pytest.approx(all_of_it["reverse_kl/t0000-0001"], rel=0.9)
    assert first["loss_share"] < all_of_it["loss_share"]
    (nothing,) = fit(build(folders, method, mask={"entropy_above": 50.0}))
    assert nothing["gradient_norm"] == 0.0
    assert nothing["loss"] == 0.0


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_graded_answers_are_compared_within_their_prompt(folders, weight: float) -> None:
    method = {"type": "grpo", "distillation_weight": weight}
    module = build(folders, method, group_size=4)
    (row,) = fit(module)
    assert row["outcome"] == 0.0  # a random student solves nothing
    assert row["graded_share"] == 1.0
    assert row["mixed_group_share"] == 0.0
    # With every answer wrong there is nothing to compare; the teacher's word is all that is left.
    assert (row["gradient_norm"] > 0) == (weight > 0)
    assert module.rollout is not None
    assert module.rollout.group is not None
    assert module.rollout.group.tolist() == [i // 4 for i in range(24)]


def test_group_advantages_are_the_ones_worked_out_by_hand() -> None:
    outcome = torch.tensor([1.0, 0.0, 0.0, torch.nan, 1.0, 1.0])
    group = torch.tensor([0, 0, 0, 0, 1, 1])
    plain, mixed = group_advantage(outcome, group, "none")
    assert plain.tolist() == pytest.approx([2 / 3, -1 / 3, -1 / 3, 0, 0, 0])
    assert mixed.mean() == 0.5
    scaled, _ = group_advantage(outcome, group, "group")
    deviation = (2 / 9) ** 0.5
    assert scaled.tolist() == pytest.approx([v / deviation for v in plain.tolist()])


def test_a_batchs_deviation_is_that_of_all_its_outcomes_and_not_of_its_groups() -> None:
    outcome = torch.tensor([1.0, 1, 1, 0, 0, 0, 0, 1, torch.nan])
    group = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 1])
    found, _ = group_advantage(outcome, group, "batch")
    # Of 1110 0001 the deviation is 1/2; the answer without a grade has no part in it.
    by_hand = [0.5, 0.5, 0.5, -1.5, -0.5, -0.5, -0.5, 1.5, 0.0]
    assert found.tolist() == pytest.approx(by_hand)
    same, mixed = group_advantage(torch.ones(4), torch.tensor([0, 0, 1, 1]), "batch")
    assert same.tolist() == [0.0] * 4
    assert mixed.mean() == 0.0


@dataclass(frozen=True)
class Grader(Arithmetic):
    """Says what the id of a problem says."""

    def grade(self, problem: Problem, completion: str) -> Verdict:
        return Verdict(problem.id)


def test_a_graders_fault_is_no_wrong_answer() -> None:
    tokenizer = load_tokenizer("embedded:student")
    grader = Grader()
    prompts = ProblemSource([grader], tokenizer, "none", 0)
    statuses = ["correct", "wrong", "sandbox_error", "truncated"]
    problems = [Problem(grader.benchmark, status, "1+1=", "2") for status in statuses]
    rollout = rollout_of([[3], [4], [5], [6]])
    found = grading.outcomes(rollout, problems, prompts, tokenizer)
    assert found[[0, 1, 3]].tolist() == [1.0, 0.0, 0.0]
    assert found[2].isnan()
    with pytest.raises(DataError, match="cannot be graded"):
        prompts.evaluator(Problem("elsewhere", "p", "1+1=", "2"))


BASE = """\
name: refused
student: {path: embedded:student}
teacher: {path: embedded:teacher}
prompts: {type: problems, sources: [{type: math}]}
rollout: {type: cached, max_new_tokens: 8, group_size: 1}
training: {steps: 4, epochs: 1, normalisation: token_mean, mask: {first: 0}}
method: METHOD
"""


@pytest.mark.parametrize(
    ("method", "key", "reason"),
    [
        ("{type: kl_estimator, estimator: k1, delivery: backpropagation}", "estimator", "zero"),
        ("{type: kl_estimator, estimator: top_k, delivery: policy_gradient}", "estimator", "zero"),
        (
            "{type: kl_estimator, estimator: k3, delivery: policy_gradient}",
            "estimator",
            "minus the for",
        ),
        (
            "{type: kl_estimator, estimator: k2, delivery: policy_gradient}",
            "estimator",
            "no divergence",
        ),
        (
            "{type: kl_estimator, estimator: k3, direction: reverse}",
            "direction",
            "the forward KL, not",
        ),
        ("{type: opd, support: top_k, top_k: 1, tail: renormalised}", "tail", "identically zero"),
        ("{type: opd, support: top_k, top_k: 8, tail: dropped}", "tail", "not a divergence"),
        ("{type: opd, top_k: 3}", "top_k", "set it only with"),
        ("{type: opd, support: full, ratio_cap: 2.0}", "ratio_cap", "no sampled term"),
        ("{type: opd, ratio_cap: 2.0, ratio_clip: 0.2}", "ratio_clip", "used once"),
        ("{type: lgr, reward_weight: -1.0}", "reward_weight", "punishes confidence"),
        ("{type: lgr, reward: potential, variant: topk}", "reward", "no group"),
        ("{type: lgr, lookahead: 2, confidence: entropy}", "lookahead", "max_prob"),
        ("{type: lgr, lookahead: 2, reward: potential}", "lookahead", "reward: group"),
        ("{type: lgr, over: last}", "over", "set lookahead above 1"),
        (
            "{type: lgr, support: full, advantage_clip: 1.0}",
            "advantage_clip",
            "no sampled log-ratio",
        ),
        ("{type: reopold, mixture: 0.5}", "mixture", "must be below 0.5"),
        ("{type: reopold, mixture: 0.95, advantage_clip: 1.0}", "mixture", "must be below 0.5"),
        ("{type: opd, ratio_cap: 0.5}", "ratio_cap", "must be at least 1"),
        ("{type: lgr, support: full, ratio_cap: 0.99}", "ratio_cap", "must be at least 1"),
        ("{type: grpo, advantage_clip: 0.5}", "advantage_clip", "of the distillation"),
        ("{type: grpo, support: full}", "support", "of the distillation"),
        ("{type: lgr, base: {type: sft}}", "base", "the student's own answers"),
        ("{type: lgr, base: {type: lgr}}", "base", "a reward already"),
        ("{type: lgr, base: {type: kl_estimator}}", "base", "no advantage"),
        ("{type: lgr, support: full, base: {type: jsd}}", "support", "set base.support"),
        ("{type: lgr, ratio_clip: 0.2, base: {type: reopold}}", "ratio_clip", "set base.ratio"),
        ("{type: lgr, base: {type: jsd, beta: 2.0}}", "base.beta", "must be below 1"),
        ("{type: lgr, base: {type: jsd, bata: 0.5}}", "base.bata", "Did you mean method.base.beta"),
        (
            "{type: grpo, scale: batch, distillation_weight: 0.5}",
            "scale",
            "z-scores the teacher away",
        ),
    ],
)
def test_combinations_known_to_be_wrong_are_refused_with_line_key_and_reason(
    tmp_path: Path, method: str, key: str, reason: str
) -> None:
    path = tmp_path / "refused.yaml"
    path.write_text(BASE.replace("METHOD", method))
    with pytest.raises(ConfigError, match=reason) as refused:
        load(path, ["rollout.group_size=2"])
    assert re.search(rf"refused.yaml:7: (unknown key )?method.{key}\b", str(refused.value))


@pytest.mark.parametrize(
    ("method", "override", "reason"),
    [
        ("{type: opd}", "training.epochs=2", "an earlier student"),
        (
            "{type: opd}",
            "training.overlap=true",
            "no key training.overlap any more: set rollout_parts",
        ),
        (
            "{type: opd}",
            "training.accumulate=2",
            "no key training.accumulate any more: prompts_per_st",
        ),
        (
            "{type: opd}",
            "training.rollout_parts=33",
            "at most the prompts of a step on a device .32",
        ),
        ("{type: sft}", "training.rollout_parts=2", "writes the answers"),
        (
            "{type: opd}",
            "training={steps: 9, devices: 3}",
            "a multiple of the devices .3., which share",
        ),
        ("{type: opd}", "training.teacher_device=gpu1", "names no device"),
        ("{type: opd}", "training={steps: 9, devices: 2, teacher_device: cpu}", "one device"),
        ("{type: opd}", "training={steps: 9, strategy: ddp}", "for several devices"),
        (
            "{type: opd}",
            "training={steps: 9, strategy: fsdp, rollout_parts: 2}",
            "at the same time",
        ),
        (
            "{type: opd}",
            "training={steps: 9, strategy: fsdp, precision: 16-mixed}",
            "set bf16-mixed",
        ),
        ("{type: opd}", "training={steps: 9, strategy: fsdp, teacher_device: cpu}", "a part of"),
        ("{type: grpo}", "rollout.group_size=1", "its gradient is zero"),
        ("{type: sft}", "training.mask.entropy_share=0.5", "the answers are the teacher's"),
        ("{type: opd}", "training.mask={first: 5, last: 2}", "must not be below"),
        ("{type: opd}", "training.mask.first=128", "no token would carry loss"),
        (
            "{type: opd}",
            "rollout.temperature=0.7",
            "method opd takes .* at 0.7 .* biased. Set it to 1",
        ),
        ("{type: opd}", "rollout.temperature=0", "at 0 its gradient is biased"),
        ("{type: opd, ratio_cap: 2.0}", "rollout.top_p=0.9", "at 0.9 its gradient is biased"),
        ("{type: grpo}", "rollout.temperature=0.7", "method grpo"),
        ("{type: reopold}", "rollout.top_p=0.9", "method reopold"),
        ("{type: future_kl}", "rollout.temperature=1.2", "method future_kl"),
        ("{type: kl_estimator}", "rollout.temperature=0.7", "method kl_estimator"),
        ("{type: lgr, support: full}", "rollout.temperature=0.7", "method lgr"),
        ("{type: lgr, variant: topk}", "rollout.top_p=0.9", "method lgr"),
        ("{type: opd}", "training.betas=[0.9, 1.0]", "must be below 1"),
        (
            "{type: opd}",
            "sweep={space: {training.learning_rate: {type: float, low: 0.1, high: 1}}, "
            "trials: 2, seeds: [0, -1]}",
            "must be at least 0, not -1",
        ),
    ],
)
def test_what_does_not_fit_the_method_is_refused(
    tmp_path: Path, method: str, override: str, reason: str
) -> None:
    path = tmp_path / "refused.yaml"
    path.write_text(BASE.replace("METHOD", method))
    with pytest.raises(ConfigError, match=reason):
        load(path, [override])


def test_a_student_in_parts_is_not_sampled_by_a_server(tmp_path: Path) -> None:
    path = tmp_path / "refused.yaml"
    path.write_text(BASE.replace("METHOD", "{type: opd}"))
    with pytest.raises(ConfigError, match="with strategy: fsdp none has them"):
        load(path, ["rollout={type: openai}", "training.strategy=fsdp"])


@pytest.mark.parametrize(
    "method",
    [
        "{type: opd, support: full}",
        "{type: opd, support: top_k, top_k: 4}",
        "{type: jsd}",
        "{type: forward_kl}",
        "{type: sft}",
        "{type: lgr, support: full, variant: topk}",
        "{type: lgr, variant: topk, base: {type: jsd}}",
    ],
)
def test_losses_over_whole_distributions_may_be_sampled_in_any_way(
    tmp_path: Path, method: str
) -> None:
    path = tmp_path / "taken.yaml"
    path.write_text(BASE.replace("METHOD", method))
    assert load(path, ["rollout.temperature=0.7", "rollout.top_p=0.9"]).rollout.top_p == 0.9


@pytest.mark.parametrize(
    ("overrides", "fault"),
    [
        (["method={type: lgr, top_k: 100000}"], "method.top_k is 100000, but"),
        (["method={type: opd, support: top_k, top_k: 100000}"], "method.top_k is 100000, but"),
        (
            ["method={type: lgr, base: {type: opd, support: top_k, top_k: 9999}}"],
            "method.base.top_k is 9999, but",
        ),
        (["method={type: lgr, entropy_threshold: 30.0}"], "entropy_threshold is 30 nats, but"),
        (
            [
                "method={type: opd, support: top_k, top_k: 2}",
                "runs=[{name: small, set: {}}, {name: large, set: {method.top_k: 5000}}]",
            ],
            "run large: method.top_k is 5000, but",
        ),
    ],
)
def test_more_than_the_vocabulary_has_is_refused_when_models_are_loaded(
    overrides: list[str], fault: str
) -> None:
    config = load_experiment("quickstart", ["runs=[]", *overrides])
    with pytest.raises(ConfigError, match=rf"{fault}.* \d+ tokens"):
        load_pair(config)


def test_the_reason_stands_before_a_teacher_is_asked_for_grades(tmp_path: Path) -> None:
    path = tmp_path / "refused.yaml"
    dataset = "{type: dataset, path: prompts.jsonl}"
    text = BASE.replace("METHOD", "{type: grpo}").replace(
        "{type: problems, sources: [{type: math}]}", dataset
    )
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"refused.yaml:4: prompts.type: .* grader"):
        load(path, ["rollout.group_size=2"])
