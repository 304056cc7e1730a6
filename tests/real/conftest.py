"""A real language model, loaded once for all tests here."""

from __future__ import annotations

from typing import Any

import pytest
from machine import need_smollm2

from opdlab.modelling import models


@pytest.fixture(scope="session")
def smollm2() -> tuple[Any, Any]:
    """SmolLM2-135M-Instruct and its tokenizer; no test changes them."""
    path = need_smollm2()
    return models.load_model(path), models.load_tokenizer(path)
