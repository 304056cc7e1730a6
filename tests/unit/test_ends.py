"""How answers end: each model by its own tokens, and filler that nothing depends on."""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from end_to_end.laboratory import save_model
from small_models import random_rollout, small_model
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer
from unit.test_training import rollout_of

from opdlab.configuration.config import Experiment
from opdlab.diagnosis.observe import respond
from opdlab.diagnosis.work import Settings, Work
from opdlab.doctor.models import tokenizers
from opdlab.errors import ModelError
from opdlab.evaluation.measured import evaluate
from opdlab.identity import Owner
from opdlab.modelling import adapters, models
from opdlab.modelling.ends import closing
from opdlab.modelling.head import chunked_loss
from opdlab.modelling.models import common_end, reach
from opdlab.prompts.drawn import encode
from opdlab.records import Problem, Prompt, Questions, Rollout
from opdlab.scoring.length_groups import states_before_tokens
from opdlab.scoring.teacher import Teacher
from opdlab.training import pair as training_pair
from opdlab.training.collect import ended_by, require_shared
from opdlab.training.given import answer_ids
from opdlab.training.module import Distillation
from opdlab.training.pair import (
    Pair,
    load_module,
    load_pair,
    load_source,
    require_prompts,
)


def experiment(student: Path, teacher: Path, **changes: Any) -> Experiment:
    return Experiment.model_validate(
        {
            "name": "ends",
            "student": {"path": str(student)},
            "teacher": {"path": str(teacher)},
            "prompts": {"type": "problems", "sources": [{"type": "math"}]},
            "rollout": {"type": "cached", "max_new_tokens": 12},
            "method": {"type": "opd", "support": "full"},
            "training": {"steps": 1, "prompts_per_step": 4},
            **changes,
        }
    )


def changed(source: Path, folder: Path, **generation: Any) -> Path:
    """A copy of a model with other generation settings."""
    shutil.copytree(source, folder)
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | generation))
    return folder


def with_token(source: Path, folder: Path, role: str) -> Path:
    """A copy of a model with one more token, in a role; embeddings grow with it."""
    model, tokenizer = models.load_model(str(source)), models.load_tokenizer(str(source))
    tokenizer.add_special_tokens({f"{role}_token": "<|more|>"})
    any_model: Any = model
    any_model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    number = getattr(tokenizer, f"{role}_token_id")
    for settings in (model.config, model.generation_config):
        setattr(settings, f"{role}_token_id", number)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    place = tmp_path_factory.mktemp("models")
    return save_model(place / "student", 16), save_model(place / "teacher", 32, scale=4.0)


def pair_of(config: Experiment) -> Pair:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of tokenizers that differ
        return load_pair(config)


def test_each_model_of_a_pair_ends_by_its_own_tokens(folders, tmp_path: Path) -> None:
    student, teacher = folders
    other = changed(teacher, tmp_path / "teacher", eos_token_id=[7, 9])
    code = changed(teacher, tmp_path / "code", eos_token_id=[8])
    config = experiment(
        student,
        other,
        method={"type": "opd"},
        specialists=[{"path": str(code), "domains": ["code/*"]}],
    )
    pair = pair_of(config)
    eos: Any = pair.tokenizer.eos_token_id
    ends = [pair.subject(one, config).eos_ids for one in (pair.student, pair.teacher)]
    assert ends == [(eos,), tuple(sorted((eos, 7, 9)))]
    specialist = pair.teacher_of("code/short")
    assert pair.subject(specialist, config).eos_ids == tuple(sorted((eos, 8)))


def test_a_teacher_that_ends_beyond_the_shared_vocabulary_answers_from_its_own(
    folders, tmp_path: Path
) -> None:
    student, teacher = folders
    config = experiment(student, with_token(teacher, tmp_path / "teacher", "eos"))
    pair = pair_of(config)
    subject = pair.subject(pair.teacher, config)
    assert subject.eos_ids == (pair.vocabulary,)
    assert subject.vocabulary is None


def test_a_teacher_answers_from_its_own_entries_where_one_of_its_ends_is_not_shared() -> None:
    assert reach((2, 9), 10) == 10
    assert reach((2, 10), 10) is None


