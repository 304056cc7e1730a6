"""Files in the form of public sets: trained on for two steps, and measured as benchmarks."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_chat
from machine import need_sandbox
from public_rows import PUBLIC

from opdlab.configuration.config import Experiment
from opdlab.evaluation.measured import evaluate
from opdlab.identity.measurement import Owner
from opdlab.records import Verdict
from opdlab.training.pair import load_module, load_pair, require_prompts


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_chat.save(tmp_path_factory.mktemp("model"), 128)


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_set_is_trained_on_and_measured(tmp_path: Path, model: str, name: str) -> None:
    public = PUBLIC[name]
    if public.prompts.get("grader") == "code":
        need_sandbox()
    path = str(tmp_path / "a.parquet")
    pq.write_table(pa.Table.from_pylist([public.row(n) for n in range(1, 5)]), path)
    measured = public.measured or public.prompts
    config = Experiment.model_validate(
        {
            "name": "mine",
            "student": {"path": model},
            "teacher": {"path": model},
            "prompts": {"type": "dataset", "path": path, **public.prompts},
            "rollout": {
                "type": "cached",
                "max_new_tokens": 8,
                "group_size": 2 if public.method == "grpo" else 1,
            },
            "method": {"type": public.method},
            "training": {"steps": 2, "prompts_per_step": 2, "accelerator": "cpu", "threads": 1},
            "evaluation": {
                "benchmarks": [{"type": "dataset", "name": "mine", "path": path, **measured}],
                "samples": 2,
            },
        }
    )
    pair = load_pair(config)
    require_prompts(config, pair)
    module = load_module(pair, config)
    tiny_chat.fit(module)
    assert module.global_step == 2
    assert ("accuracy" in module.metrics) is (public.gold is not None)
    subject = pair.subject(pair.student, config)
    samples = evaluate(subject, config.evaluation, Owner("m"), tmp_path / "s")
    assert len(samples) == 8
    assert not {sample.status for sample in samples} & set(Verdict.FAULTS)
    (benchmark,) = config.evaluation.benchmarks
    for problem in benchmark.problems():
        if (answer := benchmark.right_answer(problem)) is not None:
            assert benchmark.grade(problem, answer).status == "correct"
