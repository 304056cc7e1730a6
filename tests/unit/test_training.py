"""The training step: exact means, schedules, measures, and a curve that must not move."""

from __future__ import annotations

import json
import math
import shutil
import signal
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import stores
import torch
from end_to_end.laboratory import comparable, save_model
from lightning.pytorch.plugins import MixedPrecision
from misbehaving_server import MisbehavingServer
from small_models import random_rollout
from token_server import TokenServer

from opdlab.configuration.config import Experiment
from opdlab.configuration.training_settings import Training
from opdlab.console import Stopped, StopRequest
from opdlab.errors import NonFiniteError, PluginError, RefusedError
from opdlab.evaluation.subjects import Subject
from opdlab.modelling import models
from opdlab.modelling.head import hidden_states
from opdlab.modelling.recomputed import checkpointed
from opdlab.modelling.vocabulary_loss import TokenLosses
from opdlab.prompts.drawn import open_prompts
from opdlab.records import Rollout
from opdlab.scoring.pieces import joined_rollouts
from opdlab.scoring.teacher import Teacher
from opdlab.scoring.tree import part
from opdlab.training.checkpoint import read_checkpoint
from opdlab.training.fit import fit as run_steps
from opdlab.training.measures import by_position, repetition_rate
from opdlab.training.module import Distillation, learning_rate_factor
from opdlab.training.objective import check_finite
from opdlab.training.one_ahead import Ahead, figures
from opdlab.training.pace import Pace, checkpoint_path
from opdlab.training.reached import ReachedWeights
from opdlab.training.teachers import make_scorer
from opdlab.training.watch import keep_copy, rounded


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    place = tmp_path_factory.mktemp("models")
    return save_model(place / "student", 16), save_model(place / "teacher", 32, scale=4.0)


def build(
    folders: tuple[Path, Path],
    method: dict[str, Any],
    group_size: int = 1,
    engine: dict[str, Any] | None = None,
    seed: int = 0,
    student: dict[str, Any] | None = None,
    taught: dict[str, Any] | None = None,
    **training: Any,
) -> Distillation:
    """A module on random models, ready for a step."""
    student_path, teacher_path = map(str, folders)
    config = Experiment.model_validate(
        {
            "name": "unit",
            "seed": seed,
            "student": {"path": student_path, **(student or {})},
            "teacher": {"path": teacher_path, **(taught or {})},
            "prompts": {"type": "problems", "sources": [{"type": "math"}]},
            "rollout": {
                "max_new_tokens": 12,
                "group_size": group_size,
                **(engine or {"type": "cached"}),
            },
            "method": method,
            "training": {"steps": 1, "prompts_per_step": 6, **training},
        }
    )
    model, tokenizer = models.load_model(student_path), models.load_tokenizer(student_path)
    eos, pad = models.eos_ids(model, tokenizer), models.pad_id(model, tokenizer)
    subject = Subject(
        model=model,
        tokenizer=tokenizer,
        engine=config.rollout,
        eos_ids=eos,
        pad_id=pad,
        template="none",
    )
    loaded = models.load_model(teacher_path)
    teacher = make_scorer(config.teacher, loaded, None) if taught else Teacher(loaded).probe()
    return Distillation(config, subject, teacher, open_prompts(config.prompts, tokenizer, seed))