def test_an_answer_of_the_teacher_in_tokens_that_the_student_lacks_is_refused() -> None:
    require_shared(rollout_of([[3, 4], [4]]), 5)
    with pytest.raises(ModelError, match="wrote token 5, which is not among the 5 entries"):
        require_shared(rollout_of([[3, 5], [4]]), 5)


def test_a_student_that_could_never_end_is_refused_at_load(folders, tmp_path: Path) -> None:
    student, teacher = folders
    more = with_token(student, tmp_path / "student", "eos")
    tokenizer = models.load_tokenizer(str(more))
    tokenizer.chat_template = "{% for turn in messages %}{{ turn.content }}<eos>{% endfor %}"
    tokenizer.save_pretrained(more)
    path = more / "generation_config.json"
    path.write_text(json.dumps({"eos_token_id": [2, len(tokenizer) - 1]}))
    # Its template ends a turn by a token that both have: its EOS cannot be that one, too.
    with pytest.raises(ModelError, match=r"ends its answers by '<\|more\|>' .*Take a teacher"):
        pair_of(experiment(more, teacher))


TURNS = "{% for turn in messages %}{{ turn.content }}<|more|>\n{% endfor %}"


def ending(source: Path, folder: Path, ends: list[int], template: str | None = None) -> Path:
    """A copy of a model that also has `<|more|>`, its last token, with these ends; its EOS stays."""
    model, tokenizer = models.load_model(str(source)), models.load_tokenizer(str(source))
    tokenizer.add_tokens(["<|more|>"], special_tokens=True)
    any_model: Any = model
    any_model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    tokenizer.chat_template = template
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": ends}))
    return folder


ANSWERS = (
    "{% for turn in messages %}{{ turn.content }}{% if turn.role == 'assistant' %}<|more|>{% endif %}"
    "{% endfor %}"
)
MAPPED = r"ends its answers by '<\|more\|>' .* the teacher's own end, '<eos>' \(id 2\)"


def with_rows_exchanged(source: Path, folder: Path) -> Path:
    """A copy of a model that ends by `<eos>` as it does by `<|more|>`, its last token."""
    shutil.copytree(source, folder)
    model: Any = models.load_model(str(folder))
    model.lm_head.weight.data[[2, -1]] = model.lm_head.weight.data[[-1, 2]]
    model.generation_config.eos_token_id = [2]
    model.save_pretrained(folder)
    return folder


@pytest.mark.filterwarnings("ignore:teacher and student tokenizers")
@pytest.mark.parametrize("engine", ["cached", "generate"])
def test_an_end_that_the_teacher_lacks_is_the_teachers_own(
    folders, tmp_path: Path, engine: str
) -> None:
    student, teacher = folders
    more = len(models.load_tokenizer(str(student)))
    made = ending(student, tmp_path / "student", [2, more], ANSWERS)
    changes = {"rollout": {"type": engine, "max_new_tokens": 40}}
    with pytest.warns(UserWarning, match=MAPPED):
        pair = load_pair(experiment(made, teacher, **changes))
    # Again with another teacher, whose end is another.
    with pytest.warns(UserWarning, match=r"the teacher's own end, '1'"):
        found = models.require_end(pair.student, pair.tokenizer, more, "auto", 5)
    assert found == (2, 5)
    assert models.eos_ids(pair.student, pair.tokenizer) == found
    head: Any = pair.student.get_output_embeddings()
    assert len(head._forward_hooks) == 1
    module, losses, rollout = step(experiment(made, teacher, **changes))
    twin = experiment(with_rows_exchanged(made, tmp_path / "twin"), teacher, **changes)
    other, expected, same = step(twin)
    assert module.subject.eos_ids == (2,)
    assert int(rollout.ended.sum()) > 0
    assert torch.equal(rollout.tokens, same.tokens)
    torch.testing.assert_close(rollout.log_prob, same.log_prob)
    torch.testing.assert_close(losses, expected)
    found = []
    for one, loss in ((module, losses), (other, expected)):
        loss.sum().backward()
        model: Any = one.student
        found.append(model.lm_head.weight.grad)
    found[1][[2, -1]] = found[1][[-1, 2]]
    torch.testing.assert_close(*found)


