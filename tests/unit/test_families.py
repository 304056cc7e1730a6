"""The embedded families: sides that never meet, graders that check every step and never raise."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from itertools import islice, pairwise, product
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from opdlab import plugins
from opdlab.configuration.loader import load_experiment
from opdlab.errors import ConfigError, DataError
from opdlab.evaluation.store import data_hash
from opdlab.modelling.models import load_tokenizer
from opdlab.prompts import open_prompts
from opdlab.records import Problem
from opdlab_evaluators.embedded.arithmetic import Arithmetic
from opdlab_evaluators.embedded.chain import OPERATIONS, Chain
from opdlab_evaluators.embedded.family import Family, is_test
from opdlab_evaluators.embedded.ledger import LONGEST, NUMBERS, Ledger
from opdlab_evaluators.embedded.routes import MASTERED, OF_TWO_STEPS, UNMASTERED, Routes
from opdlab_evaluators.embedded.stack_code import (
    StackCode,
    draw_expression,
    evaluate,
    execute,
    infix,
    postfix,
    run,
)

FAMILIES = [
    Arithmetic(),
    Arithmetic(level="long"),
    StackCode(),
    StackCode(level="long"),
    Routes(),
    Routes(longest=2),
    Routes(mastery=0.5, delay=7),
    Ledger(),
    Ledger(level="short"),
]
NAMES = [
    "math-short",
    "math-long",
    "code-short",
    "code-long",
    "routes",
    "routes-2",
    "routes-delayed",
    "ledger-long",
    "ledger-short",
]
ANY_FAMILY = pytest.mark.parametrize("family", FAMILIES, ids=NAMES)
ALPHABET = "0123456789abcdefghijpqrsMCR+-*=;#(),:>"


def training(family: Family, count: int, seed: int = 0) -> list[Problem]:
    return [family.training_problem(seed, index) for index in range(count)]


def correct_trace(family: Family, problem: Problem, seed: int) -> str:
    """A trace on the mastered route, where there are routes."""
    trace = family.training_trace(problem, seed)
    while trace.startswith(UNMASTERED):
        seed += 1
        trace = family.training_trace(problem, seed)
    return trace


@ANY_FAMILY
def test_training_and_test_problems_never_meet(family: Family) -> None:
    kind: Any = type(family)
    tests = {
        problem.prompt
        for seed in range(5)
        for problem in kind(**{**vars(family), "limit": 256, "seed": seed}).problems()
    }
    trained = {problem.prompt for seed in range(3) for problem in training(family, 1000, seed)}
    assert not tests & trained
    assert len(tests) > 20
    assert len(trained) > 100


def test_every_problem_of_the_smallest_size_has_one_side() -> None:
    family = Routes(longest=2, limit=400)
    tests = {problem.prompt for problem in family.problems()}
    trained = {problem.prompt for problem in training(family, 12_000)}
    assert not tests & trained
    # 10 first digits and 21 operations a step: nearly all of the 4,410 chains have turned up.
    assert len(tests | trained) > 3800
    assert 0.08 < len(tests) / (len(tests) + len(trained)) < 0.17


def test_families_that_share_their_content_share_its_side() -> None:
    tests = {problem.prompt[1:] for problem in Arithmetic(limit=512).problems()}
    trained = {problem.prompt[1:] for problem in training(Routes(longest=6), 5000)}
    assert not tests & trained


@ANY_FAMILY
def test_about_one_problem_in_eight_is_a_test_problem(family: Family) -> None:
    rng = Random(3)
    share = sum(is_test(family.draw(rng)) for _ in range(4000)) / 4000
    assert 0.08 < share < 0.17


@ANY_FAMILY
def test_problems_are_functions_of_seed_and_index(family: Family) -> None:
    stream = list(islice(family.training_problems(7), 20))
    assert stream == training(family, 20, seed=7)
    assert stream[13] == family.training_problem(7, 13)
    assert stream != training(family, 20, seed=8)
    assert family.problems() == family.problems()
    problem = stream[0]
    assert family.training_trace(problem, 5) == family.training_trace(problem, 5)


@ANY_FAMILY
def test_test_problems_are_different_and_as_many_as_asked(family: Family) -> None:
    problems = family.problems()
    assert len({problem.prompt for problem in problems}) == len(problems) == 64
    assert len({problem.id for problem in problems}) == 64
    assert {problem.benchmark for problem in problems} == {family.benchmark}


@dataclass(frozen=True)
class Digits(Arithmetic):
    """Ten problems, whatever their side."""

    def draw(self, rng: Random) -> Problem:
        prompt = f"M{rng.randrange(40)}"
        return Problem("digits", prompt, prompt, gold="")


def test_more_test_problems_than_exist_are_refused_with_their_number() -> None:
    there = sum(is_test(Problem("digits", "", f"M{n}", gold="")) for n in range(40))
    assert len(Digits(limit=there).problems()) == there > 0
    with pytest.raises(
        DataError, match=f"has {there} test problems, not {there + 1}; set limit to"
    ):
        Digits(limit=there + 1).problems()


def test_an_option_that_was_renamed_is_told_by_its_new_name_and_read_in_records() -> None:
    with pytest.raises(
        ConfigError, match=r"no key evaluation\.benchmarks\.0\.count any more: write limit"
    ):
        load_experiment("quickstart", ["evaluation.benchmarks=[{type: math, count: 3}]"])
    recorded = {"type": "math", "count": 3, "seed": 0, "level": "short"}
    assert plugins.made(plugins.EVALUATORS, recorded) == Arithmetic(limit=3)


def test_a_limit_of_training_problems_lets_them_come_again() -> None:
    config = load_experiment("quickstart", ["prompts.limit=3"])
    endless = load_experiment("quickstart", [])
    tokenizer = load_tokenizer("embedded:student")
    few, all_of_them = (
        open_prompts(one.prompts, tokenizer, one.seed, []) for one in (config, endless)
    )
    assert [few.prompt(i) for i in range(7)] == [all_of_them.prompt(i % 3) for i in range(7)]
    assert (few.count, len(few.places(100))) == (3, 3)
    assert few.manifest()["sha256"] != all_of_them.manifest()["sha256"]


def test_routes_of_two_steps_are_counted_when_the_file_is_read() -> None:
    operations = [(o, int(n)) for o, operands in OPERATIONS.items() for n in operands]
    chains = (Chain(start, two) for start in range(10) for two in product(operations, repeat=2))
    problems = (Problem("routes", "", f"R{chain.content}", gold="") for chain in chains)
    assert sum(map(is_test, problems)) == OF_TWO_STEPS
    with pytest.raises(ValueError, match=r"^limit \(574\) is more than the 573 test problems"):
        Routes(longest=2, limit=574)


@ANY_FAMILY
def test_gold_is_plain_json_and_grading_survives_storage(family: Family) -> None:
    for seed, problem in enumerate(training(family, 50)):
        stored = json.loads(json.dumps(problem.gold))
        assert stored == problem.gold
        again = Problem(problem.benchmark, problem.id, problem.prompt, stored)
        assert family.grade(again, correct_trace(family, problem, seed)).status == "correct"


@ANY_FAMILY
def test_every_correct_trace_grades_correct(family: Family) -> None:
    for seed, problem in enumerate(training(family, 500)):
        verdict = family.grade(problem, correct_trace(family, problem, seed))
        assert verdict.status == "correct", (problem, verdict)
        assert verdict.answer


@pytest.mark.parametrize("family", [Arithmetic(), Arithmetic(level="long"), Routes()])
def test_one_wrong_digit_under_a_right_answer_grades_wrong(family: Family) -> None:
    for seed, problem in enumerate(training(family, 100)):
        trace = correct_trace(family, problem, seed)
        end = trace.index("#")
        for place in [i for i in range(end) if trace[i].isdigit()]:
            changed = trace[:place] + str((int(trace[place]) + 1) % 10) + trace[place + 1 :]
            verdict = family.grade(problem, changed)
            assert verdict.status == "wrong"
            assert verdict.answer == trace[-1]
            step = trace[:place].count(";") + 1
            assert verdict.reason.startswith(f"step {step} is "), verdict


@pytest.mark.parametrize(
    ("completion", "status", "reason"),
    [
        ("a2*3=6;b6-2=4#4", "correct", ""),
        ("a2*3=6;b6-2=4#5", "wrong", "the answer is 5, not 4"),
        ("a2*3=6#4", "wrong", "step 2 is missing, not 'b6-2=4'"),
        ("a2*3=6;b6-2=4;c4+1=5#4", "wrong", "step 3, 'c4+1=5', is one too many"),
        ("b6-2=4;a2*3=6#4", "wrong", "step 1 is 'b6-2=4', not 'a2*3=6'"),
        ("a2*3=6;b6-2=4;#4", "wrong", "step 3, '', is one too many"),
        ("a2*3=6;b6-2=4#44", "no_answer", "no single digit after '#'"),
        ("a2*3=6;b6-2=4#", "no_answer", "no single digit after '#'"),
        ("a2*3=6;b6-2=4", "no_answer", "no single digit after '#'"),
        ("#4", "wrong", "step 1 is '', not 'a2*3=6'"),
        ("a2*3=6;b6-2=٤#٤", "no_answer", "no single digit after '#'"),
    ],
)
def test_verdicts_name_the_first_wrong_step(completion: str, status: str, reason: str) -> None:
    problem = Problem("math/short", "x", "M2a*3b-2=", ["a2*3=6", "b6-2=4"])
    verdict = Arithmetic().grade(problem, completion)
    assert (verdict.status, verdict.reason) == (status, reason)


def test_a_chain_is_worked_out_modulo_ten() -> None:
    chain = Chain(2, (("*", 9), ("-", 9), ("+", 4)))
    assert chain.content == "2a*9b-9c+4="
    assert chain.steps() == ["a2*9=8", "b8-9=9", "c9+4=3"]


def test_only_the_unmastered_route_may_take_steps_in_any_order() -> None:
    problem = Problem("routes", "x", "R2a*3b-2=", ["a2*3=6", "b6-2=4"])
    assert Routes().grade(problem, ">a2*3=6;b6-2=4#4").status == "correct"
    assert Routes().grade(problem, ":b6-2=4;a2*3=6#4").status == "correct"
    assert Routes().grade(problem, ">b6-2=4;a2*3=6#4").status == "wrong"
    assert Routes().grade(problem, ":b6-2=4;a2*3=7#4").status == "wrong"
    assert Routes().grade(problem, "a2*3=6;b6-2=4#4").status == "no_answer"
    assert Routes().grade(problem, "").status == "no_answer"


def test_routes_are_equally_likely_and_unequally_right() -> None:
    family = Routes()
    graded = {MASTERED: [], UNMASTERED: []}
    for seed, problem in enumerate(training(family, 2000)):
        trace = family.training_trace(problem, seed)
        graded[trace[0]].append(family.grade(problem, trace).status == "correct")
    assert 0.46 < len(graded[MASTERED]) / 2000 < 0.54
    assert all(graded[MASTERED])
    assert sum(graded[UNMASTERED]) / len(graded[UNMASTERED]) < 0.06


def test_the_traces_that_the_shipped_models_learnt_are_as_they_were() -> None:
    """Options added since leave every problem and every trace of before bit for bit alone."""
    family, seen = Routes(longest=6), hashlib.sha256()
    for index in range(200):
        problem = family.training_problem(0, index)
        seen.update((problem.id + problem.prompt + family.training_trace(problem, index)).encode())
    assert seen.hexdigest()[:16] == "9749b983efe7cc15"
    assert data_hash(Routes().problems()) == "215165d771b55f26"
    assert (Routes().benchmark, Routes().grader_version) == ("routes", "1")


@pytest.mark.parametrize(("mastery", "right"), [(0.5, 0.5), (0.9, 0.9), (1.0, 1.0)])
def test_so_many_traces_of_the_second_route_are_walked_as_the_first(
    mastery: float, right: float
) -> None:
    family = Routes(mastery=mastery)
    graded = [
        family.grade(problem, trace).status == "correct"
        for seed, problem in enumerate(training(family, 2000))
        if (trace := family.training_trace(problem, seed)).startswith(UNMASTERED)
    ]
    assert 0.46 < len(graded) / 2000 < 0.54
    assert sum(graded) / len(graded) == pytest.approx(right, abs=0.05)


@pytest.mark.parametrize("delay", [1, 3, 7])
def test_delayed_routes_differ_so_many_tokens_later_and_no_sooner(delay: int) -> None:
    family = Routes(delay=delay)
    passages: dict[str, set[str]] = {MASTERED: set(), UNMASTERED: set()}
    labels: dict[str, set[str]] = {MASTERED: set(), UNMASTERED: set()}
    for seed, problem in enumerate(training(family, 500)):
        trace = family.training_trace(problem, seed)
        passages[trace[0]].add(trace[1 : 1 + delay])
        labels[trace[0]].add(trace[1 + delay])
    assert passages[MASTERED] == passages[UNMASTERED]
    assert len(passages[MASTERED]) == 1
    assert labels == {MASTERED: {"a"}, UNMASTERED: set("abcde")}


def test_an_answer_that_skips_the_passage_is_none() -> None:
    problem = Problem("routes/delay-3", "x", "R2a*3b-2=", ["a2*3=6", "b6-2=4"])
    assert Routes(delay=3).grade(problem, ">pqra2*3=6;b6-2=4#4").status == "correct"
    assert Routes(delay=3).grade(problem, ">a2*3=6;b6-2=4#4").status == "no_answer"
    assert Routes(delay=1).grade(problem, ">pqra2*3=6;b6-2=4#4").status == "wrong"
    assert Routes(delay=3).grader_version != Routes(delay=1).grader_version


def ring_of(prompt: str) -> str:
    """The ring of a ledger's prompt, followed by hand."""
    pays = {entry[0]: entry[-1] for entry in prompt[1:-1].split(",")}
    ring, at = "", pays["@"]
    while at != "@":
        ring, at = ring + at, pays[at]
    return ring