class Recorder(L.Callback):
    """The metrics of every optimizer step."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object
    ) -> None:
        assert isinstance(pl_module, Distillation)
        self.rows.append(pl_module.step_record())


def fit(
    module: Distillation, also: Sequence[L.Callback] = (), **options: Any
) -> list[dict[str, float]]:
    recorder = Recorder()
    settings = module.config.training
    trainer = L.Trainer(
        max_steps=settings.steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[recorder, *also],
        **options,
    )
    trainer.fit(module, range(settings.steps))  # pyright: ignore[reportArgumentType]
    return recorder.rows


OPD = {"type": "opd", "support": "full"}


class Gradients(L.Callback):
    """The gradient of every weight as the optimizer gets it, clipping aside."""

    def __init__(self) -> None:
        self.found: dict[str, torch.Tensor] = {}

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: object
    ) -> None:
        assert isinstance(pl_module, Distillation)
        for name, weight in pl_module.student.named_parameters():
            assert weight.grad is not None
            self.found[name] = weight.grad.clone()


def gradients(folders: tuple[Path, Path], **options: Any) -> dict[str, torch.Tensor]:
    """Of one step; and how many micro-batches it took, as `micro-batches`."""
    module = build(folders, **options)
    forwards: list[object] = []
    losses = module.objective.losses
    module.objective.losses = lambda batch: forwards.append(batch) or losses(batch)  # type: ignore[method-assign]
    kept = Gradients()
    fit(module, [kept])
    return kept.found | {"micro-batches": torch.tensor(len(forwards))}


METHODS = [
    {"type": "opd", "support": "full"},
    {"type": "opd", "support": "sampled"},
    {"type": "opd", "support": "top_k", "top_k": 5},
    {"type": "lgr", "support": "sampled", "top_k": 4},
    {"type": "lgr", "support": "full", "top_k": 4, "variant": "topk"},
    {"type": "grpo", "distillation_weight": 0.5},
    {"type": "reopold"},
    {"type": "future_kl"},
    {"type": "jsd"},
    {"type": "forward_kl"},
    {"type": "sft"},
]


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_step_has_one_gradient_however_it_is_split(folders, method) -> None:
    normalisation = ("token_mean", "sequence_mean")[METHODS.index(method) % 2]
    options = {"method": method, "normalisation": normalisation, "group_size": 3, "steps": 1}
    options |= {"prompts_per_step": 3, "gradient_clip": 0}
    whole = gradients(folders, **options)
    counts = [int(whole.pop("micro-batches"))]
    for limit in (140, 50) if method in METHODS[:5:4] else (60,):
        parts = gradients(folders, update_tokens=limit, **options)
        counts.append(int(parts.pop("micro-batches")))
        for name, gradient in whole.items():
            scale = float(gradient.abs().max())
            torch.testing.assert_close(parts[name], gradient, rtol=1e-4, atol=1e-5 * scale)
    assert counts == sorted(set(counts))
    assert counts[0] == 1


@pytest.mark.parametrize("method", [METHODS[0], METHODS[4]], ids=str)
@pytest.mark.parametrize("dropout", [False, True])
def test_layers_that_are_computed_again_give_the_same_gradient(
    folders, tmp_path: Path, method, dropout: bool
) -> None:
    pair = (with_dropout(folders[1], tmp_path / "student"), folders[1]) if dropout else folders
    options = {"method": method, "student": {"dropout": dropout}}
    found = []
    for what in ("none", "layers"):
        torch.manual_seed(0)
        found.append(gradients(pair, activation_checkpointing=what, **options))
    assert all(torch.equal(found[1][name], gradient) for name, gradient in found[0].items())


def test_checkpointed_layers_keep_a_fraction_of_the_activations(folders) -> None:
    def kept(what: str) -> int:
        module = build(folders, OPD)
        tokens = torch.randint(3, 20, (4, 64))
        held: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with (
            torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t),
            checkpointed(module.student, what),  # type: ignore[arg-type]
        ):
            states = hidden_states(module.student, tokens)
        del states
        return sum(held.values())

    assert kept("layers") < 0.3 * kept("none")
    assert "forward" not in vars(build(folders, OPD).student.model.layers[0])


@pytest.mark.parametrize("method", [OPD, {"type": "lgr", "support": "sampled", "top_k": 4}])
def test_scoring_beside_sampling_changes_no_result(folders, method) -> None:
    many = {"prompts_per_step": 6, "steps": 3}
    apart = build(folders, method, **many)
    beside = build(folders, method, rollout_parts=3, teacher_device="cpu", **many)
    rows, same = fit(apart), fit(beside)
    assert "seconds/overlapped" in same[0]
    for row, other in zip(rows, same, strict=True):
        for name in [name for name in row if "second" not in name]:
            assert other[name] == pytest.approx(row[name], rel=1e-4, abs=1e-5), name
    for name, weight in apart.student.named_parameters():
        other = beside.student.get_parameter(name)
        torch.testing.assert_close(other, weight, rtol=1e-3, atol=1e-5)
    assert beside.collector.drawn == apart.collector.drawn == 18


def test_a_method_that_picks_among_a_steps_answers_is_not_scored_in_parts(folders) -> None:
    options = {"type": "lgr", "top_k": 4, "active_share": 0.5}
    with pytest.raises(ValueError, match=r"rollout_parts: .* picks among all"):
        build(folders, options, rollout_parts=2)
    module = build(folders, {"type": "lgr", "top_k": 4}, rollout_parts=2)
    picking = replace(module.config.method, active_share=0.5)
    module.collector.config = module.config.model_copy(update={"method": picking})
    with pytest.raises(PluginError, match="depend on the other answers of the step"):
        fit(module)


def test_few_places_for_many_answers_change_no_answer(folders) -> None:
    found = []
    for rows in (None, 2):
        module = build(folders, OPD, rollout_rows=rows)
        fit(module)
        assert module.rollout is not None
        found.append(module.rollout)
    assert len(set(found[0].response_lengths.tolist())) > 1
    assert torch.equal(found[0].tokens, found[1].tokens)
    torch.testing.assert_close(found[0].log_prob, found[1].log_prob, rtol=0, atol=1e-5)


def test_parts_of_a_step_are_sampled_by_the_same_weights(folders) -> None:
    module = build(folders, OPD, rollout_parts=2, prompts_per_step=4, steps=3)
    weights: list[torch.Tensor] = []
    sample = module.collector.sample

    def noted(*asked: Any) -> Any:
        weights.append(torch.cat([p.detach().flatten() for p in module.student.parameters()]))
        return sample(*asked)

    module.collector.sample = noted  # type: ignore[method-assign]
    fit(module)
    assert len(weights) == 6
    for first, second in zip(weights[::2], weights[1::2], strict=True):
        assert torch.equal(first, second)
    assert not torch.equal(weights[1], weights[2])


@pytest.mark.parametrize(("dtype", "share"), [("float32", 1.0), ("bfloat16", 0.2)])
def test_a_step_tells_how_many_weights_it_reached(folders, dtype: str, share: float) -> None:
    """bfloat16 loses steps that float32 takes: AdamW's first is about the learning rate in size."""
    module = build(folders, OPD, steps=2, learning_rate=2e-6)
    module.student.to(models.DTYPES[dtype])
    module.reached = ReachedWeights(module.student)
    rows = fit(module)
    if dtype == "float32":
        assert rows[0]["updated_share"] == share
    else:
        assert 0 < rows[0]["updated_share"] < share


