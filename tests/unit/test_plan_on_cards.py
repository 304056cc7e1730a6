"""`opdlab plan --gpu`: shapes without the hub, arithmetic against formulas, settings that fit, refusals."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from end_to_end.laboratory import save_model
from gpu.small_runs import experiment as small_experiment, train
from transformers import Qwen3MoeConfig
from typer.testing import CliRunner

from opdlab.bench.whole import Cost, show_whole
from opdlab.cli import app
from opdlab.configuration.config import Experiment
from opdlab.configuration.loader import load_experiment, variants
from opdlab.configuration.model_settings import Model
from opdlab.errors import ConfigError, OutOfRoomError, needing_room
from opdlab.modelling import models
from opdlab.planning import room
from opdlab.planning.cards import CARDS, Card, card_of
from opdlab.planning.footprint import footprint, operations
from opdlab.planning.hub_shapes import shipped_shape
from opdlab.planning.loss_rows import told_to
from opdlab.planning.phases import SCORING, Site, memory
from opdlab.planning.proposal import as_written, proposed
from opdlab.planning.served_teacher import asked_of_servers, behind_servers
from opdlab.planning.stored_teacher import head_bytes
from opdlab.planning.timing import seconds
from opdlab.training.collect import Collector

PUBLISHED = {
    "Qwen/Qwen3-0.6B": 596_049_920,
    "Qwen/Qwen3-1.7B": 1_720_574_976,
    "Qwen/Qwen3-4B": 4_022_468_096,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "Qwen/Qwen3-14B": 14_768_307_200,
    "Qwen/Qwen3-32B": 32_762_123_264,
    "Qwen/Qwen2.5-Math-1.5B": 1_543_714_304,
    "Qwen/Qwen2.5-Math-7B": 7_615_616_512,
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": 1_777_088_000,
    "meta-llama/Meta-Llama-3-8B": 8_030_261_248,
}
"""Parameters, as the hub counts them."""


@pytest.mark.parametrize("name", ["Qwen/Qwen3-0.6B", "Qwen/Qwen2.5-Math-1.5B"])
def test_a_known_model_of_the_hub_needs_no_hub(name: str) -> None:
    assert footprint(Model(path=name, revision="main")).parameters == PUBLISHED[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_shipped_shapes_have_the_published_number_of_weights(name: str) -> None:
    config: Any = shipped_shape(name)
    wide, head = config.hidden_size, getattr(config, "head_dim", None)
    head = head or wide // config.num_attention_heads
    inner = head * (config.num_attention_heads + 2 * config.num_key_value_heads)
    layer = wide * inner + head * config.num_attention_heads * wide
    layer += 3 * wide * config.intermediate_size + 2 * wide
    layer += {"qwen2": inner, "qwen3": 2 * head, "llama": 0}[config.model_type]
    tables = config.vocab_size * wide * (1 if config.tie_word_embeddings else 2)
    assert config.num_hidden_layers * layer + tables + wide == PUBLISHED[name]


def test_operations_are_those_of_the_formula() -> None:
    config: Any = shipped_shape("Qwen/Qwen3-0.6B")
    layer = 1024 * 128 * (16 + 2 * 8) + 128 * 16 * 1024 + 3 * 1024 * 3072
    assert operations(config, 100) == 28 * (2 * 100 * layer + 2 * 16 * 128 * 100 * 100)
    experts = Qwen3MoeConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,  # pyright: ignore[reportCallIssue]
        num_experts=8,
        num_experts_per_tok=2,
        moe_intermediate_size=48,
        vocab_size=100,
    )
    each = 2 * 64 * 64 + 2 * 64 * 32 + 64 * 8 + 2 * 3 * 64 * 48
    assert operations(experts, 100) == 2 * (2 * 100 * each + 2 * 4 * 16 * 100 * 100)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """An experiment whose memory is a few MB, whichever way."""
    folder = tmp_path_factory.mktemp("models")
    student, teacher = (save_model(folder / name, width) for name, width in (("s", 64), ("t", 128)))
    settings = small_experiment({"type": "jsd"}, prompts_per_step=16, steps=8).model_dump(
        mode="json"
    )
    settings["student"]["path"], settings["teacher"]["path"] = str(student), str(teacher)
    settings["rollout"] |= {"group_size": 2, "max_new_tokens": 100}
    settings["runs"] = [
        {"name": "jsd", "set": {}},
        {"name": "lgr", "set": {"method": {"type": "lgr", "top_k": 4}}},
    ]
    return Experiment.model_validate(settings)


def of(bytes_: float, **rates: float) -> Card:
    """A card for which a plan may use so many bytes."""
    return Card("small", int(bytes_), **rates, kind="cpu")


def peak(config: Experiment, card: Card) -> int:
    return max(one.peak for one in memory(config, 20, Site.on(card.kind, config.training)).values())


def test_what_fits_is_left_as_it_is(tiny: Experiment) -> None:
    written = as_written(tiny, 20, of(1 << 34), None)
    assert written.fits
    assert written.words == []
    assert written.largest[0] == "jsd"


def test_settings_are_found_that_fit_and_change_nothing_else(tiny: Experiment) -> None:
    whole = as_written(tiny, 20, of(1), None)
    needed = max(peak(run, whole.card) for _, run in whole.runs)
    found = proposed(as_written(tiny, 20, of(0.85 * needed), None), tiny)
    assert found is not None
    assert found.values
    for _, run in found.runs:
        assert peak(run, found.card) <= 0.85 * needed
    learned = {key.split(".")[1] for key in found.values}
    assert learned <= {
        *("strategy", "offload", "activation_checkpointing", "update_tokens", "rollout_rows"),
    }
    assert proposed(as_written(tiny, 20, of(1000), None), tiny) is None


def test_the_quickest_setting_is_taken(tiny: Experiment) -> None:
    """Layers computed again take a quarter more; smaller micro-batches nothing."""
    whole = as_written(tiny, 20, of(1), None)
    needed = max(peak(run, whole.card) for _, run in whole.runs)
    rates = {"half": 1e12, "single": 1e12, "bandwidth": 1e9, "link": 1e9, "host": 1e9}
    found = proposed(as_written(tiny, 20, of(0.85 * needed, **rates), None), tiny)
    assert found is not None
    assert "training.activation_checkpointing" not in found.values
    again = tiny.model_copy(
        update={"training": tiny.training.model_copy(update={"activation_checkpointing": "layers"})}
    )
    card = of(1, **rates)
    assert seconds(again, 20, card).updating == pytest.approx(
        4 / 3 * seconds(tiny, 20, card).updating
    )


def test_parts_of_a_model_are_planned_on_several_cards(tiny: Experiment) -> None:
    one, two = (as_written(tiny, 20, of(1), count) for count in (1, 2))
    assert two.words == ["training.devices=2"]
    assert two.runs[0][1].training.world == 2
    assert one.runs[0][1].training.world == 1
    with pytest.raises(ConfigError, match="must be a multiple of the devices"):
        as_written(tiny, 20, of(1), 3)
    with pytest.raises(ConfigError, match="no whole number of machines"):
        as_written(tiny, 20, of(1), 12)


def test_a_teacher_on_the_host_is_counted_while_it_scores(tiny: Experiment) -> None:
    away = tiny.model_copy(update={"teacher": tiny.teacher.model_copy(update={"offload": True})})
    cuda = Site.on("cuda", tiny.training)
    here, there = (memory(one, 20, cuda)[""] for one in (tiny, away))
    weights = footprint(tiny.teacher).weights
    assert here.held["teacher weights"] - there.held["teacher weights"] == weights
    assert there.passing[SCORING] - here.passing[SCORING] == weights


def test_a_runs_own_settings_stand(tiny: Experiment) -> None:
    data = tiny.model_dump(mode="json")
    data["runs"][1]["set"]["training.devices"] = 1
    own = as_written(Experiment.model_validate(data), 20, of(1), 2)
    assert [run.training.world for _, run in own.runs] == [2, 1]


def test_cards_are_named_or_described() -> None:
    assert card_of("H100", None) == CARDS["h100"]
    assert card_of("mine", "24GB").memory == 24 * 10**9
    assert card_of("h100", "40GiB").memory == 40 << 30
    assert card_of("h100", "40GiB").bandwidth == CARDS["h100"].bandwidth
    for memory_, said in (
        ("24", "is not a size"),
        ("0GB", "is not a size"),
        ("many", "is not a size"),
    ):
        with pytest.raises(ConfigError, match=said):
            card_of(None, memory_)
    with pytest.raises(ConfigError, match=r"'h1000' is not among h100, .*--memory 24GB"):
        card_of("h1000", None)


def plan(*words: str) -> str:
    done = CliRunner().invoke(app, ["plan", *words])
    assert done.exit_code == 0, done.output
    return done.output


def test_the_command_shows_memory_time_and_cost_without_weights() -> None:
    small = ["student.path=Qwen/Qwen3-0.6B", "teacher.path=Qwen/Qwen3-0.6B", "runs=[]"]
    words = ["paper/objectives", *small, "--gpu", "4090", "--price", "0.5"]
    said = plan(*words)
    for part in (
        "On 1 x 4090, 23.5 GiB",
        "596,049,920",
        "as written",
        "proposed",
        "cost",
        "fits with",
    ):
        assert part in said, part
    values = plan(*words[:-2], "--apply").split()
    assert values
    assert all(value in said for value in values)
    load_experiment("paper/objectives", [*small, *values])


def test_times_without_the_teachers_server_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    """And what stays here of a teacher whose hidden states a service tells."""
    url = "http://teacher.example:8765"
    server = ["runs=[]", "method={type: opd, support: full}", "evaluation.references=[student]"]
    said = plan(
        "quickstart", *server, f"teacher.server={{type: opdlab, url: '{url}'}}", "--gpu", "4090"
    )
    words = " ".join(said.split())
    assert f"Nor is what the teacher behind {url} takes" in words
    config = load_experiment(
        "quickstart", [*server, f"teacher.server={{type: opdlab, url: '{url}'}}"]
    )
    head = 4 * 42 * models.load_shell("embedded:teacher").config.get_text_config().hidden_size
    assert head_bytes(config) == head
    assert told_to(config) == "everything"
    assert behind_servers(config) == [url]
    asked = asked_of_servers(config, rows=4, prompt=10)
    length = 10 + config.rollout.max_new_tokens
    assert asked == {"tokens for the teacher's service a step, at most": f"{4 * length:,}"}
    show_whole(config, {"opd": Cost(1.0, 1.0)})
    assert url in capsys.readouterr().out


@pytest.mark.parametrize("name", ["1.5b", "7b"])
def test_the_papers_settings_fit_on_the_cards_that_they_name(name: str) -> None:
    written = as_written(load_experiment(f"paper/{name}", []), 1024, CARDS["h100"], None)
    world = written.runs[0][1].training.world
    assert world == {"1.5b": 1, "7b": 8}[name]
    assert written.fits
    assert written.words == []


def test_a_training_that_cannot_fit_is_refused_with_what_fits(
    tiny: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = max(peak(run, of(1)) for _, run in variants(tiny))
    for share, said in ((0.85, r"with .*=.* it fits"), (1e-4, "no other settings make it fit")):
        card = of(share * needed)
        monkeypatch.setattr(room, "this_card", lambda *_, card=card: card)
        with pytest.raises(ConfigError, match=rf"run jsd needs .* by its plan, .*{said}.*--anyway"):
            room.require_room(tiny)
    monkeypatch.setattr(room, "this_card", lambda _, workers: of(3 * needed / workers))
    room.require_room(tiny)
    room.require_room(tiny, 2)
    many = tiny.model_copy(update={"training": tiny.training.model_copy(update={"seeds": 4})})
    with pytest.raises(
        ConfigError, match=r"needs .*; take fewer --workers than 4, or with .* it fits"
    ):
        room.require_room(many, 4)


NO_MEMORY: Mapping[str, Exception] = {
    "accelerator": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "host": RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 8 bytes"),
    "Python": MemoryError(),
}


@pytest.mark.parametrize("error", NO_MEMORY.values(), ids=NO_MEMORY)
def test_the_phase_is_named_in_which_memory_did_not_suffice(error: Exception) -> None:
    with pytest.raises(OutOfRoomError, match="while scoring") as told, needing_room("scoring"):
        raise error
    assert told.value.phase == "scoring"
    with pytest.raises(RuntimeError, match="shapes"), needing_room("scoring"):
        raise RuntimeError("shapes differ")


def test_a_training_without_memory_ends_with_phase_plan_and_remedy(
    tiny: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = dict(variants(tiny))["jsd"]

    def fail(*_: Any) -> None:
        raise NO_MEMORY["accelerator"]

    monkeypatch.setattr(Collector, "drawn_answers", fail)
    with pytest.raises(OutOfRoomError) as told, room.explaining(run):
        train(run, tmp_path)
    said = str(told.value)
    assert "did not suffice while sampling: CUDA out of memory" in said
    assert "The plan counts" in said
    assert "training.rollout_rows=16" in said