@pytest.mark.filterwarnings("ignore:teacher and student tokenizers", f"ignore:.*{MAPPED}")
def test_adapters_in_all_linear_layers_learn_the_end_that_was_mapped(
    folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student, teacher = folders
    more = len(models.load_tokenizer(str(student)))
    made = ending(student, tmp_path / "student", [2, more], ANSWERS)
    twin = with_rows_exchanged(made, tmp_path / "twin")

    def adapted(model: Any, config: Experiment) -> None:
        adapters.add(model, rank=3, alpha=6.0)
        with torch.random.fork_rng():
            torch.manual_seed(5)
            for name, weight in model.named_parameters():
                if "lora_B" in name:
                    weight.data.normal_(0.0, 0.3)

    monkeypatch.setattr(training_pair, "adapt", adapted)
    found = []
    for folder in (made, twin):
        engine = {"type": "cached", "max_new_tokens": 40}
        module, losses, rollout = step(experiment(folder, teacher, rollout=engine))
        losses.sum().backward()
        trained = {n: w.grad for n, w in module.student.named_parameters() if w.requires_grad}
        found.append((rollout, losses, trained))
    (one, losses, gradients), (other, expected, wanted) = found
    assert int(one.ended.sum()) > 0
    assert torch.equal(one.tokens, other.tokens)
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(gradients, wanted, atol=1e-4, rtol=1e-4)
    assert all(".lora_" in name for name in gradients)


def test_doctor_evaluation_and_diagnosis_know_the_end_that_was_mapped(
    folders, tmp_path: Path
) -> None:
    student, teacher = folders
    more = len(models.load_tokenizer(str(student)))
    made = ending(student, tmp_path / "student", [more])
    few = {"benchmarks": [{"type": "math", "limit": 4}], "samples": 2}
    engine = {"type": "cached", "max_new_tokens": 40}
    config = experiment(made, teacher, evaluation=few, rollout=engine, output=str(tmp_path))
    both = [load_source(one) for one in (config.student, config.teacher)]
    (model, tokenizer), (judge, theirs) = both
    line = tokenizers(tokenizer, theirs, model, judge, "auto", 2)
    assert "is the teacher's own end, '<eos>' (id 2)" in line.found
    pair = pair_of(config)
    subject = pair.subject(pair.student, config)
    owner = Owner("student")
    samples = evaluate(subject, config.evaluation, owner, tmp_path / "samples")
    assert {one.stop for one in samples} == {"eos", "length"}
    work = Work.begin(config, Settings(problems=4, samples=2, cuts=2, bins=2, least=0.5))
    with pytest.warns(UserWarning, match=MAPPED):
        model, bench, _ = work.load("student", config.student)
    assert bench.eos_ids == (2,)
    seen = respond(bench, model, range(8), 8)
    assert 2 in seen.token


def test_ends_are_mapped_to_one_that_all_teachers_have(folders, tmp_path: Path) -> None:
    student, teacher = folders
    more = len(models.load_tokenizer(str(student)))
    made = ending(student, tmp_path / "student", [more])
    one, other = [load_source(experiment(teacher, teacher).teacher) for _ in range(2)]
    assert common_end([one, other]) == 2
    other[1].chat_template = "{% for turn in messages %}{{ turn.content }}3{% endfor %}"
    other[0].generation_config.eos_token_id = other[1].convert_tokens_to_ids("3")
    assert common_end([one, other]) is None
    with pytest.raises(ModelError, match=r"ends its answers by '<\|more\|>' .*chat template"):
        models.require_end(*load_source(experiment(made, teacher).student), more, "auto", None)


def test_of_several_ends_one_that_the_teacher_lacks_is_warned_of(folders, tmp_path: Path) -> None:
    student, teacher = folders
    more = len(models.load_tokenizer(str(student)))
    made = ending(student, tmp_path / "student", [2, more])
    with pytest.warns(UserWarning, match=r"may end its answers by '<\|more\|>' .*end by '<eos>'"):
        load_pair(experiment(made, teacher))


@pytest.mark.parametrize("wrong", [-1, 5000])
def test_an_end_that_a_model_does_not_have_is_refused(folders, tmp_path: Path, wrong: int) -> None:
    made = changed(folders[0], tmp_path / "model", eos_token_id=[2, wrong])
    model, tokenizer = models.load_model(str(made)), models.load_tokenizer(str(made))
    with pytest.raises(ModelError, match=rf"eos_token_id in .* is \[2, {wrong}\]"):
        models.eos_ids(model, tokenizer)


def test_an_eos_that_a_tokenizer_got_and_its_model_did_not_is_refused(folders) -> None:
    model, tokenizer = models.load_model(str(folders[0])), models.load_tokenizer(str(folders[0]))
    tokenizer.add_special_tokens({"eos_token": "<|more|>"})
    with pytest.raises(
        ModelError, match=r"tokenizer is '<\|more\|>' \(id .*resize_token_embeddings"
    ):
        models.eos_ids(model, tokenizer)


def test_ends_beside_the_one_that_is_mapped_are_said_to_be_left_out(folders) -> None:
    model, tokenizer = models.load_model(str(folders[0])), models.load_tokenizer(str(folders[0]))
    any_model: Any = model
    shared = len(tokenizer)
    tokenizer.add_tokens(["<|a|>", "<|b|>"], special_tokens=True)
    any_model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.generation_config.eos_token_id = [shared, shared + 1]  # type: ignore[union-attr]
    with pytest.warns(UserWarning, match=r"by '<\|a\|>'.*own end.*; '<\|b\|>' .*left out"):
        assert models.require_end(model, tokenizer, shared, "none", 2) == (2,)


def test_an_answer_without_an_end_gets_the_one_that_closes_a_turn(folders, tmp_path: Path) -> None:
    student = folders[0]
    more = len(models.load_tokenizer(str(student)))
    turned = models.load_tokenizer(str(ending(student, tmp_path / "m", [2, more], TURNS)))
    assert closing(turned, (2, more)) == more
    assert closing(turned, (2, more), "none") == 2
    # One that is no end of the model closes nothing; without an EOS among the ends, the first does.
    assert [closing(turned, ends) for ends in ((2,), (1, 5))] == [2, 1]
    turned.chat_template = "{{ raise_exception('users alone') }}"
    assert closing(turned, (2, more)) == 2
    prompt = Prompt(Problem("d", "1", "1", None, {"given": "2"}), ())
    turned.chat_template = TURNS
    assert answer_ids(prompt, turned, (2, more), 5, None, "auto")[-1] == more


def step(config: Experiment) -> tuple[Distillation, torch.Tensor, Rollout]:
    """A module, the losses of one rollout, and the rollout."""
    module = load_module(pair_of(config), config)
    prompts = [module.prompts.prompt(i).tokens for i in range(4)]
    rollout = config.rollout.sample(
        module.student,
        prompts,
        [1, 2, 3, 4],
        eos_ids=module.subject.eos_ids,
        pad_id=module.subject.pad_id,
        vocabulary=module.subject.vocabulary,
    )
    scores = module.teacher.score(rollout, config.method.questions(rollout))
    supervision = config.method.supervise(rollout, scores)
    losses = chunked_loss(
        module.student,
        states_before_tokens(module.student, rollout),
        module.teacher.logits(scores.distributions) if scores.distributions else None,
        supervision,
        config.method.token_loss,
        module.subject.vocabulary,
    )
    return module, losses.loss, rollout


@pytest.mark.parametrize("engine", ["cached", "generate"])
def test_a_pad_token_that_the_teacher_lacks_changes_nothing(
    folders, tmp_path: Path, engine: str
) -> None:
    student, teacher = folders
    padded = with_token(student, tmp_path / "student", "pad")
    changes = {"rollout": {"type": engine, "max_new_tokens": 12}}
    (_, plain, _), (module, found, _) = (
        step(experiment(one, teacher, **changes)) for one in (student, padded)
    )
    assert module.subject.tokenizer.pad_token_id == module.subject.vocabulary
    torch.testing.assert_close(found, plain)


def test_filler_that_no_model_has_reaches_none() -> None:
    rollout = random_rollout([4, 9], [5, 2])
    columns = torch.arange(rollout.tokens.shape[1])
    real = columns < (rollout.prompt_lengths + rollout.response_lengths)[:, None]
    odd = replace(rollout, tokens=rollout.tokens.masked_fill(~real, 10**6))
    teacher = Teacher(small_model("llama"), 48).probe()
    keep = replace(rollout, tokens=rollout.tokens % 48)
    odd = replace(odd, tokens=torch.where(real, odd.tokens % 48, odd.tokens))
    asked = Questions(keep.candidates[:, :0])
    assert torch.equal(teacher.score(odd, asked).log_prob, teacher.score(keep, asked).log_prob)


def test_a_prompt_token_that_the_teacher_lacks_is_refused() -> None:
    teacher = Teacher(small_model("llama"), 48).probe()
    rollout = random_rollout([4, 9], [5, 2])
    tokens = rollout.tokens % 48
    tokens[1, 3] = 50
    with pytest.raises(ModelError, match="prompt of row 1 holds token 50 at place 3"):
        teacher.score(replace(rollout, tokens=tokens), Questions(rollout.candidates[:, :0]))


def test_a_template_of_tokens_that_the_teacher_lacks_is_refused_at_load(
    folders, tmp_path: Path
) -> None:
    student, teacher = folders
    more = with_token(student, tmp_path / "student", "pad")
    tokenizer = AutoTokenizer.from_pretrained(more)
    tokenizer.chat_template = "<|more|>{{ messages[0].content }}"
    tokenizer.save_pretrained(more)
    config = experiment(more, teacher)
    with pytest.raises(ModelError, match=r"'<\|more\|>' .*prompts.template: none"):
        require_prompts(config, pair_of(config))


def test_a_later_prompt_of_a_token_that_the_teacher_lacks_is_refused_at_load(
    folders, tmp_path: Path
) -> None:
    student, teacher = folders
    more = with_token(student, tmp_path / "student", "pad")
    path = tmp_path / "prompts.jsonl"
    texts = [*("1+2=" for _ in range(40)), "1+<|more|>="]
    path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    source = {"type": "dataset", "path": str(path), "template": "none"}
    config = experiment(
        more, teacher, prompts=source, training={"steps": 11, "prompts_per_step": 4}
    )
    with pytest.raises(ModelError, match=r"prompt 41 of dataset holds .*'<\|more\|>'"):
        require_prompts(config, pair_of(config))


def test_an_answer_of_the_teacher_ends_by_the_students_eos_in_training() -> None:
    rollout = random_rollout([4, 9], [5, 2])
    rollout.tokens[0, 8] = 7
    ended = replace(rollout, ended=torch.tensor([True, False]), eos_ids=(7,))
    found = ended_by(ended, (2, 3), 3)
    assert found.eos_ids == (2, 3)
    assert int(found.tokens[0, 8]) == 3
    assert torch.equal(found.tokens[1], ended.tokens[1])
    assert ended_by(found, (2, 3), 3) is found


@pytest.mark.parametrize("form", ["<bos> $A <eos>", "$A <eos>", "<bos> $A <eos> <eos>"])
@pytest.mark.parametrize("own", [0, 1])
def test_an_eos_that_a_tokenizer_appends_ends_no_prompt(folders, form: str, own: int) -> None:
    tokenizer: Any = models.load_tokenizer(str(folders[0]))
    text = "12+3=" + own * tokenizer.eos_token
    begun = [tokenizer.bos_token_id] if form.startswith("<bos>") else []
    bare = tokenizer(text, add_special_tokens=False)["input_ids"]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=form,
        special_tokens=[
            ("<bos>", tokenizer.bos_token_id),
            ("<eos>", tokenizer.eos_token_id),
        ],
    )
    assert len(tokenizer(text)["input_ids"]) == len(begun) + len(bare) + form.count("<eos>")
    assert encode(tokenizer, text, "none") == (*begun, *bare)


def test_a_text_of_nothing_is_a_prompt_of_what_begins_it(folders) -> None:
    tokenizer: Any = models.load_tokenizer(str(folders[0]))
    assert encode(tokenizer, "", "none") == (tokenizer.bos_token_id,)
