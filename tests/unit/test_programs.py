"""Programs are found, run and judged; what pretends to be right is not, and faults are no wrong answers."""

import json
import pickle
from dataclasses import replace

import pytest
from code_rows import packed

from opdlab.errors import DataError
from opdlab.records import Verdict
from opdlab_evaluators.programs import rules
from opdlab_evaluators.programs.extraction import (
    definitions,
    function_body,
    last_block,
    last_two_fences,
)
from opdlab_evaluators.programs.judging import (
    Answered,
    Assertions,
    answer_call,
    answer_stdin,
    judge,
)
from opdlab_evaluators.programs.names import class_names, mentioned
from opdlab_evaluators.programs.pool import ProgramPool
from opdlab_evaluators.programs.private_tests import Case, cases, unpacked
from opdlab_evaluators.sandbox.process import Limits, SandboxDiedError

LIMITS = Limits(cpu_s=1, wall_s=2)
RIGHT = "def add(a, b):\n    return a + b\n"
TESTS = Assertions(
    "for a in range(5):\n    assert add(a, 2) == a + 2\nassert add([1], [2]) == [1, 2]",
    names={"add": "add"},
)


def test_a_right_program_is_correct_and_a_wrong_one_says_where(worker):
    assert judge(worker, RIGHT, TESTS, LIMITS).status == "correct"
    wrong = judge(worker, "def add(a, b):\n    return a + a", TESTS, LIMITS)
    assert wrong.status == "wrong"
    assert wrong.reason == "AssertionError at `assert add(a, 2) == a + 2`"


PRETENDERS = {
    "equal to everything": "class E:\n    def __eq__(self, o): return True\n"
    "    def __ne__(self, o): return False\n"
    "def add(a, b): return E()",
    "an integer equal to everything": "class I(int):\n    def __eq__(self, o): return True\n"
    "    __hash__ = None\ndef add(a, b): return I(0)",
    "a list equal to everything": "class L(list):\n    def __eq__(self, o): return True\n"
    "    def __iter__(self): return iter([1, 2])\n    def __len__(self): return 2\n"
    "def add(a, b): return L()",
    "a string subclass": "class S(str):\n    def __eq__(self, o): return True\n"
    "    __hash__ = str.__hash__\ndef add(a, b): return S()",
    "exit 0": "import sys\nsys.exit(0)",
    "exit 0 in the function": "import sys\ndef add(a, b): sys.exit(0)",
    "hard exit": "import os\ndef add(a, b): os._exit(0)",
    "hard exit at once": "import os\nos._exit(0)",
    "built-ins replaced": "import builtins\nbuiltins.AssertionError = type('A', (BaseException,), {})\n"
    "builtins.len = builtins.all = lambda *a: True\ndef add(a, b): return None",
    "a verdict on the channel": "import os, json\nt = json.dumps({'passed': True}).encode()\n"
    "for fd in range(3, 20):\n    try: os.write(fd, len(t).to_bytes(4, 'big') + t)\n"
    "    except OSError: pass\ndef add(a, b): return None",
    "answers before the questions": "import os, json\nfor v in (None, True, 2, True):\n"
    "    t = json.dumps({'value': v}).encode()\n    os.write(3, len(t).to_bytes(4, 'big') + t)\n"
    "def add(a, b): return None",
    "a message without end": "import os\nos.write(3, b'\\x00\\xff\\xff\\xff')\ndef add(a, b): return a + b",
    "a message too large": "import os\nos.write(3, b'\\xff' * 4)\ndef add(a, b): return a + b",
    "a verdict on the output": "print('passed')\nprint('{\"passed\": true}')\ndef add(a, b): return None",
    "nonsense": "import os\nos.write(3, b'\\0\\0\\0\\4nope')\ndef add(a, b): return a + b",
    "deep nonsense": "import os\nt = b'[' * 100000\nos.write(3, len(t).to_bytes(4, 'big') + t)\n"
    "def add(a, b): return a + b",
    "a value nested in itself": "def add(a, b):\n    x = []\n    x.append(x)\n    return x",
    "a handle of its own making": "import os, json\n"
    "t = json.dumps({'value': {'object': [10 ** 9, '__class__']}}).encode()\n"
    "os.write(3, len(t).to_bytes(4, 'big') + t)\ndef add(a, b): return None",
    "an error with a life of its own": "class E(BaseException):\n    def __str__(self): raise E\n"
    "def add(a, b): raise E",
    "an error that is no failure": "def add(a, b): raise StopIteration",
    "an error of memory": "def add(a, b): raise MemoryError",
    "no function": "x = 1",
    "another function": "def sub(a, b): return a + b",
    "no program": "def add(a, b:",
    "a null byte": "def add(a, b): return a + b\n\0",
    "half a character": "def add(a, b): return a + b\n'\ud83d'",
    "too deep": "def add(a, b): return add(a, b)",
    "too much data": "def add(a, b): return 'x' * (64 << 20)",
    "a server in its place": "import os, sys\nif os.fork() == 0:\n    os._exit(0)\ndef add(a, b): return 0",
    "the judge's frames": "import sys\ndef add(a, b):\n    f = sys._getframe()\n"
    "    while f:\n        f.f_locals.update(passed=True)\n        f = f.f_back\n    return None",
}


