"""The tests' own check of shapes: at the first calls of each function, and of records."""

import pytest
import shape_checks
import torch
from jaxtyping import TypeCheckError

from opdlab.modelling.head import project
from opdlab.records import Questions
from opdlab.sampling.draws import mixed


def test_a_wrong_dtype_a_wrong_rank_and_a_wrong_field_are_told():
    with pytest.raises(TypeCheckError, match="mixed"):
        mixed(torch.ones(3))
    with pytest.raises(TypeCheckError, match="project"):
        project(torch.nn.Identity(), torch.ones(3))
    with pytest.raises(TypeCheckError, match="candidates"):
        Questions(torch.ones(3, 4))


def test_what_comes_after_the_first_calls_of_a_test_is_let_through_until_the_next_test():
    for _ in range(shape_checks.FIRST):
        mixed(torch.ones(3, dtype=torch.int64))
    with pytest.raises(TypeError, match="unsupported operand"):
        mixed(None)
    shape_checks.begin_test()
    with pytest.raises(TypeCheckError):
        mixed(None)