def test_token_mean_and_sequence_mean_are_different_losses(folders) -> None:
    rows = [fit(build(folders, OPD, normalisation=n))[0] for n in ("token_mean", "sequence_mean")]
    assert rows[0]["loss"] == pytest.approx(rows[0]["reverse_kl"], rel=1e-5)
    assert rows[1]["loss"] != pytest.approx(rows[0]["loss"], rel=1e-3)


def test_opd_brings_the_student_nearer_to_the_teacher(folders) -> None:
    rows = fit(build(folders, OPD, steps=60, learning_rate=1e-2))
    assert rows[-1]["reverse_kl"] < 0.85 * rows[0]["reverse_kl"]


def test_a_small_head_chunk_changes_nothing(folders) -> None:
    one, many = (fit(build(folders, OPD, steps=2, head_chunk=chunk)) for chunk in (4096, 5))
    assert [row["loss"] for row in one] == pytest.approx([row["loss"] for row in many], rel=1e-4)


def test_every_response_token_has_a_teacher_score(folders) -> None:
    (row,) = fit(build(folders, {"type": "lgr", "support": "sampled", "top_k": 4}))
    assert row["teacher_score_share"] == 1.0
    assert row["leaves"] > 0


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.5, 1.0, 1.0, 0.75, 0.5]),
        ("cosine", [0.5, 1.0, 1.0, 0.853553, 0.5]),
    ],
)
def test_the_learning_rate_follows_its_schedule(schedule, factors) -> None:
    settings = Training(steps=6, warmup_steps=2, schedule=schedule)
    found = [learning_rate_factor(settings, step) for step in range(5)]
    assert found == pytest.approx(factors, abs=1e-5)