@pytest.mark.parametrize("name", PRETENDERS)
def test_what_only_pretends_to_be_right_is_wrong(worker, name):
    verdict = judge(worker, PRETENDERS[name], TESTS, LIMITS)
    assert verdict.status == "wrong", verdict
    assert verdict.reason
    assert judge(worker, RIGHT, TESTS, LIMITS).status == "correct"


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("def add(a, b):\n    while True: pass", "more than 1 s of processor time"),
        ("import time\ndef add(a, b): time.sleep(99)", "no end within 2 s"),
        ("def add(a, b):\n    x = []\n    while True: x.append(b'x' * (1 << 24))", "MB of memory"),
    ],
)
def test_a_limit_is_told_as_the_reason(worker, program, reason):
    verdict = judge(worker, program, TESTS, replace(LIMITS, memory=256 << 20))
    assert verdict.status == "wrong"
    assert reason in verdict.reason


def test_a_program_may_print_and_exit_late_and_define_things_twice(worker):
    program = "print('hello')\ndef add(a, b): return 0\n" + RIGHT + "def main():\n    exit(3)\n"
    program += "if __name__ == '__main__':\n    main()"
    assert judge(worker, program, TESTS, LIMITS).status == "correct"


def test_tests_that_never_end_are_a_fault_of_the_grader(worker, monkeypatch):
    monkeypatch.setattr(
        "opdlab_evaluators.programs.judging.JUDGE_LIMITS", Limits(cpu_s=0.5, wall_s=3)
    )
    assert judge(worker, RIGHT, Assertions("while True: pass"), LIMITS).status == "grader_timeout"
    assert judge(worker, RIGHT, TESTS, LIMITS).status == "correct"


def test_values_of_every_plain_type_arrive_as_they_are(worker):
    values = [
        *(None, True, 0, -1, 2**70, -(2**70), 0.1, float("inf"), 1e-320, "é\ud83d", b"\0", 2 + 3j),
        *([1, [2]], (1, (2,)), {1, 2}, frozenset({3}), {(1, 2): [3]}, {"a": {1: None}}),
    ]
    tests = f"inf = float('inf')\nvalues = {values!r}\n"
    tests += "for v in values:\n    w = same(v)\n    assert w == v and type(w) is type(v), v\n"
    tests += "assert same(10 ** 5000) == 10 ** 5000\n"
    tests += "assert same(float('nan')) != same(float('nan'))"
    program = "def same(v): return v"
    asked = Assertions(tests, names={"same": "same"})
    assert judge(worker, program, asked, LIMITS) == Verdict("correct", program)


def test_objects_stay_in_the_program_and_can_be_used_from_the_tests(worker):
    program = "class Node:\n    def __init__(self, v):\n        self.v, self.next = v, None\n"
    program += "    def twice(self): return 2 * self.v\n"
    program += "def total(node): return 0 if node is None else node.v + total(node.next)\n"
    program += "def walk(n):\n    yield from range(n)\n"
    tests = (
        "root = Node(1)\nroot.next = Node(2)\nroot.next.next = Node(3)\nassert total(root) == 6\n"
    )
    tests += "assert root.next.twice() == 4\nassert list(walk(3)) == [0, 1, 2]\nassert Node(1) != Node(1)"
    names = {name: name for name in ("Node", "total", "walk")}
    assert judge(worker, program, Assertions(tests, names=names), LIMITS).status == "correct"


def test_tests_may_ask_for_an_error(worker):
    tests = "try: f()\nexcept ValueError as e: assert 'bad' in str(e)\nelse: raise AssertionError"
    asked = Assertions(tests, names={"f": "f"})
    assert judge(worker, "def f(): raise ValueError('bad')", asked, LIMITS).status == "correct"
    assert judge(worker, "def f(): raise KeyError('bad')", asked, LIMITS).status == "wrong"