def test_a_ledgers_rounds_follow_its_book() -> None:
    for level, rounds in (("short", 2), ("long", 16)):
        family = Ledger(level=level)
        for seed, problem in enumerate(training(family, 50)):
            ring = ring_of(problem.prompt)
            expected = "".join(f"@{number}{ring}" for number in NUMBERS[:rounds]) + "@#"
            assert family.training_trace(problem, seed) == expected
            assert 12 <= len(ring) <= 16
            assert len(set(ring)) == len(ring)


def test_books_are_as_small_as_was_asked() -> None:
    family = Ledger(level="short", smallest=2)
    assert {len(problem.gold) for problem in training(family, 400)} == set(range(2, 17))


def test_a_ledgers_last_round_must_be_right_throughout() -> None:
    family = Ledger(level="short")
    problem = Problem(family.benchmark, "", "Lca,@-c,ab,b@:", gold="cab")
    for text, status in (
        ("@0cab@1cab@#", "correct"),
        ("@0cabb@1cab@#", "correct"),
        ("@0cab@1cb@#", "wrong"),
        ("@0cab@1cab", "no_answer"),
        ("@0cab@#", "no_answer"),
        ("@0cab@1cab@#x", "no_answer"),
    ):
        assert family.grade(problem, text).status == status, text