def rollout_of(rows: list[list[int]]) -> Rollout:
    width = max(map(len, rows)) + 1
    T = sum(map(len, rows))
    return Rollout(
        tokens=torch.tensor([[1, *row, *[0] * (width - 1 - len(row))] for row in rows]),
        prompt_lengths=torch.ones(len(rows), dtype=torch.long),
        response_lengths=torch.tensor([len(row) for row in rows]),
        ended=torch.zeros(len(rows), dtype=torch.bool),
        log_prob=torch.zeros(T),
        entropy=torch.zeros(T),
        candidates=torch.zeros(T, 0, dtype=torch.long),
        seeds=torch.arange(len(rows)),
        eos_ids=(9,),
    )


def test_repetition_counts_four_grams_seen_before_in_the_same_response() -> None:
    # 5 5 5 5 5 5: three 4-grams, one distinct; 1 2 3 4 5: two, both new; too short: none.
    rollout = rollout_of([[5] * 6, [1, 2, 3, 4, 5], [5, 5, 5]])
    assert repetition_rate(rollout) == (pytest.approx(1 - 3 / 5), 5.0)
    assert repetition_rate(rollout_of([[1, 2]])) == (0.0, 0.0)


def test_parts_of_a_step_seen_together_are_the_step() -> None:
    """As on several devices: the answers of each, one below the other, with groups numbered on."""
    whole = random_rollout([2, 3, 4, 2], [5, 2, 3, 4], top_k=3)
    whole = replace(whole, group=torch.tensor([0, 0, 1, 2]), outcome=torch.rand(4))
    pieces = []
    for rows in ([0, 1], [2], [3]):
        piece, _ = part(whole, torch.tensor(rows))
        pieces.append(
            replace(piece, group=torch.zeros(len(rows)).long(), outcome=whole.outcome[rows])
        )
    joined = joined_rollouts(pieces)
    for name in (
        "token",
        "row",
        "position",
        "column",
        "log_prob",
        "entropy",
        "candidates",
        "seeds",
    ):
        assert torch.equal(getattr(joined, name), getattr(whole, name)), name
    for name in ("prompt_lengths", "response_lengths", "ended", "group", "outcome"):
        assert torch.equal(getattr(joined, name), getattr(whole, name)), name
    assert joined.stream == whole.stream


def test_position_bins_hold_the_means_of_their_tokens() -> None:
    rollout = rollout_of([[3, 4, 5], [3]])
    values = torch.tensor([1.0, 2.0, float("nan"), 3.0])
    assert by_position("f", values, rollout, 16) == {"f/t0000-0001": (pytest.approx(2.0), 3.0)}
    assert by_position("f", values, rollout, 8) == {
        "f/t0000-0000": (pytest.approx(2.0), 2.0),
        "f/t0001-0001": (pytest.approx(2.0), 1.0),
    }


def test_infinity_shows_in_the_bin_of_its_position_and_nan_is_no_value() -> None:
    rollout = rollout_of([[3] * 8])
    values = torch.tensor([1.0, math.inf, 2.0, math.nan, math.nan, math.nan, 3.0, 4.0])
    found = [value for value, _ in by_position("reverse_kl", values, rollout, 16).values()]
    assert found == [math.inf, 2.0, 3.5]


@pytest.mark.parametrize("method", ["lgr", "opd"])
def test_a_step_has_the_same_figures_however_it_was_split(folders, method: str) -> None:
    """One micro-batch of 8 answers, or several: means are of all tokens, counts are sums."""
    rows = []
    for tokens in (100_000, 50):
        options = {"type": method, **({"top_k": 4} if method == "lgr" else {})}
        settings = {"prompts_per_step": 8, "steps": 3, "learning_rate": 1e-3, "warmup_steps": 2}
        rows.append(fit(build(folders, options, update_tokens=tokens, **settings)))
    timed = {"tokens_per_second"}
    for one, four in zip(*rows, strict=True):
        assert one.keys() == four.keys()
        for name in one.keys() - timed:
            if not name.startswith("seconds/"):
                assert four[name] == pytest.approx(one[name], rel=1e-4, abs=1e-6), name
        assert one["teacher_tokens"] == one["response_tokens"] + one["leaves"]
    assert [row["learning_rate"] for row in rows[0]] == pytest.approx([1e-3 / 2, 1e-3, 1e-3])


