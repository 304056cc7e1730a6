"""What a mutant is, and random ones: an operator, a constant or a bound changed in a file that counts."""

from __future__ import annotations

import ast
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Mutant:
    """A change of one file that some tests must notice.

    Attributes:
        name: what is wrong with it.
        file: from the root of the repository.
        before, after: text that stands in the file once, and what takes its place.
        tests: words for pytest.
        after_text: the whole file afterwards, where the text alone does not say which place is meant.
    """

    name: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]
    after_text: str | None = None


METHODS = "platform/opdlab/methods/"
CONTRACTS = ("tests/unit/test_methods.py", "tests/unit/test_oracle.py")
DECLARED = "declares and {0} or (methods and not oracle)"
DIAGNOSIS = ("tests/unit/test_diagnosis.py", "tests/unit/test_fidelity.py", "-k", "not cover")
GUARDS: dict[str, tuple[str, ...]] = {
    **{
        METHODS + file: (*CONTRACTS, "tests/unit/test_objectives_train.py", "-k", words)
        for file, words in {
            "divergences.py": "methods or declares and (opd or jsd or forward_kl)",
            "forward_kl.py": "methods or declares and forward_kl",
            "future_kl.py": "methods or future or compound or declares and future_kl",
            "grpo.py": "methods or group or batch or declares and grpo",
            "jsd.py": "methods or declares and jsd",
            "kl_estimator.py": "methods or refused or declares and kl_estimator",
            "lgr.py": "methods or refused or potential or mass or declares and lgr",
            "lookahead.py": "methods or potential or mass or declares and lgr",
            "opd.py": "methods or refused or declares and opd",
            "reopold.py": "methods or reopold",
            "rewarded.py": "methods or refused or declares and lgr",
            "sampled.py": "methods or refused or epochs or clipped or declares and opd",
            "sft.py": "methods or sft",
        }.items()
    },
    "platform/opdlab/diagnosis/fidelity.py": DIAGNOSIS,
    "platform/opdlab/diagnosis/decay.py": DIAGNOSIS,
    "platform/opdlab/diagnosis/bootstrap.py": DIAGNOSIS,
    "platform/opdlab/training/weights.py": (
        "tests/unit/test_objectives_train.py",
        "-k",
        "mask or mean",
    ),
    "platform/opdlab/training/grading.py": ("tests/unit/test_objectives_train.py", "-k", "grade"),
    "platform/opdlab/training/hacking.py": ("tests/unit/test_hacking.py",),
    "platform/opdlab/modelling/head.py": (
        "tests/unit/test_head.py",
        "tests/parity/test_teacher.py",
    ),
    "platform/opdlab/scoring/tree.py": ("tests/unit/test_tree.py", "tests/parity/test_teacher.py"),
    "evaluators/opdlab_evaluators/statistics/scores.py": ("tests/unit/test_scores.py",),
    "evaluators/opdlab_evaluators/statistics/answer_sheets.py": ("tests/unit/test_scores.py",),
    "evaluators/opdlab_evaluators/embedded/ledger.py": (
        "tests/unit/test_families.py",
        "-k",
        "ledger or traces",
    ),
    "evaluators/opdlab_evaluators/embedded/routes.py": (
        "tests/unit/test_families.py",
        "-k",
        "route or traces",
    ),
}

SWAPPED: dict[type, type] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
NAMES = {"amax": "amin", "amin": "amax", "minimum": "maximum", "min": "max", "max": "min"}


def random_mutants(root: Path, count: int, seed: int) -> Iterator[Mutant]:
    """So many of all changes that there are, each at most once."""
    found = [one for file in GUARDS for one in all_changes(root / file, file)]
    yield from random.Random(seed).sample(found, min(count, len(found)))


def all_changes(path: Path, file: str) -> list[Mutant]:
    """Every change of a file that is known here; none of annotations, messages and limits of options."""
    text = path.read_text()
    lines = text.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line.encode()))
    raw, found = text.encode(), []
    for node in _looked_at(ast.parse(text)):
        before = ast.get_source_segment(text, node)
        after = _changed(node)
        if before is None or after is None:
            continue
        start = starts[node.lineno - 1] + node.col_offset  # type: ignore[attr-defined]
        end = starts[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined]
        whole = (raw[:start] + after.encode() + raw[end:]).decode()
        name = f"{file}:{node.lineno}: {_short(before)} -> {_short(after)}"  # type: ignore[attr-defined]
        found.append(Mutant(name, file, before, after, GUARDS[file], whole))
    return found


def _looked_at(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.JoinedStr, ast.Raise, ast.Assert, ast.Import, ast.ImportFrom)):
            continue
        if isinstance(child, ast.Call) and ast.unparse(child.func) == "option":
            continue
        if isinstance(child, ast.arguments):
            continue
        if isinstance(child, ast.AnnAssign):
            if child.value is not None:
                yield from _looked_at(ast.Expression(child.value))
            continue
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for statement in child.body:
                yield from _looked_at(ast.Module([statement], []))
            continue
        yield child
        yield from _looked_at(child)


def _changed(node: ast.AST) -> str | None:
    """Source of the node with one thing in it changed; None where nothing is known to change."""
    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPPED:
        return _unparsed(
            ast.Compare(node.left, [SWAPPED[type(node.ops[0])](), *node.ops[1:]], node.comparators)
        )
    if isinstance(node, ast.BinOp) and type(node.op) in SWAPPED:
        return _unparsed(ast.BinOp(node.left, SWAPPED[type(node.op)](), node.right))
    if isinstance(node, ast.BoolOp):
        return _unparsed(ast.BoolOp(SWAPPED[type(node.op)](), node.values))
    if isinstance(node, ast.UnaryOp):
        return _unparsed(node.operand)
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return repr(node.value + 1)
    if isinstance(node, ast.Attribute) and node.attr in NAMES:
        return _unparsed(ast.Attribute(node.value, NAMES[node.attr], node.ctx), bare=True)
    return None


def _unparsed(node: ast.AST, bare: bool = False) -> str:
    text = ast.unparse(ast.fix_missing_locations(node))
    return text if bare else f"({text})"


def _short(text: str) -> str:
    return " ".join(text.split())[:70]
