"""`opdlab bench`: rivals are exact, the arithmetic is torch's, times are told as they were taken."""

import json
from pathlib import Path

import pytest
import torch
from parity import peer_trl
from small_models import random_rollout, small_model
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from opdlab.bench import race as race_module, start, whole
from opdlab.bench.head import CHUNKS, WHOLE
from opdlab.bench.race import Side, race
from opdlab.bench.rivals import Decoder, dense_tree, prefill_each
from opdlab.bench.shapes import Shape, ask, random_rollout as rollout_of, work
from opdlab.cli import app
from opdlab.configuration.loader import load_experiment
from opdlab.console.terminal import duration
from opdlab.errors import ConfigError
from opdlab.records import Questions
from opdlab.scoring.naive import naive_scores
from opdlab.scoring.tree import leaves
from opdlab.training.pair import load_pair

SMALL = "width=32,layers=2,heads=4,kv=2,intermediate=48,vocabulary=64"


def run(*words: str) -> str:
    result = CliRunner().invoke(app, ["bench", *words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_every_rival_gives_what_whole_forwards_give(family: str) -> None:
    model = small_model(family)
    rollout = random_rollout([4, 7], [9, 12])
    questions = Questions(rollout.candidates)
    tree = leaves(rollout, questions.candidates)
    expected = naive_scores(model, rollout, questions).confidence[tree.place, tree.slot].log()
    everyone = torch.arange(len(tree))
    for found in (
        dense_tree(model, rollout, questions),
        dense_tree(model, rollout, questions, segments=3),
        Decoder(model, rollout)(tree, everyone),
        prefill_each(model, rollout, tree, everyone),
    ):
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


def test_a_part_of_the_candidates_gives_those_of_the_part() -> None:
    model, rollout = small_model("llama"), random_rollout([4, 7], [9, 12])
    tree = leaves(rollout, rollout.candidates)
    some = torch.tensor([40, 3, 17])
    whole = dense_tree(model, rollout, Questions(rollout.candidates))
    for found in (
        Decoder(model, rollout)(tree, some),
        prefill_each(model, rollout, tree, some),
    ):
        torch.testing.assert_close(found, whole[some], rtol=0, atol=2e-5)


def test_operations_are_those_that_torch_counts() -> None:
    shape, length = Shape.parse(SMALL), 24
    model = shape.build("cpu", torch.float32, 64)
    model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter:
        model(input_ids=torch.zeros(1, length, dtype=torch.long), use_cache=False)
    # Eager attention computes the whole square.
    expected = length * (
        shape.token_operations() + shape.attention_operations(length) + shape.head_operations()
    )
    # transformers 5.17 multiplies positions and rotary frequencies as matrices, newer ones by element.
    angles = length * model.config.head_dim
    assert counter.get_total_flops() - expected in (0, angles)


def test_arithmetic_counts_each_leaf_and_a_shared_prompt_once() -> None:
    shape = Shape.parse(SMALL)
    rollout = rollout_of(shape, [3, 3], [4, 4], top_k=3, device="cpu", shared_prompt=True)
    candidates = torch.full((8, 3), -1)
    candidates[2] = rollout.candidates[2]
    found = work(shape, rollout, Questions(candidates))
    linear, one_key, head = (
        shape.token_operations(),
        shape.attention_operations(1),
        shape.head_operations(),
    )
    # Columns 0 1 2 of the prompt, 3 4 5 6 of both responses; ten states are projected.
    keys = (1 + 2 + 3) + 2 * (4 + 5 + 6 + 7)
    assert found.trunk == 11 * linear + keys * one_key + 10 * head
    apart = work(shape, rollout, Questions(candidates), shared=False)
    assert apart.trunk == 14 * linear + 2 * sum(range(1, 8)) * one_key + 10 * head
    # The sampled token needs no leaf; the two others stand at column 5 and see six keys.
    assert found.leaves == 2 * (linear + 6 * one_key + head)


def test_the_asked_share_of_positions_is_active() -> None:
    rollout = rollout_of(Shape.parse(SMALL), [3], [200], top_k=4, device="cpu")
    asked = ask(rollout, 0.15).candidates
    assert int((asked >= 0).any(1).sum()) == 30
    assert bool((asked[:, 0] == rollout.token)[asked[:, 0] >= 0].all())


def test_sides_take_turns_and_a_part_is_scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(race_module, "timed", lambda run, _device: run() or 3.0)
    found = race(
        [
            Side("a", lambda: calls.append("a")),
            Side("b", lambda: calls.append("b"), part=0.25, rounds=1),
        ],
        rounds=2,
    )
    assert "".join(calls) == "ab" + "ab" + "a"
    assert found["a"].seconds == (3.0, 3.0)
    assert found["b"].seconds == (12.0,)


@pytest.mark.parametrize("text", ["wide=3", "width=-1", "width=x", "width=30,heads=4"])
def test_a_shape_that_is_not_understood_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--shape"):
        Shape.parse(text)


def test_scoring_writes_every_way_with_its_difference(tmp_path: Path) -> None:
    file = tmp_path / "scoring.json"
    words = ("--rounds", "2", "--length", "40", "--rows", "2", "--ragged", "--json", str(file))
    shown = run("scoring", "--shape", SMALL, *words)
    assert "arithmetic asks for" in shown
    (table,) = json.loads(file.read_text())["tables"]
    assert len(table["timings"]["OPD"]["seconds"]) == 2
    assert len(table["differences"]) == 4
    assert max(table["differences"].values()) < 2e-5


def test_a_shared_prompt_is_raced_against_none_shared(tmp_path: Path) -> None:
    file = tmp_path / "scoring.json"
    words = ("--rounds", "1", "--length", "8", "--prompt", "40", "--rows", "4", "--shared-prompt")
    run("scoring", "--shape", SMALL, "--ways", "", *words, "--json", str(file))
    (table,) = json.loads(file.read_text())["tables"]
    assert "OPD, no prompt shared" in table["timings"]


def test_chunks_of_the_vocabulary_need_a_fraction_of_the_memory(tmp_path: Path) -> None:
    file = tmp_path / "head.json"
    shape = "width=32,layers=1,heads=2,kv=1,intermediate=32,vocabulary=60000"
    run("head", "--shape", shape, "--tokens", "400", "--rounds", "1", "--json", str(file))
    memory = json.loads(file.read_text())["memory"]
    for part in ("scoring", "loss"):
        assert memory[f"{part} {WHOLE}"] > 0.9 * 400 * 60000 * 4
        assert memory[f"{part} {CHUNKS}"] < 0.25 * memory[f"{part} {WHOLE}"]


def test_memory_is_linear_in_length_and_is_what_is_planned(tmp_path: Path) -> None:
    file = tmp_path / "memory.json"
    shape = "width=512,layers=2,heads=4,kv=4,intermediate=512,vocabulary=200"
    # With the prompt's one token, rows of two, three and four whole pieces.
    words = ("--length", "2047", "--length", "3071", "--length", "4095", "--active", "0.05")
    run("memory", "--shape", shape, *words, "--top-k", "4", "--json", str(file))
    found = json.loads(file.read_text())
    for name in ("OPD", "LGR"):
        for first, middle, last in (found["measured"][name], found["predicted"][name]):
            assert middle == pytest.approx((first + last) / 2, rel=0.05)
        for measured, planned in zip(
            found["measured"][name], found["predicted"][name], strict=True
        ):
            assert planned == pytest.approx(measured, rel=0.1)
        measured, planned = found["slopes"][name]
        assert planned == pytest.approx(measured, rel=0.25)
    for opd, lgr in zip(*(found["measured"][name] for name in ("OPD", "LGR")), strict=True):
        assert lgr < 1.2 * opd


def test_rollouts_of_both_kinds_are_raced(tmp_path: Path) -> None:
    file = tmp_path / "rollout.json"
    words = ("--rows", "3", "--new-tokens", "12", "--rounds", "1", "--json", str(file))
    run("rollout", "--shape", SMALL, *words)
    equal, unequal = json.loads(file.read_text())["tables"]
    assert equal["lengths"] == [12, 12, 12]
    assert len(unequal["timings"]) == 3


STEPS = ("step", "quickstart", "training.prompts_per_step=4", "rollout.max_new_tokens=24")


def test_the_parts_of_a_step_add_up_to_it(tmp_path: Path) -> None:
    file = tmp_path / "step.json"
    traces = tmp_path / "traces"
    output = f"output={tmp_path / 'out'}"
    words = ("--steps", "2", "--rounds", "2", "--profile", str(traces), "--json", str(file))
    run(*STEPS, output, "--no-evaluation", *words)
    found = json.loads(file.read_text())
    for operators in found["operators"].values():
        assert sum(one["share"] for one in operators.values()) == pytest.approx(1)
        assert operators["aten::mm"]["calls"] > 0
    for name in ("opd", "lgr"):
        assert json.loads((traces / f"{name}.json").read_text())["traceEvents"]
    runs = found["runs"]
    assert set(runs) == {"opd", "lgr"}
    for one in runs.values():
        assert len(one["steps"]["seconds"]) == 4
        assert sum(one["parts"].values()) == pytest.approx(one["steps"]["median"], rel=0.5)
        assert all(
            one["parts"][name] > 0 for name in ("logging", "checkpoints", "tables of samples")
        )
    assert runs["lgr"]["parts"]["teacher: leaves"] > runs["opd"]["parts"]["teacher: leaves"]
    # Training alone was measured, so that is the whole.
    steps = sum(one["steps"]["median"] for one in runs.values())
    assert found["seconds"]["experiment"] == pytest.approx(400 * steps, rel=1e-6)
    assert not list((tmp_path / "out").iterdir()), "what was written for the measurement is gone"


def test_the_whole_experiment_is_told_with_its_evaluations_and_its_sweep(tmp_path: Path) -> None:
    file = tmp_path / "step.json"
    few = ("evaluation.benchmarks=[{type: routes, limit: 4}]", "evaluation.samples=3")
    settings = (*few, "evaluation.batch_rows=5", "evaluation.every=100", f"output={tmp_path}")
    space = "{training.learning_rate: {type: float, low: 1e-4, high: 1e-2}}"
    sweep = f"sweep={{trials: 7, seeds: [0, 1], space: {space}}}"
    words = ("--steps", "1", "--rounds", "2", "--json", str(file))
    text = run(*STEPS, *settings, "runs=[]", sweep, *words)
    found = json.loads(file.read_text())
    (one,) = found["runs"].values()
    parts = one["parts"]
    # 400 steps, evaluated at 100, 200 and 300 on the way, at the end, and before as student and teacher.
    evaluation = parts["evaluations"] * 400 / 3
    assert evaluation > 0
    training = 400 * (one["steps"]["median"] - parts["evaluations"])
    run_seconds = training + 4 * evaluation
    assert found["seconds"]["sweep"] == pytest.approx(7 * 2 * run_seconds, rel=1e-6)
    assert found["seconds"]["experiment"] > run_seconds + evaluation
    assert "7 trials of 2 seeds" in text


def test_a_part_of_the_answers_stands_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_experiment(
        "quickstart",
        ["evaluation.benchmarks=[{type: routes, limit: 40}]", "evaluation.batch_rows=100"],
    )
    pair = load_pair(config)
    drawn: list[int] = []

    def draw(kept: object, subject: object, settings: object, wanted: list[object]) -> None:
        drawn.append(len(wanted))

    monkeypatch.setattr(whole, "draw_missing", draw)
    monkeypatch.setattr(whole, "perf_counter", iter([3.0, 3.2]).__next__)
    assert whole.evaluation_seconds(pair, "student", config) == pytest.approx(0.8)
    # 320 answers in batches of 100: every fourth is drawn.
    assert drawn == [80]


def test_times_are_told_in_two_units() -> None:
    known = {
        0.04: "0.0 s",
        59.94: "59.9 s",
        59.96: "1 min 0 s",
        3599.6: "1 h 0 min",
        90_000: "1 d 1 h",
    }
    assert {seconds: duration(seconds) for seconds in known} == known


def test_an_unknown_way_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="fastest"):
        run("scoring", "--ways", "fastest")


def test_a_machine_without_cuda_says_so() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(ConfigError, match="no CUDA device"):
        run("scoring", "--device", "cuda")


def test_bench_statistics_prints_the_grid_and_writes_every_world(tmp_path: Path) -> None:
    out = tmp_path / "grid.json"
    words = ("--studies", "100", "--problems", "5", "--samples", "2", "--json", str(out))
    text = run("statistics", *words)
    kinds = {one["kind"] for one in json.loads(out.read_text())["worlds"]}
    assert {"mean@k", "pass@k/2", "difference", "mean over benchmarks", "over seeds"} < kinds
    assert all(kind in text for kind in kinds)


def test_bench_start_times_processes_of_their_own_and_tells_one_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "start.json"
    monkeypatch.setattr(start, "COMMANDS", (("--version",),))
    assert "opdlab --version" in run("start", "--repeats", "2", "--json", str(out))
    (found,) = json.loads(out.read_text())["commands"]
    assert len(found["seconds"]) == 2
    assert all(time > 0 for time in found["processor_seconds"])
    monkeypatch.setattr(start, "COMMANDS", (("validate", "nowhere"),))
    with pytest.raises(ConfigError, match=r"`.*opdlab validate nowhere` failed: .*no such file"):
        run("start", "--repeats", "1")


def test_the_comparison_with_trl_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_trl, "find_spec", lambda _: None)
    with pytest.raises(SystemExit, match=r"needs TRL: pip install -e '\.\[compare\]'"):
        peer_trl.main("embedded")
