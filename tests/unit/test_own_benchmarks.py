"""Benchmarks of one's own, without a line of Python: rows, choices, graders, identity, resume."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_chat
import torch
from small_models import small_model

from opdlab.configuration.evaluation_settings import Evaluation
from opdlab.configuration.loader import load_experiment
from opdlab.doctor.data_check import check
from opdlab.errors import ConfigError, DataError, ModelError, OpdlabError
from opdlab.evaluation import store
from opdlab.evaluation.measured import evaluate
from opdlab.evaluation.regrading import evaluator_of, regrade_set
from opdlab.evaluation.subjects import Measured, Subject
from opdlab.identity.measurement import Owner
from opdlab.modelling.models import load_model, load_tokenizer
from opdlab.plugins.evaluator import Evaluator
from opdlab.prompts.encoding import messages_of
from opdlab.records import Problem
from opdlab.sampling.rollout import CachedEngine
from opdlab.testing import EvaluatorContract
from opdlab_evaluators.benchmarks import dataset
from opdlab_evaluators.benchmarks.choices import likeliest

ROWS = [{"q": f"{n}+{n}?", "a": {"value": 2 * n}, "level": n} for n in range(6)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_chat.save(tmp_path_factory.mktemp("model"), 256, template=None)


def lines(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def benchmark(path: str, **options: Any) -> Evaluator:
    """As an experiment file would have it."""
    given = {"name": "mine", "column": "q", "answer_column": "a.value", "grader": "numeric"}
    chosen = {k: v for k, v in {**given, "path": path, **options}.items() if v is not None}
    (made,) = Evaluation.model_validate({"benchmarks": [{"type": "dataset", **chosen}]}).benchmarks
    return made


class TestContract(EvaluatorContract):
    """What every evaluator promises."""

    @pytest.fixture(autouse=True)
    def file(self, tmp_path: Path) -> None:
        self.path = lines(tmp_path / "a.jsonl", [{**row, "q": f"{row['q']} !"} for row in ROWS])

    def make(self) -> Evaluator:
        return benchmark(self.path, grader="exact")


def test_rows_become_problems_with_system_wrap_conditions_and_a_limit(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", ROWS)
    made = benchmark(
        path, system="be brief", wrap="Q{level}: {prompt}", where="level >= 2", limit=3
    )
    problems = made.problems()
    assert [p.prompt for p in problems] == ["Q2: 2+2?", "Q3: 3+3?", "Q4: 4+4?"]
    assert [p.gold for p in problems] == ["4", "6", "8"]
    assert {p.benchmark for p in problems} == {"mine/first-3"}
    # Its own system prompt stays, whatever the experiment's is.
    assert messages_of(problems[0], "be long")[0] == {"role": "system", "content": "be brief"}
    assert made.grade(problems[0], "It is 4").status == "correct"


def test_every_option_that_changes_what_is_asked_changes_the_data_and_no_order_of_rows_does(
    tmp_path: Path,
) -> None:
    path = lines(tmp_path / "a.jsonl", ROWS)
    variants: list[dict[str, Any]] = [{}, {"system": "s"}, {"wrap": "{prompt}!"}, {"limit": 2}]
    hashes = [store.data_hash(benchmark(path, **more).problems()) for more in variants]
    assert len(set(hashes)) == len(variants)
    turned = lines(tmp_path / "b.jsonl", ROWS[::-1])
    assert store.data_hash(benchmark(turned).problems()) == hashes[0]


@pytest.mark.parametrize(
    ("rows", "options", "said"),
    [
        ([*ROWS, {"q": "?", "a": {"value": "x"}}], {}, r"row 7\) have no answer that can be graded"),
        ([*ROWS, {"q": "", "a": {"value": 1}}], {}, r"row 7\) have no text.*drop: \[empty\]"),
        ([*ROWS, ROWS[1]], {}, "holds a problem twice.* row 2 and row 7.*duplicate"),
        (ROWS, {"column": "question"}, r"benchmarks\[mine\]: .*no column 'question'; it has q, a.value"),
        (ROWS, {"where": "level > 9"}, "no rows that are kept"),
        (ROWS, {"where": "levl > 9"}, r"benchmarks\[mine\].where: .* no column 'levl'"),
    ],
    ids=range(6),
)  # fmt: skip
def test_rows_that_cannot_be_used_stop_it_before_anything_is_sampled(
    tmp_path: Path, rows: list[Any], options: dict[str, Any], said: str
) -> None:
    path = lines(tmp_path / "a.jsonl", rows)
    with pytest.raises(DataError, match=said):
        benchmark(path, **options).problems()
    if not options:
        kept = benchmark(path, drop=["empty", "broken", "duplicate"]).problems()
        assert len(kept) == len(ROWS)


@pytest.mark.parametrize(
    ("benchmark", "said"),
    [
        ("type: dataset, path: a.csv, answer_column: a, grader: math", r"missing key .*\.name"),
        ("type: dataset, name: x, path: a.csv, answer_column: a", "grader.* missing; choose one"),
        ("type: dataset, name: x, path: a.csv, answer_column: a, grader: maths", "Did you mean math"),
        ("type: dataset, name: gsm8k, path: a.csv, answer_column: a, grader: math", "installed bench"),
        ("type: dataset, name: a b, path: a.csv, answer_column: a, grader: math", "must match"),
        ("type: dataset, name: x, path: a.csv, answer_column: a, grader: math, wrap: '{'", "wrap"),
        ("type: dataset, name: x, path: a.csv, answer_column: a, grader: math, where: 'a >'", "where"),
        ("type: dataset, name: x, path: a.csv, answer_column: a, grader: math, labels: b", "labels"),
        ("type: dataset, name: x, path: a.csv, answer_column: a, grader: math, spilt: b", "split"),
        ("type: dataset, name: x, path: a.csv, answer_column: a, grader: math, choices: [b], "
         "choose: likelihood", "the model writes no answer"),
    ],
    ids=range(10),
)  # fmt: skip
def test_settings_that_mean_nothing_are_refused_by_line_and_key(
    tmp_path: Path, benchmark: str, said: str
) -> None:
    path = tmp_path / "e.yaml"
    path.write_text(f"{HEAD}evaluation:\n  benchmarks:\n  - {{{benchmark}}}\n")
    with pytest.raises(ConfigError, match=rf"e.yaml:\d+: .*{said}"):
        load_experiment(path)


HEAD = """name: mine
student: {path: "embedded:student"}
teacher: {path: "embedded:teacher"}
prompts: {type: problems, sources: [{type: math}]}
rollout: {type: cached}
method: {type: opd}
training: {steps: 2}
"""


def test_a_file_lies_beside_the_experiment_and_is_checked_by_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines(tmp_path / "a.jsonl", ROWS)
    mine = "{type: dataset, name: sums, path: a.jsonl, column: q, answer_column: a.value, grader: exact}"
    path = tmp_path / "e.yaml"
    path.write_text(f"{HEAD}evaluation:\n  benchmarks:\n  - {mine}\n")
    (made,) = load_experiment(path).evaluation.benchmarks
    assert len(made.problems()) == len(ROWS)
    check([str(path)], None, grade=True)
    assert "sums" in capsys.readouterr().out
    with pytest.raises(DataError, match=r"\[mine\].configuration is for a data set on the hub"):
        benchmark(made.path, configuration="main").problems()  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ConfigError, match="dataset needs the options name, path, answer_column"):
        check(["dataset"], None)


def subject(model: str) -> Subject:
    tokenizer = load_tokenizer(model)
    return Subject(
        model=load_model(model),
        tokenizer=tokenizer,
        engine=CachedEngine(max_new_tokens=4),
        eos_ids=(int(tokenizer.eos_token_id),),  # pyright: ignore[reportArgumentType]
        pad_id=int(tokenizer.pad_token_id),  # pyright: ignore[reportArgumentType]
        template="none",
    )


def test_it_is_stored_resumed_and_graded_again_like_any_other(tmp_path: Path, model: str) -> None:
    made = benchmark(lines(tmp_path / "a.jsonl", ROWS))
    settings = Evaluation(benchmarks=[made], samples=2)

    class Enough(OpdlabError):
        pass

    def stop(count: int) -> None:
        raise Enough

    with pytest.raises(Enough):
        evaluate(subject(model), settings, Owner("m"), tmp_path / "s", stop)
    counts: Counter[str] = Counter()

    def finished(count: int) -> None:
        counts["finished"] += count

    samples = evaluate(subject(model), settings, Owner("m"), tmp_path / "s", finished)
    assert len(samples) == 12 == counts["finished"]
    (kept,) = store.sample_sets(tmp_path / "s")
    assert evaluator_of(kept) == made
    found = regrade_set(
        kept, benchmark(str(tmp_path / "a.jsonl"), grader={"type": "numeric", "relative": 1.0})
    )
    assert found.total == 12
    # The file is another one: what was drawn for the old problems is not taken for the new ones.
    lines(tmp_path / "a.jsonl", ROWS[:5])
    dataset._problems.cache_clear()
    with pytest.raises(DataError, match="no longer those"):
        evaluator_of(kept)


def test_a_prompt_beyond_the_models_positions_is_refused_before_anything_is_sampled(
    tmp_path: Path, model: str
) -> None:
    path = lines(tmp_path / "a.jsonl", [*ROWS, {"q": "7" * 300, "a": {"value": 1}, "level": 9}])
    settings = Evaluation(benchmarks=[benchmark(path)], samples=1)
    with pytest.raises(ModelError, match=r"problem \S+ of mine has 30\d tokens, .* 256 positions"):
        evaluate(subject(model), settings, Owner("m"), tmp_path / "s")
    learned = replace(subject(model), model=small_model("gpt2", n_positions=36))
    settings = Evaluation(
        benchmarks=[benchmark(lines(tmp_path / "a.jsonl", ROWS))], max_new_tokens=40
    )
    with pytest.raises(
        ModelError, match=r"its answer may have 40, .* 36 positions: .*more context"
    ):
        evaluate(learned, settings, Owner("m"), tmp_path / "s")
    assert not (tmp_path / "s").exists()


CHOICES = [
    {"q": f"{n}+1?", "options": [str(n + k) for k in range(4)], "a": "B", "row": n}
    for n in range(12)
]


def choice(path: str, **options: Any) -> Evaluator:
    more = {"answer_column": "a", "choices": ["options"], "grader": None, **options}
    return benchmark(path, **more)


def test_choices_are_shuffled_by_seed_and_the_letter_goes_with_them(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", CHOICES)
    with pytest.raises(DataError, match=r"in all 12 problems the right choice is B.*shuffle_seed"):
        choice(path).problems()
    first, again, other = (choice(path, shuffle_seed=seed).problems() for seed in (1, 1, 2))
    assert first == again
    assert [p.gold for p in first] != [p.gold for p in other]
    assert len({p.gold for p in first}) > 2
    for number, problem in enumerate(first):
        assert f"\n{problem.gold}. {number + 1}\n" in problem.prompt + "\n"
        assert "one of ABCD." in problem.prompt
    made = choice(path, shuffle_seed=1)
    assert made.grade(first[0], f"Answer: {first[0].gold}").status == "correct"
    turned = lines(tmp_path / "b.jsonl", CHOICES[::-1])
    assert {p.id for p in choice(turned, shuffle_seed=1).problems()} == {p.id for p in first}


@pytest.mark.parametrize(
    ("row", "options", "right"),
    [
        ({"c": ["x", "y", "z"], "a": 2}, {}, "C"),
        ({"c": ["x", "y", "z"], "a": "y"}, {}, "B"),
        ({"c": ["x", "y", "z"], "a": "(b)"}, {}, "B"),
        ({"c": '["x", "y"]', "a": "0"}, {}, "A"),
        ({"c": [3, 1, 2], "a": 1, "b": 0}, {"answer_is": "text"}, "B"),
        ({"c": [3, 1, 2], "a": 1, "b": 0}, {"answer_is": "index"}, "B"),
        ({"c": {"text": ["x", "y"], "label": ["1", "2"]}, "a": "2"},
         {"choices": ["c.text"], "labels": "c.label"}, "B"),
        ({"a": "yes", "b": "no"}, {"choices": ["b", "a"]}, "B"),
        ({"c": [1.5, 2.5], "a": 1.5}, {}, "A"),
        ({"c": [True, False], "a": False}, {}, "B"),
        ({"c": ["x", "y"], "a": 1.0}, {}, "B"),
        ({"c": ["x", "y"], "a": ["B"]}, {}, "B"),
        ({"c": ['{"a": 1}', "y"], "a": '{"a": 1}'}, {}, "A"),
        ({"c": {"A": "x", "B": "y", "E": None}, "a": "B"}, {}, "B"),
        ({"c": json.dumps({"1": "x", "2": "y"}), "a": 1}, {}, "A"),
        ({"c": [{"label": "1", "text": "x"}, {"label": "2", "text": "y"}], "a": "2"}, {}, "B"),
        ({"c": {"A": "x", "B": "y"}, "a": "y"}, {}, "B"),
        ({"c": {"A": "B", "B": "A"}, "a": "A"}, {"answer_is": "letter"}, "A"),
    ],
    ids=range(18),
)  # fmt: skip
def test_the_right_choice_is_named_by_letter_number_text_label_or_column(
    tmp_path: Path, row: dict[str, Any], options: dict[str, Any], right: str
) -> None:
    path = lines(tmp_path / "a.jsonl", [{"q": "?", **row}])
    (problem,) = choice(path, **{"choices": ["c"], **options}).problems()
    assert problem.gold == right


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            {"c": ["B", "A", "O"], "a": "A"},
            "text of one choice and names another .`answer_is` decides",
        ),
        ({"c": ["x", "y"], "a": "z"}, "none of the choices"),
        ({"c": ["x", "y"], "a": None}, "no answer in column 'a'"),
        ({"c": ["x", "x"], "a": "A"}, "a right choice that is there twice"),
        ({"c": ["x", " "], "a": "A"}, "an empty choice"),
        ({"c": ["x"], "a": "A"}, "1 choices"),
        (
            {"c": {"text": ["x", "y"]}, "a": "A"},
            "no list of choices in column 'c', but text; name one",
        ),
        ({"c": "x", "a": "A"}, "no list of choices"),
        ({"c": {"A": "B", "B": "A"}, "a": "A"}, "text of one choice and names another"),
        ({"c": [{"key": 1}, {"key": 2}], "a": "A"}, "neither a text nor a number"),
        ({"c": ["x", "y"], "a": True}, "none of the choices"),
    ],
    ids=range(11),
)
def test_choices_that_cannot_be_graded_are_named(
    tmp_path: Path, row: dict[str, Any], said: str
) -> None:
    path = lines(tmp_path / "a.jsonl", [{"q": "?", **row}])
    with pytest.raises(DataError, match=said):
        choice(path, choices=["c"]).problems()


def test_numbers_with_all_their_digits_are_choices(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"q": "?", "c": [0.1000000000000000055, 2], "a": 0.1000000000000000055}\n')
    (problem,) = choice(str(path), choices=["c"]).problems()
    assert problem.gold == "A"
    assert "A. 0.1000000000000000055\n" in problem.prompt


def slowly(model: str, prompt: str, text: str) -> float:
    """Log-probability of a text after a prompt, token by token, each by a forward of its own."""
    loaded, tokenizer = load_model(model), load_tokenizer(model)
    ids: list[int] = list(tokenizer(prompt)["input_ids"])  # pyright: ignore[reportArgumentType]
    total = 0.0
    for token in tokenizer(text, add_special_tokens=False)["input_ids"]:  # pyright: ignore[reportGeneralTypeIssues]
        with torch.no_grad():
            logits = loaded(input_ids=torch.tensor([ids])).logits[0, -1].double()
        total += float(logits.log_softmax(-1)[token])
        ids.append(int(token))
    return total


def test_the_likeliest_choice_is_that_of_plain_forwards_and_may_be_counted_per_byte(
    tmp_path: Path, model: str
) -> None:
    rows = [
        {"q": "A b?", "c": ["yes", "a very long answer", "no"], "a": "yes"},
        {"q": "Cd e?", "c": ["short", "x", "something else"], "a": "something else"},
    ]
    path = lines(tmp_path / "a.jsonl", rows)
    verdicts: dict[str, list[str]] = {}
    for choose in ("likelihood", "likelihood_per_byte"):
        made = choice(path, choices=["c"], choose=choose)
        settings = Evaluation(benchmarks=[made], samples=2)
        samples = evaluate(subject(model), settings, Owner("m"), tmp_path / choose)
        assert len(samples) == 4
        for sample in samples:
            row = next(row for row in rows if row["q"] in sample.prompt)
            values = [slowly(model, sample.prompt, f" {text}") for text in row["c"]]
            told = [line.split("\t") for line in sample.completion.splitlines()]
            assert [text for _, text in told] == row["c"]
            for (number, _), value in zip(told, values, strict=True):
                assert math.isclose(float(number), value, abs_tol=1e-3)
            sizes = [len(text) if choose == "likelihood_per_byte" else 1 for text in row["c"]]
            best = max(range(3), key=lambda n, v=values, s=sizes: v[n] / s[n])
            assert sample.answer == row["c"][best]
            assert (sample.status == "correct") == (row["a"] == row["c"][best])
            verdicts.setdefault(choose, []).append(str(sample.answer))
    assert verdicts["likelihood"] != verdicts["likelihood_per_byte"]


def test_a_server_that_tells_no_probabilities_is_refused_before_anything_is_sampled(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Elsewhere(Measured):
        identity: Callable[..., Any] = lambda self: None
        software: Callable[..., Any] = lambda self: {}
        answer: Callable[..., Any] = lambda self, *given: None

    here = subject(model)
    away = Elsewhere(
        tokenizer=here.tokenizer, engine=here.engine, eos_ids=(2,), pad_id=0, template="none"
    )
    made = choice(lines(tmp_path / "a.jsonl", CHOICES), shuffle_seed=0, choose="likelihood")
    with pytest.raises(OpdlabError, match="without a server"):
        evaluate(away, Evaluation(benchmarks=[made]), Owner("m"), tmp_path / "s")


@pytest.mark.parametrize("said", ["nan\tx\n-1\ty", "-inf\tx\n-inf\ty"])
def test_log_probabilities_that_order_nothing_are_a_fault_and_no_answer(said: str) -> None:
    problem = Problem("mine", "1", "?", {"choices": ["x", "y"], "right": 0}, {})
    assert likeliest(problem, said, per_byte=False).status == "grader_error"
    assert likeliest(problem, "-1\tx\n-inf\ty", per_byte=False).status == "correct"