def test_the_setup_of_the_tests_is_not_the_programs_to_change(worker):
    asked = Assertions("assert check(add(1, 2))", "def check(x): return x == 3", {"add": "add"})
    program = "def check(x): return True\ndef add(a, b): return 0"
    assert judge(worker, program, asked, LIMITS).status == "wrong"


def test_calls_and_standard_input_give_values_or_reasons(worker):
    def call(program, args, target="f"):
        return answer_call(worker, program, target, args, LIMITS, rules.PREAMBLE)

    assert call("def f(x): return [x, (x,)]", [3]).value == [3, (3,)]
    solution = "class Solution:\n    def count(self, x: List[int]) -> int: return len(x)"
    assert call(solution, [[1, 2]], "Solution().count").value == 2
    assert "ZeroDivisionError" in call("def f(x): return 1 / x", [0]).error
    assert "not defined" in call("x = 1", [0]).error
    assert call("import os\ndef f(x): os._exit(4)", [0]).error.endswith("(4)")
    printed = answer_stdin(worker, "print(deque([int(input())]))", "3\n", LIMITS, rules.PREAMBLE)
    assert printed.value == "deque([3])\n"
    assert "ZeroDivisionError" in answer_stdin(worker, "print(1); 1 / 0", "", LIMITS).error
    assert answer_stdin(worker, "print(1); exit(2)", "", LIMITS) == Answered("1\n", 2)
    assert (
        "signal 11" in answer_stdin(worker, "import os; os.kill(os.getpid(), 11)", "", LIMITS).error
    )
    assert "16 MB of output" in answer_stdin(worker, "print('x' * (20 << 20))", "", LIMITS).error


TEXTS = [
    # printed, expected, official, strict
    ("3\n", "3", True, True),
    ("3", "3\n\n", True, True),
    (" 1 2 \n3", "1 2\n3\n", True, True),
    ("1\n\n2", "1\n2", False, False),
    ("1.0", "1", True, False),
    ("1e0", "1", True, False),
    ("1_0", "10", True, False),
    ("0.10", "0.1", True, True),
    ("0.3333333", "0.33333333333", False, True),
    ("0.334", "0.33333333333", False, False),
    ("1e-7", "0.0", False, True),
    ("1  2", "1 2", True, True),
    ("a  b", "a b", False, True),
    ("YES", "Yes", False, False),
    ("1 2 3", "1 2", False, False),
    ("50000000000000000", "50000000000000001", False, False),
    ("nan", "nan", True, True),
    ("NaN", "nan", False, False),
    ("sNaN", "1", False, False),
    ("inf", "1.5", False, False),
    ("", "", True, True),
    ("", "0", False, False),
]


@pytest.mark.parametrize(("printed", "expected", "official", "strict"), TEXTS)
def test_printed_output_is_judged_by_both_rules(printed, expected, official, strict):
    answered = Answered(printed)
    assert rules.official_text(answered, expected) is official
    assert rules.strict_text(answered, expected) is strict


VALUES = [
    (3, 3, True, True),
    ((1, 2), [1, 2], True, True),
    ([(1, 2)], [[1, 2]], False, True),
    (True, 1, True, False),
    (1, True, True, False),
    (1.0, 1, True, False),
    (1, 1.0, True, True),
    (0.1 + 0.2, 0.3, False, True),
    ("a", "a", True, True),
    (None, None, True, True),
    (None, 0, False, False),
    ({"a": 1.0}, {"a": 1.0}, True, True),
    ({1, 2}, [1, 2], False, False),
    ([1], [1, 2], False, False),
    (10**400, 1.0, False, False),
]


@pytest.mark.parametrize(("returned", "expected", "official", "strict"), VALUES)
def test_returned_values_are_judged_by_both_rules(returned, expected, official, strict):
    answered = Answered(returned)
    assert rules.official_value(answered, expected) is official
    assert rules.strict_value(answered, expected) is strict


def test_an_error_is_never_right_and_an_exit_code_only_by_the_official_rule():
    assert not rules.official_value(Answered(error="no"), None)
    assert not rules.strict_value(Answered(error="no"), None)
    assert not rules.official_text(Answered(error="no"), "")
    assert rules.official_text(Answered("1", exit=1), "1")
    assert not rules.strict_text(Answered("1", exit=1), "1")


