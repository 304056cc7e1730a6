"""What an evaluation holds at a time: so many tokens, however long its answers become."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import small_model
from transformers import PreTrainedModel

from opdlab.errors import NonFiniteError
from opdlab.evaluation.subjects import Answer, Subject
from opdlab.modelling import models
from opdlab.records import Rollout
from opdlab.sampling import decoder
from opdlab.sampling.growing_cache import GrowingCache
from opdlab.sampling.rollout import CachedEngine, GenerateEngine, RolloutEngine
from opdlab.serving.received import RECEIVED, Received

EOS = 2
LONGEST, SPARE = 60, 8
# Of unlike length, one token among them, and four answers to one prompt.
PROMPTS = [[1, *range(5, 5 + length)] for length in (3, 20, 1, 5, 7, 2, 15, 4, 0)] + [[1, 9, 4]] * 4
SEEDS = list(range(len(PROMPTS)))
WIDEST = max(map(len, PROMPTS)) + LONGEST


@pytest.fixture(autouse=True)
def short_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Buffers grow by few columns, so that short answers make them grow."""
    monkeypatch.setattr(decoder, "_STRETCH", SPARE)


def tiny(family: str) -> PreTrainedModel:
    return small_model(family, num_hidden_layers=2)


def answers(
    model: PreTrainedModel, tokens: int, rows: int = 512, engine: RolloutEngine | None = None
) -> list[list[int]]:
    engine = engine or CachedEngine(max_new_tokens=LONGEST)
    found: dict[int, list[int]] = {}
    options: dict[str, Any] = {"eos_ids": (EOS,), "pad_id": 0, "max_rows": rows}
    engine.answer(
        model, PROMPTS, SEEDS, max_tokens=tokens, on_response=found.__setitem__, **options
    )
    assert sorted(found) == SEEDS
    return [found[row] for row in SEEDS]


def held_by(model: PreTrainedModel) -> list[tuple[int, int]]:
    """Rows of the cache and places of its buffers in each step, from now on."""
    seen: list[tuple[int, int]] = []

    def look(_module: object, _args: object, given: dict[str, Any], _output: object) -> None:
        cache = given.get("past_key_values")
        if isinstance(cache, GrowingCache):
            keys = cache.layers[0].keys
            seen.append((len(keys), len(keys) * keys.shape[2]))

    model.register_forward_hook(look, with_kwargs=True)
    return seen


@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral", "gemma3"])
def test_answers_do_not_depend_on_how_many_tokens_are_held(family: str) -> None:
    """`mistral` attends to 7 tokens, `gemma3` does so in some layers."""
    model = tiny(family)
    whole = answers(model, 1 << 18)
    assert min(map(len, whole)) < 30 < max(map(len, whole)) == LONGEST
    options: dict[str, Any] = {"eos_ids": (EOS,), "pad_id": 0}
    rollout = CachedEngine(max_new_tokens=LONGEST).sample(model, PROMPTS, SEEDS, **options)
    rows = rollout.token.split(rollout.response_lengths.tolist())
    assert [row.tolist() for row in rows] == whole
    for tokens, rows in ((100, 512), (300, 512), (500, 3)):
        assert answers(model, tokens, rows) == whole


@pytest.mark.parametrize("tokens", [1, 150, 400])
def test_no_more_is_held_than_was_allowed_or_than_one_row_takes(tokens: int) -> None:
    model = tiny("qwen2")
    held = held_by(model)
    answers(model, 1 << 18)  # the first time, a few rows are tried
    held.clear()
    answers(model, tokens)
    assert all(rows == 1 or places <= tokens for rows, places in held)
    assert max(places for rows, places in held if rows == 1) <= WIDEST + max(SPARE, WIDEST // 8)


def test_short_answers_go_together_where_the_longest_would_not() -> None:
    model = small_model("qwen2", num_hidden_layers=1, max_position_embeddings=8192)
    held = held_by(model)
    engine, found = CachedEngine(max_new_tokens=8_000), {}
    options: dict[str, Any] = {"eos_ids": tuple(range(2, 30)), "pad_id": 0, "max_rows": 512}
    engine.answer(model, PROMPTS, SEEDS, max_tokens=8_192, on_response=found.__setitem__, **options)
    assert max(map(len, found.values())) < 200
    assert max(rows for rows, _ in held) == len(PROMPTS)


def test_buffers_end_where_the_longest_answer_does() -> None:
    model = tiny("qwen2")
    held = held_by(model)
    options: dict[str, Any] = {"eos_ids": (), "pad_id": 0}
    CachedEngine(max_new_tokens=LONGEST).sample(model, PROMPTS, SEEDS, **options)
    assert max(places for _, places in held) <= len(PROMPTS) * WIDEST


def test_generate_pads_as_many_rows_as_their_longest_answers_leave_room_for() -> None:
    model = tiny("llama")
    batches: list[int] = []
    generate: Any = model.generate

    def watched(**given: Any) -> Any:
        batches.append(len(given["input_ids"]))
        return generate(**given)

    model.generate = watched  # type: ignore[method-assign]
    engine = GenerateEngine(max_new_tokens=8)
    whole = answers(tiny("llama"), 1 << 18, engine=CachedEngine(max_new_tokens=8))
    assert answers(model, 1 << 18, engine=engine) == whole  # the first time, a few rows are tried
    batches.clear()
    assert answers(model, 6 * (21 + 8) - 1, engine=engine) == whole
    assert batches == [5, 5, 3]
    batches.clear()
    assert answers(model, 1, rows=3, engine=engine) == whole
    assert batches == [1] * len(PROMPTS)


@pytest.mark.parametrize("place", [0, 7])
def test_a_model_that_says_nan_is_stopped_though_nothing_is_recorded(place: int) -> None:
    model = tiny("qwen2")
    steps: list[int] = []

    def poison(_module: object, _args: object, output: Any) -> None:
        if len(output.logits) <= 4:
            return  # the first time, a few rows are tried
        steps.append(1)
        if len(steps) > place + 1:  # after the prefill
            output.logits[3] = torch.nan

    model.register_forward_hook(poison)
    with pytest.raises(NonFiniteError, match=rf"prompt \d+ at response position {place} is nan"):
        answers(model, 1 << 18, engine=CachedEngine(max_new_tokens=24))


@dataclass(frozen=True, kw_only=True)
class Own(CachedEngine):
    """Samples in a way of its own."""

    def sample(self, *given: Any, **named: Any) -> Rollout:
        assert named["max_rows"] == 4
        on_response = named.pop("on_response")
        found = super().sample(*given, **named)
        for row in range(len(given[1])):
            on_response(row, [5, EOS])
        return found


def test_an_engine_that_samples_in_its_own_way_is_measured_by_it(tmp_path: Path) -> None:
    path = str(models.EMBEDDED / "student")
    subject = Subject(
        model=models.load_model(path),
        tokenizer=models.load_tokenizer(path),
        engine=Own(max_new_tokens=9),
        eos_ids=(EOS,),
        pad_id=0,
        template="plain",
    )
    found: dict[int, Answer] = {}
    prompts = [([1, 5], "") for _ in PROMPTS]
    tokens = 4 * (2 + 9)
    kept = Received(tmp_path / RECEIVED, [])
    subject.answer(
        subject.engine, prompts, SEEDS, 512, tokens, found.__setitem__, lambda: None, kept
    )
    assert {(answer.tokens, answer.stop) for answer in found.values()} == {(2, "eos")}
