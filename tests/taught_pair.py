"""The embedded student and teacher, and answers that the one writes and the other scores, as fixtures."""

from __future__ import annotations

import pytest
from transformers import PreTrainedModel

from opdlab.modelling import models
from opdlab.records import Rollout
from opdlab.sampling.rollout import CachedEngine
from opdlab.scoring.teacher import Teacher

STUDENT, TEACHER = models.EMBEDDED / "student", models.EMBEDDED / "teacher"
ENTRIES = 42
"""Of the vocabulary, which count."""
PROMPTS = [[1, 5, 9, 12 + row] + [7] * (row % 3) for row in range(6)]


@pytest.fixture(scope="module")
def student() -> PreTrainedModel:
    return models.load_model(str(STUDENT))


@pytest.fixture(scope="module")
def here() -> Teacher:
    return Teacher(models.load_model(str(TEACHER)), ENTRIES).probe()


@pytest.fixture(scope="module")
def rollout(student: PreTrainedModel) -> Rollout:
    engine = CachedEngine(max_new_tokens=12)
    return engine.sample(student, PROMPTS, list(range(6)), eos_ids=(2,), pad_id=0, top_k=4)
