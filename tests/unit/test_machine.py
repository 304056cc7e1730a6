"""A test whose tool is missing never passes over it in silence."""

import pytest
from machine import missing, no_data


@pytest.mark.parametrize(
    ("ci", "outcome"), [("", pytest.skip.Exception), ("true", pytest.fail.Exception)]
)
def test_a_missing_tool_skips_with_its_remedy_and_fails_where_ci_is_set(monkeypatch, ci, outcome):
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="no sandbox: apt install bubblewrap"):
        missing("no sandbox", "apt install bubblewrap")


def test_missing_data_skip_even_there(monkeypatch):
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.skip.Exception, match=r"put it into a folder .* OPDLAB_DATA"):
        no_data("a.jsonl")
