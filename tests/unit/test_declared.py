"""What plugins say of themselves is checked before an experiment begins: one line names the property."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from spoilt import spoilt

from opdlab.errors import DataError, PluginError
from opdlab.methods.needs import Needs
from opdlab.methods.opd import OPD
from opdlab.objectives.oracle import examine
from opdlab.plugins import declared, posed
from opdlab.plugins.evaluator import Evaluator, Trial
from opdlab.records import Problem, Verdict

CONTRACT = OPD().contract


def raising(_: Any) -> Any:
    raise KeyError("oops")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("group", None, "Mine.group is None, wanted a whole number of 0 or more"),
        ("group", 2.0, "Mine.group is 2.0, wanted a whole number"),
        ("group", -1, "Mine.group is -1, wanted a whole number"),
        ("full", True, "Mine.full is True, and follows from `needs`: leave it out"),
        ("needs", None, "Mine.needs returned None, wanted Needs"),
        ("needs", spoilt(Needs(), support="all"), "Mine.needs.support is 'all', wanted 'none' or"),
        ("needs", spoilt(Needs(), confidence="size"), "Mine.needs.confidence is 'size', wanted"),
        ("needs", Needs("top-k"), "Mine.needs.top_k is 0, wanted the tokens of support 'top-k'"),
        ("needs", Needs(top_k=3), "Mine.needs.top_k is 3, wanted"),
        ("needs", Needs(answers=True), "Mine.needs.answers is True, wanted whether `sampler` is"),
        ("graded", "yes", "Mine.graded is 'yes', wanted True or False"),
        ("sampler", "studnt", "Mine.sampler is 'studnt', wanted 'student' or 'teacher'"),
        ("contract", None, "Mine.contract returned None, wanted Contract"),
        ("contract", spoilt(CONTRACT, gradient=None), "Mine.contract.gradient is None, wanted a"),
        ("contract", spoilt(CONTRACT, gradient={"reverse_kl": "1"}), "wanted a mapping from"),
        ("contract", spoilt(CONTRACT, gradient={"reverse": 1.0}), "names 'reverse', which is no"),
        ("contract", spoilt(CONTRACT, support="all"), "Mine.contract.support is 'all', wanted"),
        ("contract", spoilt(CONTRACT, baseline=0), "Mine.contract.baseline is 0, wanted text"),
        ("corrected", property(raising), r"failed: KeyError: 'oops' .test_declared"),
        ("contract", OPD.contract.fget, "a method, wanted Contract"),
    ],
    ids=str.split("none float negative derived no_needs support measure no_k k answers "
        "text typo no_contract no_gradient factor term literal "
        "number raises method"),
)  # fmt: skip
def test_a_property_of_a_method_that_cannot_be_is_named(name: str, value: Any, words: str) -> None:
    mine = dataclass(frozen=True)(type("Mine", (OPD,), {name: value}))
    with pytest.raises(PluginError, match=words) as caught:
        examine(mine())
    assert "\n" not in str(caught.value)


GOOD = Problem("posed", "1", "1+1=", "2")


@dataclass(frozen=True)
class Posed(Evaluator):
    """An evaluator with one slip."""

    slip: str = ""

    @property
    def benchmark(self) -> Any:
        return {"no name": None, "blank": " ", "half name": "a\ud800"}.get(self.slip, "posed")

    @property
    def grader_version(self) -> Any:
        return {"version": 1}.get(self.slip, "1")

    @property
    def graded_at_once(self) -> Any:
        return {"none at once": 0, "no count": None, "half count": 0.5}.get(self.slip, 5)

    def problems(self) -> Any:
        good = GOOD
        return {
            "nothing": None,
            "generator": (one for one in [good]),
            "none there": [],
            "dict": [{"id": "1"}],
            "number": [spoilt(good, id=1)],
            "no prompt": [spoilt(good, prompt="")],
            "half": [spoilt(good, id="a\ud800")],
            "foreign": [spoilt(good, benchmark="other")],
            "twice": [good, good],
            "gold": [spoilt(good, gold={1, 2})],
        }.get(self.slip, [good])

    def grade(self, problem: Problem, completion: str) -> Verdict:
        return Verdict("correct")

    def training_problem(self, seed: int, index: int) -> Any:
        if self.slip == "raises":
            raise KeyError("oops")
        return {"text": "1+1="}.get(self.slip, GOOD)

    def training_trace(self, problem: Problem, seed: int) -> Any:
        return {"no trace": None}.get(self.slip, "2")

    def right_answer(self, problem: Problem) -> Any:
        return {"answer": 2}.get(self.slip, "2")

    def known_fault(self, problem: Problem) -> Any:
        return {"fault": True}.get(self.slip)


@pytest.mark.parametrize(
    ("slip", "words"),
    [
        ("no name", "Posed.benchmark is None, wanted text that is not empty"),
        ("blank", "Posed.benchmark is ' ', wanted text"),
        ("half name", r"Posed.benchmark is 'a.ud800', wanted text without half characters"),
        ("none at once", "Posed.graded_at_once is 0, wanted a whole number of 1 or more"),
        ("no count", "Posed.graded_at_once is None, wanted a whole number"),
        ("half count", "Posed.graded_at_once is 0.5, wanted a whole number"),
        ("version", "Posed.grader_version is 1, wanted text"),
        ("nothing", "Posed.problems returned None, wanted a list of Problem"),
        ("generator", "Posed.problems returned a generator, wanted a list"),
        ("none there", "Posed.problems returned no problems of posed"),
        ("dict", "Posed.problems: number 0 is a dict, wanted Problem"),
        ("number", "Posed.problems: number 0: its id is a int, wanted text"),
        ("half", r"Posed.problems: number 0: its id holds half of a character: 'a.ud800'"),
        ("no prompt", "Posed.problems: number 0: its prompt is empty"),
        ("foreign", "number 0: its benchmark is 'other', wanted 'posed'"),
        ("twice", "number 1 has the id '1' of number 0; ids must differ"),
        ("gold", "number 0: gold and extra must hold only JSON values"),
        ("raises", r"Posed.training_problem failed: KeyError: 'oops' .test_declared.py, line"),
        ("text", r"Posed.training_problem.3, 0. is a str, wanted Problem"),
        ("no trace", "Posed.training_trace of problem 1 returned None, wanted text"),
        ("answer", "Posed.trials gave a int, wanted Trial with a completion that is text"),
        ("fault", "Posed.known_fault of problem 1 returned a bool, wanted text or None"),
    ],
)
def test_what_an_evaluator_poses_is_checked(slip: str, words: str) -> None:
    problem = GOOD
    mine = Posed(slip)
    with pytest.raises(PluginError, match=words) as caught:  # noqa: PT012 - one of them raises
        declared.evaluator(mine)
        posed.training_problem(mine, 3, 0)
        posed.training_trace(mine, problem, 0)
        posed.known_fault(mine, problem)
        posed.trials(mine, [problem])
        posed.problems(mine)
    assert "\n" not in str(caught.value)


def test_what_is_right_passes_unchanged() -> None:
    mine = Posed()
    declared.evaluator(mine)
    assert posed.problems(mine) == mine.problems()
    assert posed.training_problem(mine, 0, 0) == mine.problems()[0]
    assert [type(one) for one in posed.trials(mine, mine.problems())] == [Trial] * 3


def test_a_benchmark_without_training_problems_and_errors_on_purpose_keep_their_kind() -> None:
    @dataclass(frozen=True)
    class Plain(Posed):
        training_problem = Evaluator.training_problem

        def problems(self) -> Any:
            raise DataError("put the file there")

    with pytest.raises(NotImplementedError, match="posed has no training problems"):
        posed.training_problem(Plain(), 0, 0)
    with pytest.raises(DataError, match="put the file there"):
        posed.problems(Plain())
