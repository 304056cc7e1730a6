"""The seam between a teacher and whatever asks it: one protocol, and no forward before the probe."""

from __future__ import annotations

import ast
import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from small_models import VOCABULARY, random_rollout, small_model
from torch.nn.modules.module import register_module_forward_pre_hook
from tree_controls import RAGGED

from opdlab.api import Teacher as GivenTeacher
from opdlab.configuration.loader import load_experiment
from opdlab.methods.needs import EVERYTHING, MEASURES, SUPPORTS, Needs, Offers, unmet
from opdlab.modelling.head import log_distribution
from opdlab.records import Questions
from opdlab.scoring.scorer import Scorer
from opdlab.scoring.teacher import Teacher
from opdlab.training.pair import load_module, load_pair

ROOT = Path(__file__).parents[2]
TEACHERS = {"teacher", "scorer", "itself", "general", "one.teacher"}


@contextmanager
def forwards() -> Iterator[list[str]]:
    """Names of the modules whose forward ran meanwhile."""
    ran: list[str] = []
    handle = register_module_forward_pre_hook(lambda module, _: ran.append(type(module).__name__))
    try:
        yield ran
    finally:
        handle.remove()


def names_of(node: ast.expr) -> str:
    """The last name of an expression: `teacher` of `self.teacher`, and of `teacher.probe()`."""
    if isinstance(node, ast.Call):
        node = node.func.value if isinstance(node.func, ast.Attribute) else node.func
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def models_taken(source: str) -> list[int]:
    """Lines in which the model of a teacher is touched."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute) and node.attr in ("model", "weights")
        if names_of(node.value) in TEACHERS
    ]


def test_nobody_outside_of_scoring_touches_the_model_of_a_teacher() -> None:
    files = [
        path
        for folder in ("platform", "evaluators", "dashboards")
        for path in (ROOT / folder).rglob("*.py")
        if "scoring" not in path.parts
    ]
    assert len(files) > 300
    found = {str(path): lines for path in files if (lines := models_taken(path.read_text()))}
    assert not found
    assert models_taken("a = self.teacher.model\nb = Teacher(m)\nteacher.probe().model.to(1)") == [
        1,
        3,
    ]


def test_a_teacher_is_made_placed_and_probed_in_three_steps() -> None:
    model = small_model("llama")
    with forwards() as ran:
        teacher = Teacher(model, VOCABULARY)
        given = GivenTeacher(model)
        teacher.place(torch.device("cpu"))
        assert not ran
        teacher.probe()
        assert ran
        ran.clear()
        teacher.probe()
        assert not ran
        assert given.way == "tree"
        assert ran


def test_what_is_trained_is_made_without_a_forward() -> None:
    config = load_experiment("quickstart", ["runs=[]", "training.steps=1"])
    pair = load_pair(config)
    with forwards() as ran:
        module = load_module(pair, config)
    assert not ran
    assert isinstance(module.teacher, Scorer)


def test_a_step_leaves_no_tensor_to_the_collector_of_garbage() -> None:
    teacher = Teacher(small_model("llama")).probe()
    gc.disable()
    try:
        rollout = random_rollout([3, 2], [4, 5])
        scores = teacher.score(rollout, Questions(rollout.candidates, full=True))
        assert (rollout.host, scores.host) == (rollout, scores)
        held = [weakref.ref(one) for one in (rollout.tokens, scores.log_prob, scores.hidden)]
        del rollout, scores
        assert [one() for one in held] == [None] * 3
    finally:
        gc.enable()


def test_a_scorer_says_its_distributions_again_over_the_shared_entries() -> None:
    model, rollout = small_model("llama"), random_rollout(*RAGGED)
    teacher = Teacher(model, VOCABULARY - 3)
    assert isinstance(teacher, Scorer)
    asked = Questions(rollout.candidates[:, :0], full=True)
    scores = Teacher(model).score(rollout, asked)
    assert scores.hidden is not None
    assert scores.distributions is not None
    logits = teacher.logits(scores.distributions)(slice(0, 4))
    truth = log_distribution(model, scores.hidden[:4], VOCABULARY - 3)
    torch.testing.assert_close(logits.log_softmax(-1), truth)
    part = scores.distributions.at(torch.tensor([3, 1]))
    torch.testing.assert_close(
        teacher.logits(part)(slice(0, 2)), logits[[3, 1]], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    ("needs", "missing"),
    [
        (Needs(), []),
        (Needs("none"), []),
        (Needs("full"), [("support", "no heads")]),
        (Needs("top-k", 4), []),
        (Needs(confidence="max_prob"), []),
        (Needs("full", confidence="entropy"), [("support", "no heads"), ("confidence", "no tail")]),
        (Needs(confidence="max_prob", steps=2), [("steps", "no chain")]),
        (Needs(answers=True), [("answers", "no pen")]),
    ],
)
def test_what_a_method_needs_is_held_against_what_a_teacher_offers(
    needs: Needs, missing: list[tuple[str, str]]
) -> None:
    why = {"full": "no heads", "entropy": "no tail", "steps": "no chain", "answers": "no pen"}
    offers = Offers(frozenset(SUPPORTS[:3]), frozenset(MEASURES[:1]), False, why)
    assert list(unmet(needs, offers)) == missing
    assert not list(unmet(needs, EVERYTHING))
