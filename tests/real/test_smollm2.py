"""What holds of models of our own making holds of SmolLM2-135M-Instruct."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from machine import SMOLLM2

from opdlab.configuration import Pretraining
from opdlab.modelling import closing, layer_list, left_out, models
from opdlab.plugins import posed
from opdlab.pretraining.traces import IGNORED, Reading, TraceBatches
from opdlab.prompts import encode
from opdlab.pruning.cuts import divergence, log_probs
from opdlab.records import Questions, Rollout
from opdlab.sampling import CachedEngine
from opdlab.scoring import Teacher
from opdlab.scoring.naive import naive_scores
from opdlab_evaluators.embedded.word_problems import WordProblems

Smollm2 = tuple[Any, Any]
CAPITAL = "What is the capital of France? Answer in one short sentence."


def sampled(smollm2: Smollm2, engine: CachedEngine, *texts: str, top_k: int = 0) -> Rollout:
    model, tokenizer = smollm2
    prompts = [encode(tokenizer, text, "auto") for text in texts]
    seeds = list(range(len(texts)))
    ends, pad = models.eos_ids(model, tokenizer), models.pad_id(model, tokenizer)
    return engine.sample(model, prompts, seeds, eos_ids=ends, pad_id=pad, top_k=top_k)


@pytest.fixture(scope="module")
def rollout(smollm2: Smollm2) -> Rollout:
    engine = CachedEngine(max_new_tokens=10)
    return sampled(smollm2, engine, CAPITAL, "Count from one to five.", top_k=3)


def test_its_file_is_known_and_it_answers_a_question(smollm2: Smollm2) -> None:
    model, tokenizer = smollm2
    assert models.manifest(model, SMOLLM2)["gguf_sha256"].startswith("b179c9523d0e6a0f")
    ends = models.eos_ids(model, tokenizer)
    assert tokenizer.convert_ids_to_tokens(closing(tokenizer, ends)) == "<|im_end|>"
    said = sampled(smollm2, CachedEngine(max_new_tokens=16, temperature=0.0), CAPITAL)
    assert "Paris" in tokenizer.decode(said.tokens[0, int(said.prompt_lengths[0]) :])


def test_what_is_recorded_of_a_sampled_token_is_what_a_forward_says(
    smollm2: Smollm2, rollout: Rollout
) -> None:
    model, found = smollm2[0], []
    rows = zip(rollout.tokens, rollout.prompt_lengths, rollout.response_lengths, strict=True)
    with torch.no_grad():
        for tokens, prompt, response in rows:
            end = int(prompt + response)
            logits = model(input_ids=tokens[None, :end]).logits[0, int(prompt) - 1 : end - 1]
            chosen = tokens[int(prompt) : end]
            found.append(logits.log_softmax(-1).gather(1, chosen[:, None]).squeeze(1))
    torch.testing.assert_close(rollout.log_prob, torch.cat(found), atol=2e-4, rtol=0)


def test_its_candidates_are_scored_by_the_tree_as_by_whole_forwards(
    smollm2: Smollm2, rollout: Rollout
) -> None:
    short = int(rollout.response_lengths[1])
    few = replace_with_row(rollout, 1, min(4, short))
    teacher = Teacher(smollm2[0]).probe()
    assert teacher.way == "tree"
    found = teacher.score(few, Questions(few.candidates))
    truth = naive_scores(smollm2[0], few, Questions(few.candidates))
    torch.testing.assert_close(found.log_prob, truth.log_prob, atol=2e-4, rtol=0)
    torch.testing.assert_close(found.confidence, truth.confidence, atol=2e-4, rtol=0)


def replace_with_row(rollout: Rollout, row: int, length: int) -> Rollout:
    """The beginning of one row of a rollout."""
    first = int(rollout.response_lengths[:row].sum())
    tokens = slice(first, first + length)
    return replace(
        rollout,
        tokens=rollout.tokens[row : row + 1, : int(rollout.prompt_lengths[row]) + length],
        prompt_lengths=rollout.prompt_lengths[row : row + 1],
        response_lengths=torch.tensor([length]),
        ended=rollout.ended[row : row + 1],
        seeds=rollout.seeds[row : row + 1],
        log_prob=rollout.log_prob[tokens],
        entropy=rollout.entropy[tokens],
        candidates=rollout.candidates[tokens],
        candidate_log_prob=rollout.candidate_log_prob[tokens],
    )


def test_a_layer_in_its_middle_matters_less_than_its_first(
    smollm2: Smollm2, rollout: Rollout
) -> None:
    model, sample = smollm2[0], [rollout.tokens[:1]]
    before, scores = log_probs(model, sample), []
    for layer in (14, 0):
        with left_out(model, layer):
            assert len(layer_list(model)) == 29
            scores.append(divergence(before, log_probs(model, sample)))
    assert 0 < scores[0] < 1 < scores[1]
    assert divergence(before, log_probs(model, sample)) == pytest.approx(0, abs=1e-6)


def test_traces_of_word_problems_are_read_in_its_template(smollm2: Smollm2) -> None:
    source = {"type": "word_problems", "steps": 2}
    config = Pretraining.model_validate(
        {"kind": "pretrain", "name": "t", "start": SMOLLM2, "sources": [source], "steps": 2}
        | {"batch_size": 2, "warmup_steps": 0}
    )
    batch = TraceBatches(config, smollm2[1], Reading.of_model(*smollm2)).batch(0)
    for number, (tokens, labels) in enumerate(
        zip(batch["input_ids"], batch["labels"], strict=True)
    ):
        problem = posed.training_problem(config.sources[0], config.seed, number)
        text = smollm2[1].decode(tokens)
        assert f"<|im_start|>user\n{problem.prompt}<|im_end|>\n<|im_start|>assistant\n" in text
        said = smollm2[1].decode(tokens[labels != IGNORED])
        assert said.endswith("<|im_end|>")
        verdict = WordProblems(steps=2).grade(problem, said.removesuffix("<|im_end|>"))
        assert verdict.status == "correct"


def test_a_right_trace_is_likelier_to_it_than_one_of_another_problem(smollm2: Smollm2) -> None:
    model, tokenizer = smollm2
    family = WordProblems(steps=1)
    one, other = (family.training_problem(0, number) for number in (0, 2))
    prompt = torch.tensor(encode(tokenizer, one, "auto"))
    scores = []
    for problem in (one, other):
        answer = torch.tensor(tokenizer(family.training_trace(problem, 0))["input_ids"])
        row = torch.cat([prompt, answer])[None]
        with torch.no_grad():
            logits = model(input_ids=row).logits[0, len(prompt) - 1 : -1]
        scores.append(float(logits.log_softmax(-1).gather(1, answer[:, None]).mean()))
    assert scores[0] > scores[1] + 0.3
