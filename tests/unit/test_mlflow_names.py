"""Names that MLflow allows, made from any."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st
from mlflow.utils.validation import _validate_metric_name, _validate_param_name

from opdlab.tracking.mlflow_names import LONGEST, quoted, unquoted


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("math/short/mean_at_8", "math/short/mean_at_8"),
        ("gsm8k+/mean_at_8", "gsm8k:2b:/mean_at_8"),
        ("a/../b", "a:2f::2e::2e::2f:b"),
        ("", ":0:"),
    ],
)
def test_only_what_mlflow_refuses_is_written_in_another_way(name: str, shown: str) -> None:
    assert quoted(name) == shown
    assert unquoted(shown) == name


@settings(max_examples=40)
@given(st.text(max_size=60), st.text(max_size=60))
def test_every_name_is_allowed_and_can_be_told_from_others(one: str, other: str) -> None:
    for check in (_validate_metric_name, _validate_param_name):
        check(quoted(one))
    assert (quoted(one) == quoted(other)) == (one == other)
    assert unquoted(quoted(one)) == one


def test_names_that_are_too_long_are_told_apart() -> None:
    one, other = quoted("x" * 400 + "1"), quoted("x" * 400 + "2")
    assert len(one) == len(other) == LONGEST
    assert one != other
