"""Verdicts on programs beside the benchmarks' own way: one process that runs solution and test together."""

import ast
import os

import pytest

from opdlab_evaluators.programs.judging import Assertions, judge
from opdlab_evaluators.sandbox.process import Limits

LIMITS = Limits(cpu_s=2, wall_s=10)

# A solution, its name, and its test, after problems of HumanEval and MBPP.
PROBLEMS = {
    "a list in order": (
        "def f(xs):\n    return sorted(x + 1 for x in xs if x > 0)",
        "assert f([3, -1, 1]) == [2, 4]\nassert f([]) == []",
    ),
    "an argument changed in place": (
        "def f(xs):\n    xs.append(0)\n    xs.sort()\n    return xs",
        "given = [2, 1]\nfound = f(given)\nassert found is given and given == [0, 1, 2]\n"
        "assert f([0 - 1]) == [-1, 0]",
    ),
    "numbers with a point": (
        "def f(x, y):\n    return x / 4 + y * 2",
        "assert abs(f(1, 2) - 4.25) < 1e-6\nassert f(4, 0) == 1",
    ),
    "texts": (
        "def f(text):\n    return '-'.join(part[0] for part in text.split()) + 'x'",
        "assert f('ab cd') == 'a-cx'\nassert f('q') == 'qx'",
    ),
    "a dictionary": (
        "def f(words):\n    found = {}\n    for word in words:\n"
        "        found[word] = found.get(word, 0) + 1\n    return found",
        "assert f(['a', 'b', 'a']) == {'a': 2, 'b': 1}\nassert f([]) == {}",
    ),
    "a tuple and nothing": (
        "def f(xs):\n    return (min(xs), max(xs) + 0) if len(xs) > 0 else None",
        "assert f([2, 5, 3]) == (2, 5)\nassert f([]) is None",
    ),
    "an error": (
        "def f(n):\n    if n < 0:\n        raise ValueError(n)\n    return n * n",
        "assert f(3) == 9\ntry:\n    f(-1)\nexcept ValueError:\n    pass\nelse:\n    assert False",
    ),
    "a counter": (
        "import collections\ndef f(text):\n    return collections.Counter(text[1:])",
        "assert f('xaab') == {'a': 2, 'b': 1}\nassert f('xb').most_common(1) == [('b', 1)]",
    ),
}  # fmt: skip
FORMS = ["iter", "tuple", "list", "str", "float", "set", "sorted", "repr"]


def mutants(code):
    """The program with one operator, number or result changed at each place; some stay right."""
    for count in range(len(list(ast.walk(ast.parse(code))))):
        tree = ast.parse(code)
        node = list(ast.walk(tree))[count]
        if isinstance(node, ast.Compare):
            node.ops = [ast.GtE() if isinstance(node.ops[0], ast.Gt) else ast.NotEq()]
        elif isinstance(node, ast.BinOp):
            node.op = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
        elif isinstance(node, ast.Constant) and type(node.value) is int:
            node.value += 1
        elif isinstance(node, ast.Return) and node.value is not None:
            form = FORMS[count % len(FORMS)]
            node.value = ast.Call(ast.Name(form, ast.Load()), [node.value], [])
        else:
            continue
        yield ast.unparse(ast.fix_missing_locations(tree))


def passes(text):
    """Whether a text runs to its end in a process of its own."""
    child = os.fork()
    if not child:
        try:
            exec(compile(text, "harness", "exec"), {"__name__": "harness"})
        except BaseException:  # noqa: BLE001
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("name", PROBLEMS)
def test_right_and_changed_solutions_are_judged_as_the_benchmarks_own_harness_judges_them(
    worker, name
):
    code, tests = PROBLEMS[name]
    assert passes(f"{code}\n{tests}")
    other = []
    for program in (code, *mutants(code)):
        verdict = judge(worker, program, Assertions(tests, names={"f": "f"}), LIMITS)
        if verdict.status != ("correct" if passes(f"{program}\n{tests}") else "wrong"):
            other.append((program, verdict))
    assert other == []