def test_a_ledger_that_skips_rounds_is_wrong() -> None:
    family = Ledger()
    problem = family.problems()[0]
    ring, whole = problem.gold, family.right_answer(problem)
    rounds = [f"@{number}{ring}" for number in NUMBERS]
    last, end = rounds[-1], "@#"
    skipping = {
        "the last alone": last + end,
        "words before it": "zzz" + last + end,
        "first and last": rounds[0] + last + end,
        "one left out": "".join(rounds[:7] + rounds[8:]) + end,
        "one is a number alone": "".join([*rounds[:7], "@7", *rounds[8:]]) + end,
        "numbers alone": "".join(f"@{n}" for n in NUMBERS[:-1]) + last + end,
        "one account each": "".join(f"@{n}{ring[0]}" for n in NUMBERS[:-1]) + last + end,
        "halves": "".join(one[: 2 + len(ring) // 2] for one in rounds[:-1]) + last + end,
        "words before the first": "zzz" + whole,
        "the book again": problem.prompt + last + end,
        "one round again and again": rounds[0] * 15 + last + end,
        "from last to first": "".join(rounds[-2::-1]) + last + end,
        "the last number on all": last * 16 + end,
        "no numbers": "".join(f"@{ring}" for _ in rounds[:-1]) + last + end,
        "a round too many": rounds[0] + whole,
        "each ended": "@#".join(rounds[:-1]) + last + end,
        "one letter": "".join(f"@{n}{ring[0] * len(ring)}" for n in NUMBERS[:-1]) + last + end,
        "the alphabet": "".join(f"@{n}{''.join(sorted(ring))}" for n in NUMBERS[:-1]) + last + end,
        "backwards": "".join(f"@{n}{ring[::-1]}" for n in NUMBERS[:-1]) + last + end,
        "all in one round": rounds[0]
        + ring * 14
        + "".join(one[:3] for one in rounds[1:-1])
        + last
        + end,
        "every other one": "".join(one if i % 2 else one[:3] for i, one in enumerate(rounds)) + end,
    }
    for what, text in skipping.items():
        assert family.grade(problem, text).status == "wrong", what
    slip = "".join([*rounds[:3], f"@3{ring[:4]}{ring[2:]}", f"@4{ring[5:]}", *rounds[5:]]) + end
    for text in (whole, slip, whole.replace("@3", "@4")):
        assert family.grade(problem, text).status == "correct", text
    reason = family.grade(problem, last + end).reason
    assert reason == "passes 1 of 16 rounds"


def test_a_flawed_trace_that_ends_right_is_still_right() -> None:
    """Slips leave accounts out and come back; no trace that makes them good is taken for one that skips."""
    family = Ledger(flawed=1.0)
    graded = [
        (family.grade(problem, text).status, text.endswith(f"@F{problem.gold}@#"))
        for seed, problem in enumerate(training(family, 2000))
        for text in [family.training_trace(problem, seed)]
    ]
    assert sum(right for _, right in graded) >= 3
    assert all((status == "correct") == right for status, right in graded)


def test_slips_of_a_flawed_ledger_come_in_company_and_late_ones_are_many() -> None:
    """Each slip makes the next likelier: after the first, right payments become rarer and rarer."""
    family = Ledger(flawed=1.0)
    wrong: dict[int, list[bool]] = {}
    first, lengths = [], []
    for seed, problem in enumerate(training(family, 300)):
        pays = dict(zip("@" + problem.gold, problem.gold + "@", strict=True))
        text = family.training_trace(problem, seed)
        lengths.append(len(text))
        path = [c for c in text[:-1] if c == "@" or c.islower()]
        slips = 0
        for place, (at, to) in enumerate(pairwise(path)):
            wrong.setdefault(slips, []).append(pays[at] != to)
            if pays[at] != to:
                slips += 1
                if slips == 1:
                    first.append(place)
    rate = [sum(wrong[n]) / len(wrong[n]) for n in (1, 2, 3, 6)]
    assert rate == pytest.approx([0.15, 0.3, 0.45, 0.5], abs=0.05)
    assert min(first) < 60 < 80 < sum(first) / len(first) < 130
    assert max(lengths) <= LONGEST


def test_so_many_ledgers_are_flawed_as_was_asked() -> None:
    family = Ledger(flawed=0.2)
    flawed = [
        family.training_trace(problem, seed) != family.right_answer(problem)
        for seed, problem in enumerate(training(family, 400))
    ]
    assert 0.14 < sum(flawed) / 400 < 0.26


def test_stack_code_gives_what_the_expression_tree_gives() -> None:
    rng = Random(1)
    for _ in range(500):
        tree = draw_expression(rng, rng.randint(0, 5), "abc")
        memory = {name: rng.randrange(97) for name in "abc"}
        assert run(postfix(tree, rng), memory) == evaluate(tree, memory)


def test_an_expression_means_what_python_reads_in_it() -> None:
    rng = Random(2)
    for _ in range(300):
        tree = draw_expression(rng, rng.randint(1, 4), "abc")
        memory = {name: rng.randrange(97) for name in "abc"}
        assert evaluate(tree, memory) == eval(infix(tree), {}, memory) % 97


def test_an_equivalent_program_is_right_and_votes_for_the_same_answer() -> None:
    family = StackCode()
    problem = next(p for p in family.training_problems(0) if p.prompt.count("=") == 1)
    trace = family.training_trace(problem, 0)
    longer = trace.replace("p=", "p=c").replace("#", "+c-#")
    first, second = family.grade(problem, trace), family.grade(problem, longer)
    assert (first.status, second.status) == ("correct", "correct")
    assert first.answer == second.answer


def test_every_statement_of_a_program_must_be_right() -> None:
    family = StackCode(level="long")
    for seed, problem in enumerate(training(family, 100)):
        statements = family.training_trace(problem, seed)[:-1].split(";")
        for number, statement in enumerate(statements):
            faulty = [*statements]
            faulty[number] = statement + "a+"
            verdict = family.grade(problem, ";".join(faulty) + "#")
            assert verdict.status == "wrong"
            assert verdict.reason.startswith(f"statement {number + 1} ")
        for text in (statements[:-1], [*statements, "s=a"], statements[::-1], []):
            assert family.grade(problem, ";".join(text) + "#").status == "wrong"
        assert family.grade(problem, ";".join(statements)).status == "no_answer"


def test_the_interpreter_refuses_what_is_no_program() -> None:
    memory = {"a": 5, "b": 7}
    assert run("ab-", memory) == 95
    for junk in ("", "ab", "+", "a+", "ab+-", "ax+", "a b+", "12+", "é"):
        assert run(junk, memory) is None
    assert execute("p=ab*;q=pp+", memory) == [["p", 35], ["q", 70]]
    assert execute("p=a;a=;q=b", memory) == [["p", 5], ["a", None]]


@ANY_FAMILY
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_grading_never_raises_and_always_says_something(
    family: Family, data: st.DataObject
) -> None:
    problem = family.training_problem(0, data.draw(st.integers(0, 20)))
    trace = family.training_trace(problem, 0)
    junk = st.text() | st.text(ALPHABET, max_size=200)
    place = data.draw(st.integers(0, len(trace)))
    text = data.draw(junk | st.builds(lambda extra: trace[:place] + extra + trace[place:], junk))
    verdict = family.grade(problem, text)
    assert verdict.status in ("correct", "wrong", "no_answer")
    assert bool(verdict.reason) == (verdict.status != "correct")
    if verdict.status == "correct":
        assert verdict.answer is not None


@ANY_FAMILY
def test_a_very_long_completion_is_graded_at_once(family: Family) -> None:
    problem = family.training_problem(0, 0)
    for text in ("p=" + "a" * 100_000 + "*" * 99_999 + "#", ";" * 200_000 + "#4", ">" * 200_000):
        assert family.grade(problem, text).status in ("wrong", "no_answer")


@pytest.mark.parametrize("name", ["teacher", "student"])
@pytest.mark.parametrize("family", FAMILIES[:7], ids=NAMES[:7])
def test_the_shipped_tokenizers_write_every_problem_and_trace(family: Family, name: str) -> None:
    tokenizer = load_tokenizer(f"embedded:{name}")
    for seed, problem in enumerate(training(family, 50)):
        text = problem.prompt + family.training_trace(problem, seed)
        ids = tokenizer(text)["input_ids"]
        assert len(ids) == len(text) + 1
        assert ids[0] == tokenizer.bos_token_id
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
