"""Training on files in the form of public sets: graded answers, lengths, and overlap with benchmarks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tiny_chat
import torch

from opdlab.configuration.config import Experiment
from opdlab.configuration.loader import load_experiment
from opdlab.doctor import models as doctor_models
from opdlab.errors import ConfigError, DataError, ModelError
from opdlab.modelling.wording import Wording
from opdlab.plugins.evaluator import Evaluator
from opdlab.pretraining.characters import character_tokenizer
from opdlab.prompts.drawn import open_dataset, open_prompts
from opdlab.prompts.overlap import Overlap, words_of
from opdlab.prompts.shown import overlap_of, show_prompts
from opdlab.records import Problem, Rollout, Verdict
from opdlab.training.grading import outcomes
from opdlab.training.pair import load_module, load_pair, require_prompts

POSITIONS = 128


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_chat.save(tmp_path_factory.mktemp("model"), POSITIONS)


def experiment(model: str, path: Path, **prompts: Any) -> Experiment:
    return Experiment.model_validate(
        {
            "name": "mine",
            "student": {"path": model},
            "teacher": {"path": model},
            "prompts": {"type": "dataset", "path": str(path), **prompts},
            "rollout": {"type": "cached", "max_new_tokens": 6, "group_size": 2},
            "method": {"type": "grpo" if "grader" in prompts else "opd"},
            "training": {"steps": 2, "prompts_per_step": 2, "accelerator": "cpu", "threads": 1},
        }
    )


def lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


RL = [
    {
        "prompt": [{"role": "user", "content": f"{n}+1?"}],
        "reward_model": {"ground_truth": str(n + 1)},
        "tests": [f"assert f() == {n}"],
    }
    for n in range(4)
]


@pytest.mark.parametrize(
    "options",
    [
        {"answer_column": "reward_model.ground_truth", "grader": "math"},
        {"answer_column": "tests", "grader": {"type": "code", "cpu_limit_s": 5.0}},
    ],
    ids=["math", "code"],
)
def test_grpo_trains_on_a_file_of_rl_data(
    tmp_path: Path, model: str, options: dict[str, Any]
) -> None:
    config = experiment(model, lines(tmp_path / "a.jsonl", RL), **options)
    pair = load_pair(config)
    require_prompts(config, pair)
    module = load_module(pair, config)
    tiny_chat.fit(module)
    assert module.metrics["accuracy"] == (0.0, 4.0)


def rollout_of(tokenizer: Any, prompt: tuple[int, ...], answer: str) -> Rollout:
    ids = tokenizer(answer, add_special_tokens=False)["input_ids"]
    count = torch.tensor([len(ids)])
    nothing = torch.zeros(len(ids))
    return Rollout(
        tokens=torch.tensor([[*prompt, *ids]]),
        prompt_lengths=torch.tensor([len(prompt)]),
        response_lengths=count,
        ended=torch.tensor([False]),
        log_prob=nothing,
        entropy=nothing,
        candidates=torch.zeros(len(ids), 0, dtype=torch.long),
        seeds=torch.tensor([1]),
        eos_ids=(1,),
    )


def test_a_grader_sees_the_start_of_the_answer_that_every_answer_begins_with(
    tmp_path: Path, model: str
) -> None:
    options = {"answer_column": "reward_model.ground_truth", "grader": "math"}
    path = lines(tmp_path / "a.jsonl", RL[:1])
    config = experiment(model, path, prefill="\\boxed{", **options)
    tokenizer = load_pair(config).tokenizer
    source = open_prompts(config.prompts, tokenizer, 0)
    prompt = source.prompt(0)
    for answer, right in (("1}", 1.0), ("2}", 0.0)):
        rollout = rollout_of(tokenizer, prompt.tokens, answer)
        assert outcomes(rollout, [prompt.problem], source, tokenizer).tolist() == [right]


def test_a_prompt_that_leaves_an_answer_no_room_is_refused_at_load_by_its_row(
    tmp_path: Path, model: str
) -> None:
    rows = [{"prompt": "a"}, {"prompt": "b" * (POSITIONS - 24)}]
    path = lines(tmp_path / "a.jsonl", rows)
    config = experiment(model, path)
    pair = load_pair(config)
    around = len(open_prompts(config.prompts, pair.tokenizer, 0).prompt(0).tokens)
    with pytest.raises(
        ModelError, match=rf"prompt 2 of dataset has .* student has {POSITIONS} pos"
    ):
        require_prompts(config, pair)
    assert around
    most = POSITIONS - 6
    require_prompts(experiment(model, path, max_prompt_tokens=most, too_long="drop"), pair)


def test_a_method_that_needs_grades_refuses_data_without_answers() -> None:
    with pytest.raises(ConfigError, match="the method needs graded answers"):
        load_experiment(
            "quickstart",
            ["prompts={type: dataset, path: a.jsonl}", "method={type: grpo}", "runs=[]"],
        )


@dataclass(frozen=True)
class Measured(Evaluator):
    """A benchmark of a few texts."""

    texts: tuple[str, ...]
    benchmark = "mine"
    grader_version = "1"

    def problems(self) -> list[Problem]:
        return [Problem("mine", str(n), text, "4") for n, text in enumerate(self.texts)]

    def grade(self, problem: Problem, completion: str) -> Verdict:
        return Verdict("correct" if completion == problem.gold else "wrong", completion)


SEEN = "Alice has seven red apples and gives three of them to her brother Bob before lunch"


def test_prompts_that_hold_a_measured_problem_are_found_and_left_out(
    tmp_path: Path, model: str
) -> None:
    others = [
        f"Number {n} asks what is asked nowhere else, so that no words are shared" for n in "abc"
    ]
    measured = [f"Answer briefly.\n\n{text}" for text in (SEEN, *others)]
    mine = [
        {"prompt": "Say: " + SEEN.upper().replace(" ", "\n") + "?"},
        {"prompt": "Answer briefly. Yes"},
    ]
    path = lines(tmp_path / "a.jsonl", mine)
    benchmarks = [Measured(tuple(measured))]
    config = experiment(model, path)
    evaluation = config.evaluation.model_copy(update={"benchmarks": benchmarks})
    config = config.model_copy(update={"evaluation": evaluation})
    tokenizer = load_pair(config).tokenizer
    assert config.prompts.type == "dataset"
    source = open_dataset(config.prompts, tokenizer, 0).source
    assert "1 of 2 prompts share" in overlap_of(source, benchmarks)
    assert "row 1 with problem 0 of mine" in overlap_of(source, benchmarks)
    (line,) = doctor_models.rows_are_sound(config, tokenizer)
    assert (line.status, "decontaminate" in line.remedy) == ("FAIL", True)
    clean = config.prompts.model_copy(update={"decontaminate": True})
    opened = open_dataset(clean, tokenizer, 0, benchmarks)
    assert opened.source.texts == ["Answer briefly. Yes"]
    assert opened.losses[0].count == 1
    assert not Overlap(benchmarks).of(" ".join(words_of(SEEN)[:12]))


WORDING = "Please reason step by step, and put your final answer within \\boxed{}."


@pytest.mark.parametrize("count", [2, 60])
def test_wording_that_prompts_and_problems_share_is_no_overlap(count: int) -> None:
    asked = [f"Alpha{n} beta{n} gamma{n} delta{n}, how many kind{n}" for n in range(count)]
    overlap = Overlap([Measured(tuple(f"{text}\n{WORDING}" for text in asked))])
    others = [f"Something{n} of another kind, namely of so many kind{n}" for n in range(9)]
    assert not [*overlap.among(f"{text} {WORDING}" for text in others)]
    for around in ("", f"\n{WORDING}", "\nThink first."):
        assert len([*overlap.among(text + around for text in asked)]) == count
    tale = " ".join(f"word{n}" for n in range(20))
    assert Overlap([Measured((f"{tale} {WORDING}", f"x {WORDING}"))]).of(f"{tale}! Answer: ")


def test_words_of_languages_without_blanks_are_their_characters() -> None:
    assert words_of("Ab, c-d 日本 x²") == ["ab", "c", "d", "日", "本", "x²"]


def test_opdlab_prompts_shows_what_the_model_reads_and_fails_where_training_would(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = lines(tmp_path / "a.jsonl", [{"prompt": "hi"}, {"prompt": "hi "}, {"prompt": None}])
    config = experiment(model, path, system="be good")
    (tmp_path / "e.yaml").write_text(json.dumps(config.model_dump(mode="json")))
    assert not show_prompts(str(tmp_path / "e.yaml"), [], 1)
    said = " ".join(capsys.readouterr().out.split())
    for part in (
        "<bos>[system]be good [user]hi",
        "1 refused empty: no text in column 'prompt' row 3",
        "1 kept: duplicate",
        "lengths of 2 of 2 prompts",
    ):
        assert part in said
    assert show_prompts(str(tmp_path / "e.yaml"), ["prompts.drop=[empty]"], 0)


def test_what_is_put_around_a_prompt_is_part_of_how_a_run_is_measured(
    tmp_path: Path, model: str
) -> None:
    path = tmp_path / "a.jsonl"
    found = {
        str(experiment(model, path, **more).measured_by()["prompts.template"])
        for more in ({}, {"system": "s"}, {"prefill": "p"}, {"template_options": {"x": 1}})
    }
    assert len(found) == 4
    assert Wording("none").prefill == ""


def test_no_file_is_a_clear_error(tmp_path: Path, model: str) -> None:
    config = experiment(model, tmp_path / "none.jsonl")
    with pytest.raises(DataError, match=r"there is no file .*none.jsonl"):
        open_prompts(config.prompts, character_tokenizer("abc", 16), 0)
