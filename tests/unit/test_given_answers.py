"""Given answers: supervised fine-tuning on them, mixtures with sampled ones, and who cannot use them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import tiny_chat
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from opdlab.configuration.config import Experiment
from opdlab.errors import DataError
from opdlab.modelling.models import load_tokenizer
from opdlab.prompts.encoding import continued, rendered
from opdlab.records import Problem, Prompt
from opdlab.training.given import answer_ids, is_given
from opdlab.training.module import Distillation
from opdlab.training.pair import load_module, load_pair, require_prompts
from opdlab.training.whole_step import Place

ROWS = [
    {"q": f"{n}+1?", "a": str(n + 1), "chat": [
        {"role": "user", "content": f"{n}+1?"}, {"role": "assistant", "content": str(n + 1)}
    ]}
    for n in range(8)
]  # fmt: skip

VOCABULARY = {
    "?": 0,
    "a": 1,
    "\u2581a": 2,
    "b": 3,
    "\u2581b": 4,
    "\u2581": 5,
    "<u>": 6,
    "<a>": 7,
    "</s>": 9,
}
HERE = Place(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_chat.save(tmp_path_factory.mktemp("model"), 128)


def experiment(
    model: str, path: Path, method: dict[str, Any], rows: Any = ROWS, **prompts: Any
) -> Experiment:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {"column": "q", "completion_column": "a", "given": 1, **prompts}
    return Experiment.model_validate(
        {
            "name": "mine",
            "student": {"path": model},
            "teacher": {"path": model},
            "prompts": {"type": "dataset", "path": str(path), **given},
            "rollout": {"type": "cached", "max_new_tokens": 6},
            "method": method,
            "training": {
                "steps": 3,
                "prompts_per_step": 4,
                "accelerator": "cpu",
                "threads": 1,
                "hacking": {"grade_every": 1},
            },
        }
    )


def trained(config: Experiment) -> tuple[Distillation, list[float]]:
    """What was trained, and the loss of each step."""
    pair = load_pair(config)
    require_prompts(config, pair)
    module = load_module(pair, config)
    losses: list[float] = []

    class Losses(L.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            losses.append(module.metrics["loss"][0])

    tiny_chat.fit(module, Losses())
    return module, losses


@pytest.mark.parametrize("columns", [{}, {"column": "chat", "completion_column": None}])
def test_the_loss_of_sft_on_given_answers_is_their_negative_log_likelihood(
    tmp_path: Path, model: str, columns: dict[str, Any]
) -> None:
    config = experiment(model, tmp_path / "a.jsonl", {"type": "sft"}, shuffle=False, **columns)
    pair = load_pair(config)
    values = []
    for row in ROWS[:4]:
        asked: Any = pair.tokenizer.apply_chat_template(
            [{"role": "user", "content": row["q"]}], add_generation_prompt=True, tokenize=False
        )
        prompt: Any = pair.tokenizer(asked, add_special_tokens=False)["input_ids"]
        answer: Any = pair.tokenizer(row["a"], add_special_tokens=False)["input_ids"]
        answer = [*answer, pair.tokenizer.eos_token_id]
        with torch.no_grad():
            logits = pair.student(input_ids=torch.tensor([[*prompt, *answer]])).logits[0]
        said = logits[len(prompt) - 1 : -1].log_softmax(-1)
        values += said.gather(1, torch.tensor(answer)[:, None]).squeeze(1).tolist()
    _, losses = trained(config)
    assert losses[0] == pytest.approx(-sum(values) / len(values), abs=1e-5)
    assert losses[-1] < losses[0]


def test_a_share_of_given_answers_mixes_with_sampled_ones_and_is_graded_by_neither(
    tmp_path: Path, model: str
) -> None:
    method = {"type": "opd", "support": "full"}
    graded = {"answer_column": "a", "grader": "exact"}
    config = experiment(model, tmp_path / "a.jsonl", method, given=0.5, **graded)
    module, losses = trained(config)
    assert len(losses) == 3
    assert "accuracy" not in module.metrics
    assert "reverse_kl_sampled" not in module.metrics
    plain = load_module(load_pair(config), config)
    answers = plain.collector.sample(range(4), HERE)
    assert answers.drawn == 2
    for row in (2, 3):
        said = plain.collector.subject.tokenizer.decode(
            answers.rollout.token[answers.rollout.row == row], skip_special_tokens=True
        )
        assert said == answers.problems[row].extra["given"]
    whole = config.model_copy(update={"prompts": config.prompts.model_copy(update={"given": 0.0})})
    other = load_module(load_pair(whole), whole)
    alone = other.collector.sample(range(4), HERE)
    kept = [n for n in range(4) if not is_given(n, 0.5)]
    for row, place in enumerate(kept):
        mine = answers.rollout.token[answers.rollout.row == row]
        assert mine.tolist() == alone.rollout.token[alone.rollout.row == place].tolist()


@pytest.mark.parametrize("scheme", ["first", "always", "never"])
@pytest.mark.parametrize(
    "template", [None, "{% for m in messages %}<u>{{ m.content }}{% endfor %}<a>"]
)
def test_an_answer_has_the_tokens_that_it_has_after_its_prompt(
    scheme: Any, template: str | None
) -> None:
    raw = Tokenizer(models.WordLevel(VOCABULARY, "?"))
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        unk_token="?",
        eos_token="</s>",
        additional_special_tokens=["<u>", "<a>"],
    )
    tokenizer.chat_template = template
    shown = rendered(tokenizer, "a b", "auto")
    text = "b a" if template else " b a"
    first = "\u2581b" if scheme == "always" or not template else "b"
    wanted = [VOCABULARY[first], VOCABULARY["\u2581a"]]
    assert continued(tokenizer, shown, text) == wanted
    for given in (text, text + "</s>"):
        problem = Problem("d", "1", "a b", None, {"given": given})
        ids = answer_ids(Prompt(problem, ()), tokenizer, [9], 5, None, "auto")
        assert ids == [*wanted, 9]


def test_any_places_in_a_row_have_their_share_of_given_answers() -> None:
    for share in (0.0, 0.25, 0.3, 1.0):
        taken = [is_given(n, share) for n in range(1000)]
        assert sum(taken) == round(1000 * share)
        assert abs(sum(taken[37:57]) - 20 * share) <= 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"method": {"type": "opd"}}, "prompts.given: method opd trains on samples"),
        ({"method": {"type": "lgr", "top_k": 2}}, "prompts.given: method lgr"),
        ({"given": 0}, "completion_column: given answers are used where"),
        ({"prefill": "x"}, "prefill: it does not go with"),
    ],
    ids=range(4),
)
def test_given_answers_are_refused_where_they_cannot_be_used(
    tmp_path: Path, model: str, change: dict[str, Any], said: str
) -> None:
    options = {"method": {"type": "sft"}, **change}
    with pytest.raises(ValueError, match=said):
        experiment(model, tmp_path / "a.jsonl", options.pop("method"), **options)


@pytest.mark.parametrize(
    ("row", "options", "said"),
    [
        ({"q": "?", "a": None}, {}, "1 of 9 rows have no text of an answer in column 'a', row 9"),
        ({"chat": "?"}, {"column": "chat", "completion_column": None}, "1 rows give no answer, row 9"),
        ({"q": "?", "a": "1234567"}, {}, "prompt 9 of dataset has 8 tokens, EOS included"),
        ({"q": "?", "a": "1EOS2"}, {}, "prompt 9 of dataset continues after a token that ends answers"),
    ],
    ids=range(4),
)  # fmt: skip
def test_a_row_whose_answer_cannot_be_trained_on_is_named_at_load(
    tmp_path: Path, model: str, row: Any, options: dict[str, Any], said: str
) -> None:
    path = tmp_path / "a.jsonl"
    if "a" in row:
        row = {**row, "a": row["a"] and row["a"].replace("EOS", load_tokenizer(model).eos_token)}
    config = experiment(model, path, {"type": "sft"}, [*ROWS, row], **options)
    with pytest.raises(DataError, match=said):
        require_prompts(config, load_pair(config))