def test_costs_are_what_was_spent_whatever_the_epochs_and_the_parts_of_a_step(folders) -> None:
    """Devices: `test_two_devices_train_what_one_trains_on_all_their_prompts`."""
    spent = []
    for epochs, tokens in ((1, 100_000), (1, 50), (2, 100_000), (2, 50)):
        settings = {"epochs": epochs, "steps": epochs, "update_tokens": tokens}
        method = {"type": "lgr", "top_k": 4, "ratio_cap": 2.0}
        rows = fit(build(folders, method, **settings))
        spent.append((rows[0]["response_tokens"], rows[0]["leaves"], rows[0]["teacher_tokens"]))
        for row in rows[1:]:
            costs = {"leaves", "teacher_tokens", "seconds/rollout", "seconds/teacher"}
            assert {row[name] for name in costs} == {0}
    assert len(set(spent)) == 1
    sampled, leaves, taught = spent[0]
    assert taught == sampled + leaves
    assert leaves > 0


def test_a_table_of_rollouts_holds_what_json_can() -> None:
    values = torch.tensor([0.12345, math.nan, -math.inf, math.inf])
    assert rounded(values) == [0.1235, None, "-inf", "inf"]


def test_no_copy_is_kept_of_weights_that_are_not_finite(folders, tmp_path: Path) -> None:
    module = build(folders, OPD)
    fit(module)
    with torch.no_grad():
        module.student.lm_head.weight[0, 0] = torch.nan
    with pytest.raises(NonFiniteError, match="lm_head"):
        keep_copy(module, tmp_path / "step-000001")
    assert not list(tmp_path.iterdir())


def test_the_text_order_of_position_bins_is_their_order() -> None:
    rollout = rollout_of([[3] * 39_000])
    names = list(by_position("f", torch.ones(39_000), rollout, 39_000))
    assert names[0] == "f/t00000-04874"
    assert names == sorted(names)
    assert len(names) == 8


GOLDEN_KL = [6.81924, 7.14815, 6.47164, 6.63104]


def test_the_loss_curve_is_the_one_it_always_was(folders) -> None:
    rows = fit(build(folders, {"type": "lgr", "support": "full", "top_k": 4}, steps=4))
    assert [row["reverse_kl"] for row in rows] == pytest.approx(GOLDEN_KL, rel=2e-3)


def test_training_on_rollouts_of_a_server_is_training_on_ones_own(folders, tmp_path: Path) -> None:
    lgr = {"type": "lgr", "support": "full", "top_k": 4}
    steps = 6
    with TokenServer(folders[0]) as server:
        engine = {"type": "openai", "url": server.url, "weights_folder": str(tmp_path)}
        through = fit(build(folders, lgr, engine=engine, steps=steps, learning_rate=0.01))
        assert server.seen["/collective_rpc"] == steps  # the weights of every step, and none twice
    for row in through:
        shown = {name: row.pop(name) for name in list(row) if name.startswith("server_")}
        assert abs(shown.pop("server_surprise")) < 1.0
        assert shown.keys() == {"server_gap", "server_kl", "server_gap_high"}
        assert max(map(abs, shown.values())) < 1e-4
        assert row.pop("seconds/weights") > 0
        assert row.pop("refused_share") == 0
    own = fit(build(folders, lgr, steps=steps, learning_rate=0.01))
    assert len(own) == len(through) == steps
    for one, other in zip(comparable(through), comparable(own), strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-5)
    assert own[0]["reverse_kl"] != pytest.approx(own[-1]["reverse_kl"], rel=0.01)