BLOCKS = [
    ("```python\nx = 1\n```", "x = 1\n"),
    ("a\n```\nx\n```\nb\n```py\ny\n```\nc", "y\n"),
    ("```python\nx\n```\nthen\n```python\nunclosed", "unclosed"),
    ("```python\nx = 1\ny = x```", "x = 1\ny = x"),
    ("```python\nx = 1\ny = x``` \nThis is `x` again.", "x = 1\ny = x"),
    ("```python\ndef f(x): return x```\n\nExample:\n```python\nf(1)\n```", "f(1)\n"),
    ("```python\nf = 1```\n\nOutput:\n```\n3 of them\n```", "3 of them\n"),
    ("```python\nx = 1  # the same as ```y```\nz = 2", "x = 1  # the same as ```y```\nz = 2"),
    ("```python\nx = 1  # as ```y```\nz = 2```\nIt is so.", "x = 1  # as ```y```\nz = 2"),
    ("```python\n# the same as ```x```\nf(", "# the same as ```x```\nf("),
    ("```python\ndef f(x):\n    return x  # like ```f```\n\ndef g(:\n    pass\n```\nDone.",
     "def f(x):\n    return x  # like ```f```\n\ndef g(:\n    pass\n"),
    ("```python\nx = 1```\nprint(x)\n```\nDone.", "x = 1```\nprint(x)\n"),
    ("```python\nx = 1```\ndef g(:\n    pass\n```\nDone.", "x = 1```\ndef g(:\n    pass\n"),
    ("```python\nx = 1```\nExample\n```\n3 of them\n```", "3 of them\n"),
    ("```python\nx = '#'```\nIt is so.", "x = '#'"),
    ("1. So:\n   ```python\n   def f():\n       return 1\n   ```", "def f():\n    return 1\n"),
    ("```python\r\nx\r\n```\r\n", "x\n"),
    ("<think>```python\nx\n```</think>", None),
    ("<think>hm</think>```python\nx\n```", "x\n"),
    ("````\n```\nx\n```\n````", "```\nx\n```\n"),
    ("```python\nlost\n```python\nx\n```", "x\n"),
    ('```python\ndef f():\n    """So:\n    ```\n    f()\n    ```\n    """\n    return 1\n```\nDone.',
     'def f():\n    """So:\n    ```\n    f()\n    ```\n    """\n    return 1\n'),
    ("```python\n'''\n```python\nf()\n```\n'''\nx = 1\n```\n```\n1\n```", "1\n"),
    ("```python\n'''\n```python\nf()\n```\n'''\nx = 1\n```", "'''\n```python\nf()\n```\n'''\nx = 1\n"),
    ('```python\ns = """lost\n```\nAgain:\n```python\nx = 1\n```', "x = 1\n"),
    ('```python\ns = """lost\n```\nAgain:\n```python\nx = """1"""\n```', 'x = """1"""\n'),
    ("<think>```python\nx\n```</think>```python\ny\n```", "y\n"),
    ("> ```python\n> x = 1\n> ```", "x = 1\n"),
    ("no code", None),
    ("```", None),
]  # fmt: skip


@pytest.mark.parametrize(("completion", "program"), BLOCKS)
def test_the_last_block_is_the_program(completion, program):
    assert last_block(completion) == program


DEFINED = "```python\ndef f(x):\n    return 1\n```\n"


@pytest.mark.parametrize(
    "after",
    [
        "```python\nprint(f(1))\n```",
        "Output:\n```\n1\n```",
        "```bash\npython f.py\n```",
        "```python\ng = 1\n```",
        "```\nan unclosed note",
    ],
)
def test_what_follows_a_block_with_the_asked_names_does_not_replace_it(after):
    assert last_block(DEFINED + after, ["f"]) == "def f(x):\n    return 1\n"
    second = DEFINED.replace("1", "2")
    assert last_block(DEFINED + second + after, ["f"]) == "def f(x):\n    return 2\n"
    for block in ("f = len", "from os import getcwd as f", "if True:\n    def f(): pass"):
        assert last_block(f"```\n{block}\n```\n{after}", ["f"]) == f"{block}\n"


def test_a_block_that_ends_with_its_last_line_is_found_before_what_follows():
    for after in ("Example:\n```python\nf(1)\n```", "Output:\n```\n1\n```", "As in ```x```."):
        completion = f"```python\ndef f(x): return x```\n\n{after}"
        assert last_block(completion, ["f"]) == "def f(x): return x"


def test_a_block_of_tests_that_imports_the_program_does_not_replace_it():
    tests = "Tests:\n```python\nfrom solution import f\nassert f(1) == 1\n```"
    assert last_block(DEFINED + tests, ["f"]) == "def f(x):\n    return 1\n"
    assert (
        last_block("```\nfrom os import getcwd as f\n```", ["f"]) == "from os import getcwd as f\n"
    )


def test_livecodebench_takes_what_is_between_the_last_two_fences():
    assert last_two_fences("a\n```python\nx = 1\ny\n```\nb") == "x = 1\ny"
    assert last_two_fences("```\nx\n```\n```\ny") == ""
    assert last_two_fences("```x") is None


