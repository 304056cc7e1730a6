"""Measure a model: k samples of every problem, graded, stored and summarised."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from opdlab import plugins, store
from opdlab.prompts import encode
from opdlab.records import Problem, Rollout, Sample, Verdict

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from opdlab.config import Evaluation
    from opdlab.evaluator import Evaluator
    from opdlab.rollout import RolloutEngine

MAX_SEED_BYTES = 7  # so that a seed fits an int64


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn; `max_new_tokens` None leaves the rollout's."""

    temperature: float
    top_p: float
    max_new_tokens: int | None


PRESETS = {
    # What the makers of reasoning models recommend, and papers evaluate with.
    "reasoning": Sampling(0.6, 0.95, 32_768),
    "on_policy": Sampling(1.0, 1.0, None),
    "greedy": Sampling(0.0, 1.0, None),
}


@dataclass(frozen=True)
class Subject:
    """A model to be measured, with all that decides what it says."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    engine: RolloutEngine
    eos_ids: tuple[int, ...]
    pad_id: int
    vocabulary: int | None
    template: str


def sampling_engine(engine: RolloutEngine, settings: Evaluation) -> RolloutEngine:
    """The rollout engine with the sampling of the evaluation: its preset, single values replaced."""
    preset = PRESETS[settings.sampling]
    longest = settings.max_new_tokens or preset.max_new_tokens or engine.max_new_tokens
    return replace(
        engine,
        max_new_tokens=longest,
        temperature=preset.temperature if settings.temperature is None else settings.temperature,
        top_p=preset.top_p if settings.top_p is None else settings.top_p,
    )


def evaluate(
    subject: Subject,
    settings: Evaluation,
    checkpoint: str,
    folder: Path,
    on_finished: Callable[[int], None] | None = None,
) -> list[Sample]:
    """Sample and grade every benchmark, or read what an earlier call has stored.

    Args:
        checkpoint: name of what is measured, such as `student` or `step-80`.
        folder: where the samples are kept; a benchmark whose samples are there already is not
            sampled again, so an evaluation that was cut short goes on.
        on_finished: called with the number of responses finished since the last call.
    """
    samples: list[Sample] = []
    for benchmark in settings.benchmarks:
        protocol = protocol_of(benchmark, subject, settings)
        found = store.find_samples(folder, checkpoint, benchmark.benchmark, protocol)
        if found is None:
            found = _measure(subject, benchmark, settings, checkpoint, protocol, on_finished)
            store.write_samples(folder, found)
        elif on_finished is not None:
            on_finished(len(found))
        samples += found
    return samples


def protocol_of(benchmark: Evaluator, subject: Subject, settings: Evaluation) -> str:
    """Hash of all that makes two scores of a benchmark comparable."""
    engine = sampling_engine(subject.engine, settings)
    return store.protocol_hash(
        benchmark.problems(),
        template=subject.template,
        temperature=engine.temperature,
        top_p=engine.top_p,
        max_new_tokens=engine.max_new_tokens,
        samples=settings.samples,
        grader_version=benchmark.grader_version,
    )


def sample_seed(seed: int, problem: Problem, index: int) -> int:
    """Seed of one sample, the same for every model and independent of the order of problems."""
    text = f"{seed}/{problem.benchmark}/{problem.id}/{index}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:MAX_SEED_BYTES])


def _measure(
    subject: Subject,
    benchmark: Evaluator,
    settings: Evaluation,
    checkpoint: str,
    protocol: str,
    on_finished: Callable[[int], None] | None,
) -> list[Sample]:
    asked = [(p, i) for p in benchmark.problems() for i in range(settings.samples)]
    prompts = {
        p.id: encode(subject.tokenizer, p.prompt, subject.template) for p in benchmark.problems()
    }
    rollout = sampling_engine(subject.engine, settings).sample(
        subject.model,
        [prompts[problem.id] for problem, _ in asked],
        [sample_seed(settings.seed, problem, index) for problem, index in asked],
        eos_ids=subject.eos_ids,
        pad_id=subject.pad_id,
        vocabulary=subject.vocabulary,
        max_rows=settings.batch_rows,
        on_finished=on_finished,
    )
    completions = decode(rollout, subject.tokenizer)
    samples = []
    for row, ((problem, index), text) in enumerate(zip(asked, completions, strict=True)):
        stop = "eos" if rollout.ended[row] else "length"
        verdict = judge(benchmark, problem, text, stop)
        samples.append(
            Sample(
                checkpoint=checkpoint,
                benchmark=benchmark.benchmark,
                problem=problem.id,
                index=index,
                seed=int(rollout.seeds[row]),
                prompt=problem.prompt,
                completion=text,
                tokens=int(rollout.response_lengths[row]),
                stop=stop,
                status=verdict.status,
                answer=verdict.answer,
                reason=verdict.reason,
                grader=benchmark.grader_version,
                protocol=protocol,
            )
        )
    return samples


def judge(benchmark: Evaluator, problem: Problem, completion: str, stop: str) -> Verdict:
    """The grader's verdict; a response cut at the length limit is `truncated` unless it is right."""
    verdict = benchmark.grade(problem, completion)
    if stop == "length" and verdict.status in ("wrong", "no_answer"):
        return replace(verdict, status="truncated")
    return verdict


def decode(rollout: Rollout, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Text of every response, special tokens removed."""
    texts = []
    for row, (start, length) in enumerate(
        zip(rollout.prompt_lengths.tolist(), rollout.response_lengths.tolist(), strict=True)
    ):
        ids = rollout.tokens[row, start : start + length].tolist()
        texts.append(str(tokenizer.decode(ids, skip_special_tokens=True)))
    return texts


def headline(samples: Sequence[Sample]) -> dict[str, float]:
    """Metrics of a set of samples under the names that MLflow accepts (`math/short/mean_at_8`)."""
    metrics: dict[str, float] = {}
    for summary in plugins.load(plugins.STATISTICS, "scores")(samples):
        for name, value in summary.metrics().items():
            metrics[f"{summary.benchmark}/{name}"] = value
    return metrics