def test_answers_of_one_step_ahead_weigh_what_they_are_worth_now(folders, tmp_path: Path) -> None:
    lgr = {"type": "lgr", "top_k": 4, "variant": "topk"}
    with TokenServer(folders[0]) as one, TokenServer(folders[0]) as other:
        engine = {"type": "openai", "url": [one.url, other.url], "weights_folder": str(tmp_path)}
        module = build(folders, lgr, engine=engine | {"ahead": 1}, steps=2, learning_rate=0.1)
        first, second = fit(module)
        # Both steps' answers are of the first weights, which each server got once.
        assert one.seen["/collective_rpc"] == other.seen["/collective_rpc"] == 1
        assert one.seen["/v1/completions"] + other.seen["/v1/completions"] == 12
    collected = module.collected
    assert collected is not None
    own = build(folders, lgr, steps=2).collector
    fresh, found = own.sample(range(6, 12), stores.HERE).rollout, collected.rollout
    assert torch.equal(fresh.tokens, found.tokens)
    assert found.sampled_log_prob is not None
    torch.testing.assert_close(found.sampled_log_prob, fresh.log_prob, atol=1e-4, rtol=0)
    assert not torch.equal(found.candidates, fresh.candidates), (
        "they are the student's as it is now"
    )
    weights = (found.log_prob - found.sampled_log_prob).exp().clamp(max=2.0)
    torch.testing.assert_close(collected.weights * len(weights), weights)
    assert first["importance_mean"] == first["importance_effective_share"] == pytest.approx(1.0)
    assert second["importance_mean"] == pytest.approx(float(weights.mean()))
    assert 0 < second["importance_truncated_share"] == float((weights == 2.0).float().mean())
    effective = float(weights.sum() ** 2 / weights.square().sum() / len(weights))
    assert second["importance_effective_share"] == pytest.approx(effective)
    far = replace(found, sampled_log_prob=found.log_prob + 400.0)
    assert figures(module.config.method, far)["importance_effective_share"][0] == 0.0
    both = joined_rollouts([found, far]).sampled_log_prob
    assert both is not None
    assert len(both) == 2 * len(weights)
    module.collector.sampled = Ahead(found, [], [], {})
    module.collector.restore(0, None, stores.HERE)
    assert module.collector.sampled is None, "it was of another training"


def test_a_step_is_trained_on_the_prompts_that_its_server_answers(folders, tmp_path: Path) -> None:
    grpo = {"type": "grpo"}
    with TokenServer(folders[0]) as server:
        engine = {"type": "openai", "url": server.url, "weights_folder": str(tmp_path)}
        module = build(folders, grpo, group_size=2, engine=engine)
        refused = list(module.prompts.prompt(1).tokens)
        server.status, server.refuses = 400, lambda body: body["prompt"] == refused
        (row,) = fit(module)
    assert row["refused_share"] == pytest.approx(1 / 6)
    rollout = module.rollout
    assert rollout is not None
    assert rollout.group is not None
    assert rollout.group.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert [one["problem"] for one in module.collector.refused] == [
        module.prompts.prompt(1).problem.named
    ]


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("method", ["opd", "grpo"])
def test_a_step_is_trained_on_the_answers_that_its_teachers_server_scores(
    folders, method: str, parts: int
) -> None:
    settings = {"type": method, "support": "sampled"} if method == "opd" else {"type": method}
    with MisbehavingServer(folders[1]) as server:
        taught = {"server": {"url": server.url, "patience_s": 1.0}}
        module = build(folders, settings, group_size=2, taught=taught, rollout_parts=parts)
        refused = list(module.prompts.prompt(4).tokens)
        asked: list[list[int]] = []

        def refuses(body: dict[str, Any]) -> bool:
            asked.append(body["prompt"])
            return asked[-1][: len(refused)] == refused

        server.refuses_for_ever = refuses
        (row,) = fit(module)
        assert sum(one[: len(refused)] == refused for one in asked) == 2, "none is asked for again"
        collector = module.collector
        spent = collector.seconds["teacher"]
        with collector.clock("teacher"):
            pass
        assert collector.seconds["teacher"] >= spent, "parts are added up"
        assert row["refused_share"] == pytest.approx(1 / 6)
        rollout = module.rollout
        assert rollout is not None
        assert len(rollout.tokens) == 10
        assert (rollout.group is None) == (method == "opd")
        (gone,) = module.collector.refused
        assert gone["problem"] == module.prompts.prompt(4).problem.named
        assert "context length is 8" in gone["reason"]
        server.refuses_for_ever = lambda body: len(body["prompt"]) > len(refused)
        with pytest.raises(RefusedError, match="the answer to problem"):
            fit(module)


