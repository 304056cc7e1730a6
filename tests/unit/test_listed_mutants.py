"""The mutants that `make mutants` makes fit the code as it is: one of a text that moved tests nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def mutants(monkeypatch: pytest.MonkeyPatch):
    """The files of tests/mutants, which stand beside each other as a program's do."""
    monkeypatch.syspath_prepend(str(ROOT / "tests/mutants"))
    import changes
    import listed

    yield changes, listed
    for name in ("changes", "listed"):
        del sys.modules[name]


def test_every_listed_mutant_changes_one_place(mutants) -> None:
    _, listed = mutants
    stale = [
        one.name
        for one in listed.MUTANTS
        if not (ROOT / one.file).is_file() or (ROOT / one.file).read_text().count(one.before) != 1
    ]
    assert stale == []


def test_every_file_that_mutants_change_and_its_tests_are_there(mutants) -> None:
    changes, listed = mutants
    tests = [word for one in listed.MUTANTS for word in one.tests]
    tests += [word for words in changes.GUARDS.values() for word in words]
    named = [*changes.GUARDS, *(word for word in tests if word.startswith("tests/"))]
    assert [name for name in named if not (ROOT / name.partition("::")[0]).is_file()] == []
