"""Fixtures for tests that train."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from end_to_end.laboratory import Laboratory


@pytest.fixture
def laboratory(tmp_path: Path, store: Path) -> Laboratory:
    return Laboratory(tmp_path / "laboratory", store)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Laboratory:
    """One training that nothing interrupted, for the others to be compared with."""
    laboratory = Laboratory(tmp_path_factory.mktemp("undisturbed") / "laboratory", store)
    laboratory.run("train", laboratory.write())
    return laboratory


@pytest.fixture
def make_laboratory(tmp_path: Path, store: Path) -> Callable[[str], Laboratory]:
    return lambda name: Laboratory(tmp_path / name, store)