def test_no_step_goes_on_without_most_of_its_prompts_however_often_they_are_asked_for(
    folders,
) -> None:
    with MisbehavingServer(folders[1]) as server:
        taught = {"server": {"url": server.url, "patience_s": 1.0}}
        module = build(folders, {"type": "grpo"}, group_size=2, taught=taught)
        prompts = [list(module.prompts.prompt(row).tokens) for row in range(6)]
        rounds: list[RefusedError] = []

        def refuses(body: dict[str, Any]) -> bool:
            """Two prompts more each time."""
            bad = prompts[: 2 * len(rounds) + 2]
            return any(body["prompt"][: len(one)] == one for one in bad)

        server.refuses_for_ever, score = refuses, module.collector.score

        def noting(*asked: Any) -> Any:
            try:
                return score(*asked)
            except RefusedError as error:
                rounds.append(error)
                raise

        module.collector.score = noting  # type: ignore[method-assign]
        with pytest.raises(RefusedError):
            fit(module)
    assert len(rounds) == 2, "after a third two thirds are refused"


class Noting(Pace):
    """Notes the figures of each step, and is told to stop when a server has hung."""

    def __init__(self, folder: Path, stop: StopRequest) -> None:
        super().__init__(folder, stop)
        self.rows: list[dict[str, float]] = []

    def record(self, module: Distillation, metrics: dict[str, float]) -> None:
        kept = (
            one
            for one in metrics.items()
            if not one[0].startswith(("seconds/", "server_", "tokens_per"))
        )
        self.rows.append(dict(kept))


# Lightning cannot know that prompts are drawn by their number.
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint")
@pytest.mark.parametrize("ahead", [0, 1])
def test_a_training_that_is_stopped_while_its_server_hangs_goes_on_from_the_step_before(
    folders, tmp_path: Path, ahead: int
) -> None:
    steps = 4

    def trained(folder: Path, hangs_after: int | None) -> list[dict[str, float]]:
        torch.manual_seed(0)
        module = build(
            (student, folders[1]),
            method,
            engine=engine,
            student={"dropout": bool(ahead)},
            steps=steps,
            learning_rate=0.01,
        )
        with StopRequest() as stop:
            pace = Noting(folder, stop)
            server.hangs_after = hangs_after
            stop.check = lambda *_: server.hung.is_set() and stop_now()  # type: ignore[method-assign]
            try:
                run_steps(module, module.config.training, pace)
            except Stopped:
                assert hangs_after is not None
        return pace.rows

    def stop_now() -> None:
        raise Stopped(signal.SIGTERM)

    method = {"type": "lgr", "top_k": 4} if ahead else OPD
    # Whoever samples ahead has drawn dropout by then.
    student = with_dropout(folders[0], tmp_path / "student") if ahead else folders[0]
    with Hanging(folders[0]) as server:
        engine = {"type": "openai", "url": server.url, "weights_folder": str(tmp_path / "weights")}
        engine |= {"ahead": ahead}
        whole = trained(tmp_path / "whole", None)
        # The answers to the second step's prompts are asked for in the first, and waited for there.
        begun = trained(tmp_path / "stopped", 2 * 6)
        assert len(begun) == 2 - ahead
        server.released.set()
        server.hung.clear()
        rest = trained(tmp_path / "stopped", None)
    for one, other in zip([*begun, *rest], whole, strict=True):
        assert {k: (v, other[k]) for k, v in one.items() if v != other[k]} == {}


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint")
@pytest.mark.parametrize("alarm", [False, True])
def test_a_training_that_is_stopped_while_it_evaluates_goes_on_with_the_evaluation(
    folders, tmp_path: Path, alarm: bool
) -> None:
    """And with the very student: what is sampled on a server anew may make another one.

    Where that step's alarm ends the training, no other is taken.
    """
    evaluated: list[torch.Tensor] = []

    class Evaluating(Noting):
        def record(self, module: Distillation, metrics: dict[str, float]) -> None:
            if self.due(module.config.evaluation.every):
                evaluated.append(torch.cat([w.detach().flatten() for w in module.parameters()]))
                if len(evaluated) == 1:
                    raise Stopped(signal.SIGTERM)
                self.enough = alarm
            super().record(module, metrics)

    def trained() -> list[dict[str, float]]:
        module = build(folders, OPD, steps=3, learning_rate=0.01)
        often = module.config.evaluation.model_copy(update={"every": 2})
        module.config = module.config.model_copy(update={"evaluation": often})
        with StopRequest() as stop:
            pace = Evaluating(tmp_path, stop)
            with suppress(Stopped):
                run_steps(module, module.config.training, pace)
        return pace.rows

    assert len(trained()) == 1
    rest = trained()
    assert len(rest) == 1 + (not alarm), "the step that was evaluated, and the one after it"
    assert read_checkpoint(checkpoint_path(tmp_path))["global_step"] == 2 + (not alarm)
    assert torch.equal(*evaluated)


