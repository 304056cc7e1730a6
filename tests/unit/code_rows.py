"""Made-up rows of every benchmark of programs, in the columns that the hub has."""

import base64
import json
import pickle
import zlib


def humaneval(number):
    return {
        "task_id": f"HumanEval/{number}",
        "prompt": "from typing import List\n\n\n"
        f'def add_{number}(values: List[int]) -> int:\n    """Sum."""\n',
        "entry_point": f"add_{number}",
        "canonical_solution": f"    return sum(values) + {number}\n",
        "test": f"def check(candidate):\n    assert candidate([1, 2]) == {3 + number}\n"
        f"    assert candidate([]) == {number}\n",
    }


def mbpp(number):
    return {
        "task_id": number,
        "text": f"Write a function to add {number}.",
        "code": f"def add_{number}(x):\r\n    return x + {number}",
        "test_list": [f"assert add_{number}({n}) == {n + number}" for n in range(3)],
        "test_setup_code": "",
        "challenge_test_list": [],
    }


def mbpp_plus(number):
    row = mbpp(number)
    test = (
        f"import numpy as np\ninputs = [[n] for n in range(50)]\n"
        f"for (n,) in inputs:\n    assert np.allclose(add_{number}(n), n + {number})"
    )
    return {**row, "prompt": row["text"], "test_imports": [], "test": test}


def packed(listed):
    """As LiveCodeBench packs its private tests."""
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(listed)))).decode()


def livecodebench(number):
    """Even numbers read the standard input, odd ones are a method; both add `number`."""
    functional = number % 2 == 1
    kind = "functional" if functional else "stdin"

    def case(n):
        given = f"{n}\n{number}" if functional else f"{n} {number}\n"
        return {"input": given, "output": f"{n + number}", "testtype": kind}

    return {
        "question_title": f"Add {number}",
        "question_content": f"Add {number}.",
        "platform": "leetcode" if functional else "atcoder",
        "question_id": f"q{number}",
        "contest_id": "c",
        "contest_date": f"2025-{1 + number % 4:02}-15T00:00:00",
        "starter_code": "class Solution:\n    def add(self, a, b):\n" if functional else "",
        "difficulty": "easy",
        "public_test_cases": json.dumps([case(1)]),
        "private_test_cases": packed([case(n) for n in range(2, 5)]),
        "metadata": json.dumps({"func_name": "add"} if functional else {}),
    }


ROWS = {
    "humaneval": (humaneval, 164),
    "humaneval_plus": (humaneval, 164),
    "mbpp": (mbpp, 500),
    "mbpp_plus": (mbpp_plus, 378),
    "livecodebench": (livecodebench, 175),
}


def write(folder, name):
    """A whole copy of a benchmark in `folder`."""
    make, count = ROWS[name]
    rows = map(json.dumps, map(make, range(count)))
    (folder / f"{name}.jsonl").write_text("\n".join(rows))
