"""The table of architectures: what is tried of each, and what is said of those that fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from opdlab.bench import families
from opdlab.errors import ConfigError


def test_a_row_says_how_far_each_way_is_from_whole_forwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(families, "LENGTH", 24)
    families.bench_families(["lfm2-conv"], None, str(tmp_path / "table.md"), None)
    head, _, hybrid, *_ = (tmp_path / "table.md").read_text().splitlines()
    assert head.startswith("| family | states | tree | cached |")
    name, states, tree, cached, gradient, *_ = hybrid.strip("| ").split(" | ")
    assert (name, states) == ("lfm2-conv", "2")
    assert all(float(gap) < 2e-5 for gap in (tree, cached, gradient))
    refused = families.Tried("rwkv", 0, "naive", 0.0, None, "no keys", 1e-7, 1.0, 1.0)
    assert "| rwkv | - | naive | refused | 1e-07 | - | - |" in families.markdown([refused])


def test_an_unknown_architecture_is_named_with_those_that_are_known() -> None:
    with pytest.raises(ConfigError, match=r"no architecture 'lama' here; known are .*llama"):
        families.bench_families(["lama"], None, None, None)