class Hanging(TokenServer):
    """Answers no completion after so many."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.hangs_after: int | None = None
        self.hung, self.released = threading.Event(), threading.Event()

    def complete(self, body: dict[str, Any]) -> Any:
        if self.hangs_after is not None and "prompt_logprobs" not in body:
            self.hangs_after -= 1
            if self.hangs_after < 0:
                self.hung.set()
                self.released.wait()
        return super().complete(body)


def with_dropout(source: Path, folder: Path) -> Path:
    """A copy of a model whose configuration names a dropout."""
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"attention_dropout": 0.3}))
    return folder


def test_a_student_that_is_its_own_teacher_has_neither_loss_nor_gradient(
    folders, tmp_path: Path
) -> None:
    _, teacher = folders
    pair = with_dropout(teacher, tmp_path / "student"), teacher
    (row,) = fit(build(pair, OPD))
    assert row["loss"] == pytest.approx(0, abs=1e-5)
    assert row["gradient_norm"] == pytest.approx(0, abs=1e-3)


def test_dropout_acts_where_it_is_asked_for(folders, tmp_path: Path) -> None:
    _, teacher = folders
    pair = with_dropout(teacher, tmp_path / "student"), teacher
    (row,) = fit(build(pair, OPD, student={"dropout": True}))
    assert row["loss"] > 0.01


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_reaches_no_weight(folders, value: float) -> None:
    module = build(folders, OPD, steps=3)
    before = {name: p.detach().clone() for name, p in module.student.named_parameters()}
    module.student.lm_head.weight.register_hook(lambda gradient: gradient * value)
    with pytest.raises(NonFiniteError, match=r"at step 1 \(not finite: lm_head"):
        fit(module)
    for name, weight in module.student.named_parameters():
        assert torch.equal(weight, before[name])


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_the_scaler_of_16_mixed_may_pass_over_steps(folders) -> None:
    module = build(folders, OPD, steps=6)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, backoff_factor=2.0**-12)
    rows = fit(module, plugins=[MixedPrecision("16-mixed", "cpu", scaler)])
    norms = [row["gradient_norm"] for row in rows]
    assert not math.isfinite(norms[0])
    assert math.isfinite(norms[-1])
    assert all(p.isfinite().all() for p in module.student.parameters())


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_a_gradient_that_is_not_finite_at_any_scale_ends_16_mixed(folders) -> None:
    module = build(folders, OPD, steps=9)
    module.student.lm_head.weight.register_hook(lambda gradient: gradient * torch.nan)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0, backoff_factor=2.0**-4)
    with pytest.raises(NonFiniteError, match="at step 4"):
        fit(module, plugins=[MixedPrecision("16-mixed", "cpu", scaler)])


def test_a_date_is_a_seed(folders) -> None:
    one, other = (fit(build(folders, OPD, seed=seed))[0] for seed in (20261126, 20261127))
    assert one["loss"] != other["loss"]


@pytest.mark.parametrize("method", [OPD, {"type": "lgr", "support": "full", "top_k": 4}])
@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed"])
def test_figures_of_a_step_in_bfloat16_are_in_float32(folders, precision: str, method) -> None:
    """Kept in bfloat16 they would have 8 bits: 7.03 is 7.03125 there."""
    module = build(folders, method)
    fit(module, precision=precision)
    rollout, scores = module.rollout, module.scores
    assert rollout is not None
    assert scores is not None
    for values in (rollout.log_prob, rollout.entropy, scores.log_prob, scores.entropy):
        assert values.dtype == torch.float32
        assert not torch.equal(values, values.bfloat16().float())


def test_a_loss_without_bound_is_told_with_what_makes_it_so() -> None:
    rollout = random_rollout([2, 3], [4, 5])
    zero = torch.zeros(9)
    for value, said in (
        (torch.inf, "row 1, position 2 .* logit of minus infinity"),
        (torch.nan, "gradient_clip"),
    ):
        losses = TokenLosses(zero.index_fill(0, torch.tensor(6), value), zero, None)
        with pytest.raises(NonFiniteError, match=said):
            check_finite(losses, rollout)
