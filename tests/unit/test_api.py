"""What a program calls: values that hold what the commands print, and pieces for a trainer of one's own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import lightning as L
import pytest
import torch
from datasets import Dataset
from lightning.pytorch.loggers import CSVLogger
from small_models import small_model

import opdlab
from opdlab.diagnosis.sources import what_to_look_at
from opdlab.errors import ConfigError, DataError, ModelError
from opdlab.modelling import models
from opdlab.training import Trained
from opdlab_dashboards.results import watched
from opdlab_evaluators.embedded.arithmetic import Arithmetic

SMALL = (
    "training.steps=2",
    "evaluation.benchmarks=[{type: math, level: short, limit: 3}]",
    "evaluation.samples=2",
)
PROMPTS, ANSWERS = [[1, 5, 9], [1, 7]], [[3, 4, 8, 2], [6]]


def test_importing_the_package_imports_nothing_heavy():
    heavy = "{'torch', 'transformers', 'pydantic', 'typer', 'numpy', 'rich'}"
    code = f"import sys, opdlab; dir(opdlab); assert not {heavy} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_all_that_the_package_shows_is_there_and_says_what_it_is():
    for name in opdlab.__all__:
        assert getattr(opdlab, name).__doc__


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("api")
    return opdlab.train(opdlab.load("quickstart", *SMALL, f"output={folder}"))


def test_a_training_returns_its_runs(trained):
    assert list(trained) == ["opd", "lgr"]
    assert trained.references == ("student", "teacher")
    run = trained["lgr"]
    steps = run.to_dataframe()
    assert list(steps["step"]) == [1, 2]
    assert steps["loss"].notna().all()
    assert models.load_model(str(run.model)).num_parameters() > 0
    assert len(run.samples) == 6
    told = watched(run.folder)
    assert (told.phase, told.step, told.steps) == ("ended", 2, 2)
    assert told.live["sample"]["rewards"].keys() >= {"advantage", "reward"}
    assert told.live["memory"]["process"] > 2**20
    with pytest.raises(KeyError, match="there are opd, lgr"):
        trained["other"]
    assert Trained.of(trained.folder) == trained
    with pytest.raises(DataError, match="is not a folder of a training"):
        Trained.of(run.folder)


def test_runs_and_scores_stand_for_their_folders(trained):
    by_folder = opdlab.compare(trained["opd"].folder, trained["lgr"].folder)
    assert opdlab.compare(*trained.values()) == by_folder
    assert str(trained["opd"].folder) == os.fspath(trained["opd"].scores)
    with pytest.raises(DataError, match="DataFrame has no folder; give a run"):
        opdlab.compare(trained["opd"], trained.to_dataframe())
    with pytest.raises(DataError, match="holds no trained model: it is a reference"):
        trained["student"].model  # noqa: B018


def test_a_result_tells_what_it_is_in_a_line(trained):
    for one in (trained["opd"].scores, opdlab.compare(*trained.values()), trained):
        assert len(repr(one)) < 500


def test_what_is_no_experiment_is_refused():
    with pytest.raises(ConfigError, match="dict is not an experiment; give what `load` returned"):
        opdlab.train({"name": "x"})  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="load: dict is not a text"):
        opdlab.load("quickstart", {"training.steps": 3})  # pyright: ignore[reportArgumentType]
    with pytest.raises(
        ConfigError, match="this experiment is loaded; give the overrides to `load`"
    ):
        opdlab.diagnose(opdlab.load("quickstart"), "seed=3")


def test_a_diagnosis_takes_an_experiment_that_is_loaded():
    named, models_named = what_to_look_at("quickstart", ["seed=3"], [], None)
    given, models_given = what_to_look_at(opdlab.load("quickstart", "seed=3"), [], [], None)
    assert (named, models_named) == (given, models_given)


def test_scores_and_differences_are_those_that_the_experiment_wrote(trained):
    written = json.loads((trained.folder / "results.json").read_text())
    rows = json.loads(json.dumps(trained.rows()))
    assert [{k: v for k, v in row.items() if k != "run"} for row in rows] == written["scores"]
    found = opdlab.compare(trained["opd"].folder, trained["lgr"].folder)
    (row,) = json.loads(json.dumps(found.rows()))
    assert row["pair"] == "lgr - opd"
    wanted = next(one for one in written["differences"] if (one["a"], one["b"]) == ("opd", "lgr"))
    assert row["mean"]["value"] == wanted["mean"]["value"]  # the correction is of its own table
    assert found.to_dataframe()["mean.value"][0] == wanted["mean"]["value"]


def test_a_notebook_shows_what_the_terminal_shows(trained, capsys):
    found = opdlab.compare(trained["opd"].folder, trained["lgr"].folder)
    page = found._repr_html_()
    assert page.startswith("<pre")
    assert "math/short" in page
    assert "<script" not in page
    found.show()
    assert "math/short" in capsys.readouterr().out


def test_a_model_is_measured_on_benchmarks_that_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = {"benchmarks": [{"type": "math", "level": "short", "limit": 3}], "samples": 2}
    (benchmark,) = asked["benchmarks"]
    for one in (benchmark, Arithmetic(level="short", limit=3)):
        scores = opdlab.evaluate("embedded:teacher", benchmarks=one, samples=2, max_new_tokens=48)
    assert list(scores.to_dataframe()["benchmark"]) == ["math/short"]
    assert scores.folder.is_dir()
    with pytest.raises(ConfigError, match=r"say benchmarks=\[...\] and max_new_tokens"):
        opdlab.evaluate("embedded:teacher", **asked)
    with pytest.raises(DataError, match=r"LlamaForCausalLM has no folder.*save_pretrained"):
        opdlab.evaluate(small_model("llama"), **asked, max_new_tokens=48)  # pyright: ignore[reportArgumentType]


def test_a_plan_has_bytes_by_run():
    plan = opdlab.plan("quickstart")
    assert list(plan.memory) == ["opd", "lgr"]
    assert plan.to_dataframe()["most at a time"].gt(0).all()
    assert "Teacher cost" in plan.text.plain


def test_a_teacher_says_of_an_answer_what_whole_forwards_say():
    model = small_model("llama")
    candidates = [torch.tensor([[5, 6], [7, -1], [8, 9], [3, 4]]), torch.tensor([[2, 3]])]
    teacher = opdlab.Teacher(model)
    said = teacher.score(PROMPTS, ANSWERS, top_k=3)
    ahead = teacher.look_ahead(PROMPTS, ANSWERS, candidates)
    for prompt, answer, one, further, others in zip(
        PROMPTS, ANSWERS, said, ahead, candidates, strict=True
    ):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + answer])).logits[0]
        rows = logits.log_softmax(-1)[len(prompt) - 1 :]
        before, after = rows[:-1], rows[1:]
        torch.testing.assert_close(one.log_prob, before[range(len(answer)), answer])
        torch.testing.assert_close(one.entropy, -(before.exp() * before).sum(-1))
        torch.testing.assert_close(one.fidelity, after.exp().max(-1).values)
        top = before.topk(3)
        torch.testing.assert_close(one.top_log_prob, top.values)
        assert torch.equal(one.top_ids, top.indices)
        torch.testing.assert_close(further.log_prob, one.log_prob)
        for place, tokens in enumerate(others.tolist()):
            for column, token in enumerate(tokens):
                found = further.confidence[place, column]
                if token < 0:
                    assert found.isnan()
                    continue
                ids = torch.tensor([prompt + answer[:place] + [token]])
                with torch.no_grad():
                    wanted = model(ids).logits[0, -1].softmax(-1).max()
                torch.testing.assert_close(found, wanted)


def test_what_is_said_of_a_row_depends_on_that_row_alone():
    teacher = opdlab.Teacher(small_model("llama"))
    together = teacher.score(PROMPTS, ANSWERS, top_k=2)
    for prompt, answer, one in zip(PROMPTS, ANSWERS, together, strict=True):
        (alone,) = teacher.score([prompt], [answer], top_k=2)
        for name, value in vars(alone).items():
            torch.testing.assert_close(getattr(one, name), value, equal_nan=True)


def test_what_a_teacher_cannot_score_is_refused():
    teacher = opdlab.Teacher(small_model("llama"))
    with pytest.raises(DataError, match="1 prompts and 2 answers"):
        teacher.score([[1]], [[2], [3]])
    with pytest.raises(DataError, match="answer 1 has no tokens in a row"):
        teacher.score([[1], [1]], [[2], []])
    with pytest.raises(DataError, match=r"give one row a token.*\[\(2, 3\)\]"):
        teacher.look_ahead([[1]], [[2, 3]], [torch.zeros(1, 3, dtype=torch.long)])
    with pytest.raises(
        DataError, match="answer 0 holds the token id 1000000; the teacher has 0 to"
    ):
        teacher.score([[1]], [[10**6]])
    with pytest.raises(DataError, match="prompt 0 holds the token id -1"):
        teacher.score([[-1]], [[2]])
    with pytest.raises(DataError, match="candidates 0 holds the token id -2"):
        teacher.look_ahead([[1]], [[2]], [torch.tensor([[-2]])])
    with pytest.raises(DataError, match="whole numbers"):
        teacher.score([[1.5]], [[2]])
    with pytest.raises(DataError, match="has no tokenizer"):
        teacher.encode("1+2=")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"top_k": 54}, "top_k=54; give a whole number from 0 to 53"),
        ({"top_k": -1}, "top_k=-1"),
        ({"top_k": 2.0}, "top_k=2.0"),
        ({"prompts": {"input_ids": [[1]]}}, "prompts are a dict.*give its input_ids"),
        ({"prompts": None}, "prompts are a NoneType"),
        ({"prompts": ["1+2="]}, "prompt 0 is '1.2='.*Teacher.encode or a tokenizer"),
        ({"prompts": [None]}, "prompt 0 is None; give token ids"),
        ({"answers": [[1, [2, 3]]]}, "answer 0 is .*equally many a row"),
        ({"answers": [[1] * 256]}, "have 257 tokens, and the teacher 256 positions"),
    ],
)
def test_what_is_no_row_of_token_ids_is_told_by_its_place(asked, message):
    teacher = opdlab.Teacher(small_model("llama"))
    with pytest.raises((DataError, ModelError), match=message):
        teacher.score(**{"prompts": [[1]], "answers": [[2]], **asked})


def test_candidates_that_cannot_be_looked_ahead_to_are_refused():
    teacher = opdlab.Teacher(small_model("llama"))
    with pytest.raises(DataError, match=r"candidates 0 is .*equally many a row"):
        teacher.look_ahead([[1]], [[2, 3]], [[[4], [5, 6]]])
    with pytest.raises(DataError, match="measure='maxp'; choose one of max_prob"):
        teacher.look_ahead([[1]], [[2]], [[[4]]], measure="maxp")  # pyright: ignore[reportArgumentType]
    with pytest.raises(DataError, match="measure='entropy' is of one step"):
        teacher.look_ahead([[1]], [[2]], [[[4]]], measure="entropy", lookahead=2)
    with pytest.raises(DataError, match="lookahead=0; give a whole number from 1"):
        teacher.look_ahead([[1]], [[2]], [[[4]]], lookahead=0)


def test_a_candidate_is_followed_by_the_likeliest_tokens():
    model = small_model("llama")
    (said,) = opdlab.Teacher(model).look_ahead([[1, 2]], [[3, 4]], [[[5], [-1]]], lookahead=3)
    text, found = [1, 2, 5], []
    for _ in range(3):
        with torch.no_grad():
            p, token = model(torch.tensor([text])).logits[0, -1].softmax(-1).max(-1)
        found.append(p)
        text.append(int(token))
    torch.testing.assert_close(said.confidence[0, 0], torch.stack(found).prod() ** (1 / 3))
    assert said.confidence[1, 0].isnan()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"vocabulary": 0}, "vocabulary=0; give a whole number from 1 to 53"),
        ({"vocabulary": 54}, "vocabulary=54"),
        ({"device": "banana"}, "device 'banana' cannot be used here"),
        ({"model": None}, "NoneType is not a causal language model"),
        ({"model": small_model("llama").base_model}, "has no head over a vocabulary"),
        ({"model": torch.nn.Linear(2, 2)}, "Linear is not a causal language model"),
    ],
)
def test_what_can_be_no_teacher_is_refused(given, message):
    with pytest.raises((DataError, ModelError), match=message):
        opdlab.Teacher(**{"model": small_model("llama"), **given})


def test_rows_may_come_from_anything_that_yields_them():
    teacher = opdlab.Teacher(small_model("llama"))
    listed = teacher.score(PROMPTS, ANSWERS)
    found = teacher.score((one for one in PROMPTS), map(torch.tensor, ANSWERS))
    for one, other in zip(listed, found, strict=True):
        assert torch.equal(one.log_prob, other.log_prob)


@pytest.mark.parametrize("form", ["texts", "chats", "data set"])
def test_a_trainer_of_ones_own_trains_models_and_prompts_in_memory(tmp_path, form):
    prompts = {
        "texts": ["1+2=", "3+4=", "5+6="],
        "chats": [[{"role": "user", "content": text}] for text in ("1+2=", "3+4=")],
        "data set": Dataset.from_dict({"question": ["1+2=", "3+4="]}),
    }[form]
    student, teacher = (models.load_model(f"embedded:{name}") for name in ("student", "teacher"))
    before = [weight.clone() for weight in student.parameters()]
    module = opdlab.distillation(
        opdlab.load("quickstart", "training.steps=2", "training.prompts_per_step=2"),
        student=student,
        teacher=teacher,
        tokenizer=models.load_tokenizer("embedded:student"),
        prompts=prompts,
        column="question",
    )
    logger = CSVLogger(tmp_path)
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False}
    trainer = L.Trainer(max_steps=2, logger=logger, log_every_n_steps=1, accelerator="cpu", **quiet)
    trainer.fit(module)
    assert any(
        not torch.equal(one, old) for one, old in zip(student.parameters(), before, strict=True)
    )
    assert "loss" in (Path(logger.log_dir) / "metrics.csv").read_text()


def test_prompts_in_memory_that_cannot_be_used_are_refused():
    with pytest.raises(DataError, match="number 1 is ''"):
        opdlab.distillation("quickstart", prompts=["1+2=", ""])
    with pytest.raises(DataError, match="the list is empty"):
        opdlab.distillation("quickstart", prompts=[])
    with pytest.raises(DataError, match="no column 'prompt'; its columns: q"):
        opdlab.distillation("quickstart", prompts=Dataset.from_dict({"q": ["1+2="]}))
    with pytest.raises(ModelError, match="belong together"):
        opdlab.distillation("quickstart", student=small_model("llama"))