def test_a_base_models_completion_ends_where_something_new_begins():
    assert function_body("    return 1\n\n\ndef other():\n    pass") == "    return 1\n\n"
    assert function_body("    return 1\nprint(f(2))") == "    return 1"
    assert function_body("\ndef other(): pass") is None


def test_names_are_told_from_the_text():
    assert definitions("import os\ndef f(): pass\nclass C: pass\nx = y = 1") == ["f", "C", "x", "y"]
    assert class_names("assert a.x and isinstance(3, b) and C()", "abCd") == ["C", "a", "b"]
    assert definitions("from operator import neg as f\nimport re") == ["f"]
    assert definitions("def f(:") == []
    assert mentioned("import math as m\nx = f(m.pi)\ndef g(a): return a + len(h)") == {
        "f",
        "h",
        "len",
    }


@pytest.mark.parametrize(
    ("tests", "names"),
    [
        ("def ref(a):\n    f = a\n    return f\nassert f(1) == ref(1)", {"f"}),
        ("def ref(f): return f\nassert f(1) == ref(1)", {"f"}),
        ("[f for f in (1,)]\nassert f(1)", {"f"}),
        ("f = cached(f)\nassert f(1)", {"f", "cached"}),
        ("n += 1\nassert n", {"n"}),
        ("i = 1\ni = i + 1\nfor x in (1,): x = x + i", set()),
        ("from math import *\nassert f(pi)", {"f"}),
        ("try: f()\nexcept KeyError as e: g(e)", {"f", "g", "KeyError"}),
        ("match f():\n    case [x, *rest]: g(x, rest)", {"f", "g"}),
        ("def count():\n    global n\n    n = 1\ncount()\nassert n", set()),
        ("def late(): return helper()\ndef helper(): return f()\nlate()", {"f"}),
        ("class T:\n    f = 1\n    def g(self): return f(self)", {"f"}),
        ("if (y := f()): print(y)", {"f", "print"}),
    ],
)
def test_the_tests_use_what_the_compiler_finds_global(tests, names):
    assert mentioned(tests) == names


def test_private_tests_are_read_and_no_pickle_may_call_anything(tmp_path):
    listed = [{"input": "1", "output": "2", "testtype": "stdin"}]
    assert cases(packed(listed), "p") == cases(json.dumps(listed), "p") == [Case("1", "2", "stdin")]

    class Attack:
        def __reduce__(self):
            return (tmp_path.joinpath("owned").touch, ())

    import base64
    import zlib

    for attack in (pickle.dumps(Attack()), b"cos\nsystem\n(S'touch /tmp/owned'\ntR."):
        with pytest.raises(DataError, match=r"p: its tests cannot be read \(it asks for"):
            unpacked(base64.b64encode(zlib.compress(attack)).decode(), "p")
    assert not tmp_path.joinpath("owned").exists()
    for broken in ("%%%", "AAAA", base64.b64encode(zlib.compress(b"nope")).decode()):
        with pytest.raises(DataError, match="cannot be read"):
            unpacked(broken, "p")
    with pytest.raises(DataError, match=r"p: a test is malformed \(KeyError: 'output'\)"):
        cases('[{"input": "1"}]', "p")


def test_a_sandbox_that_dies_is_tried_again_and_then_is_no_wrong_answer(worker):
    calls = []

    def dies(times):
        def task(worker):
            calls.append(times)
            if len(calls) <= times:
                raise SandboxDiedError("killed")
            return Verdict("correct")

        return task

    with ProgramPool(workers=1) as pool:
        assert [v.status for v in pool.judge([dies(1)])] == ["correct"]
        calls.clear()
        (verdict,) = pool.judge([dies(9)])
    assert (verdict.status, verdict.reason) == ("sandbox_error", "killed")


def test_many_programs_are_judged_in_order_and_stopping_kills_what_runs(worker):
    def task(number):
        program = f"def add(a, b): return {['a + b', 'a'][number % 2]}"
        return lambda worker: judge(worker, program, TESTS, LIMITS)

    with ProgramPool(workers=2) as pool:
        found = pool.judge([task(n) for n in range(12)])
        assert [v.status for v in found] == ["correct", "wrong"] * 6

        def stop(_):
            raise KeyboardInterrupt

        endless = [lambda w: judge(w, "def add(a, b):\n    while 1: 0", TESTS, Limits(cpu_s=60))]
        with pytest.raises(KeyboardInterrupt):
            pool.judge([*endless, task(0)], stop)
        assert [v.status for v in pool.judge([task(0)])] == ["correct"]
