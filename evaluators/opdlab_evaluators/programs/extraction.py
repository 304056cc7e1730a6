"""The program in a completion: the last fenced block, or the completion of a function."""

from __future__ import annotations

import ast
import io
import re
from collections.abc import Iterable
from functools import lru_cache, partial
from itertools import islice
from tokenize import COMMENT, generate_tokens

from opdlab.datafiles import syntax_tree
from opdlab_evaluators.answers import after_thinking

_FENCE = re.compile(
    r"^(?P<indent>[ \t]*)(?P<fence>`{3,}|~{3,})(?P<language>[^\n`]*)$", re.MULTILINE
)
# A block in a quotation: each of its lines begins with `>`.
_QUOTED_FENCE = re.compile(r"^> ?(?:`{3}|~{3})", re.MULTILINE)
_QUOTE = re.compile(r"^> ?", re.MULTILINE)
_DEFINITION = re.compile(r"^(?:async def|def|class) \w+ ?[(:]", re.MULTILINE)
LATER_FENCES = 8
# Where a base model begins something new. Source: arXiv:2107.03374, section 2.
_STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint", "\n@", "\n```", "\n<")


def blocks(completion: str) -> list[str]:
    """The fenced blocks outside the thinking part, without the indentation of their fence.

    A block that is never closed ends with the answer, as in CommonMark. Some close it at the end of the
    program's last line: that counts where the program ends there, and is none with what follows. A fence in
    a text of the program, such as its documentation, ends nothing.
    """
    text = after_thinking(completion).replace("\r\n", "\n")
    if _QUOTED_FENCE.search(text):
        text = _QUOTE.sub("", text)
    found: list[str] = []
    opened = None
    fences = list(_FENCE.finditer(text))
    for number, fence in enumerate(fences, start=1):
        bare = not fence["language"].strip()
        closed = opened and _closed_within(text[opened.end() + 1 : fence.start()], opened, bare)
        if closed:
            found.append(closed)
            opened = None
        if opened is None:
            opened = fence
        elif _is_within(text[opened.end() + 1 :], opened, fence, fences[number:]):
            continue
        elif bare and fence["fence"].startswith(opened["fence"]):
            found.append(_dedented(text[opened.end() + 1 : fence.start()], opened["indent"]))
            opened = None
        elif not bare and len(fence["indent"]) <= len(opened["indent"]):
            # A fence with a language cannot close: what it would close was left open.
            opened = fence
    if opened is not None and text[opened.end() + 1 :].strip():
        rest = text[opened.end() + 1 :]
        found.append(_closed_within(rest, opened) or _dedented(rest, opened["indent"]))
    return found


def _closed_within(block: str, opened: re.Match, may_close: bool = False) -> str | None:
    """The program in an open block up to a line that ends with the fence; None if none closes it.

    A fence in a comment closes nothing, and none does with only code behind it.

    Args:
        may_close: a fence follows that may close the block.
    """
    ends = re.finditer(rf"{re.escape(opened['fence'])}[ \t]*$", block, re.MULTILINE)
    found = list(islice(ends, LATER_FENCES))
    if not found or _statements(_dedented(block, opened["indent"])):
        return None
    for end in reversed(found):
        program = _dedented(block[: end.start()], opened["indent"])
        if _statements(program) and not _ends_in_comment(program):
            behind = _dedented(block[end.end() :], opened["indent"])
            return None if may_close and _is_code(behind) else program
    return None


def _ends_in_comment(program: str) -> bool:
    """Whether the last line of what can be parsed has a comment."""
    last = program.count("\n") + 1
    tokens = generate_tokens(io.StringIO(program).readline)
    return any(each.type == COMMENT and each.start[0] == last for each in tokens)


def _is_code(text: str) -> bool:
    """Whether lines are a program's, and no words such as `Output:` or `Example`."""
    if _DEFINITION.search(text):
        return True
    return any(
        not isinstance(each, ast.AnnAssign)
        and not (isinstance(each, ast.Expr) and isinstance(each.value, ast.Name))
        for each in _statements(text)
    )


def _is_within(rest: str, opened: re.Match, fence: re.Match, later: list[re.Match]) -> bool:
    """Whether a fence stands in a text of a program that goes on behind it, up to a later fence.

    Args:
        rest: all that follows the opening fence.
    """

    def is_program(end: re.Match) -> bool:
        block = rest[: end.start() - opened.end() - 1]
        return bool(_statements(_dedented(block, opened["indent"])))

    before = rest[: max(fence.start() - opened.end() - 1, 0)]
    if not any(quotes in before for quotes in ('"""', "'''")) or is_program(fence):
        return False
    ends = [each for each in later if not each["language"].strip()][:LATER_FENCES]
    return any(map(is_program, ends))


def _dedented(block: str, indent: str) -> str:
    """Each line without as much indentation as its fence has."""
    if not indent:
        return block
    pattern = re.compile(rf"^[ \t]{{1,{len(indent)}}}", re.MULTILINE)
    return pattern.sub("", block)


def last_block(completion: str, names: Iterable[str] = ()) -> str | None:
    """The last fenced block that defines most of the names, which may be none; None without a block.

    A right program is often followed by an example of its use, its output or a command.
    """
    found = blocks(completion)
    wanted = set(names)
    # A block of tests may import what an earlier one defines.
    ranks = [(_count(b, wanted - _only_imported(b)), _count(b, wanted)) for b in found]
    most = max(ranks, default=(0, 0))
    return next((b for b, rank in zip(found[::-1], ranks[::-1], strict=True) if rank == most), None)


def _count(block: str, names: set[str]) -> int:
    return sum(map(partial(defines, block), names))


def last_two_fences(completion: str) -> str | None:
    """What stands between the last two lines with three backticks, which is LiveCodeBench's own rule."""
    lines = after_thinking(completion).split("\n")
    fences = [number for number, line in enumerate(lines) if "```" in line]
    return "\n".join(lines[fences[-2] + 1 : fences[-1]]) if len(fences) > 1 else None


def function_body(completion: str) -> str | None:
    """The rest of a function that the prompt began, up to where something else begins."""
    text = after_thinking(completion)
    end = min((at for stop in _STOPS if (at := text.find(stop)) >= 0), default=len(text))
    return text[:end] if text[:end].strip() else None


def defines(program: str, name: str) -> bool:
    """Whether the program binds this name at its top level."""
    return name in bound(program) or bool(
        # For what cannot be parsed, and will fail with its own error.
        re.search(rf"^(?:async\s+)?(?:def|class)\s+{re.escape(name)}\b", program, re.MULTILINE)
    )


def _only_imported(block: str) -> set[str]:
    imports = [each for each in _statements(block) if isinstance(each, ast.ImportFrom)]
    others = [each for each in _statements(block) if not isinstance(each, ast.ImportFrom)]
    kept = {name for statement in others for name in bound_by(statement)}
    return {name for statement in imports for name in bound_by(statement)} - kept


def definitions(program: str) -> list[str]:
    """Names bound at the top level, but for those of whole modules; none if unparsable."""
    return [
        name
        for statement in _statements(program)
        if not isinstance(statement, ast.Import)
        for name in bound_by(statement)
    ]


def bound(program: str) -> list[str]:
    """Names that a program binds at its top level, by imports too; none if unparsable."""
    return [name for statement in _statements(program) for name in bound_by(statement)]


def classes(program: str) -> list[str]:
    """Names of the classes at the top level; none if unparsable."""
    return [each.name for each in _statements(program) if isinstance(each, ast.ClassDef)]


@lru_cache(maxsize=256)
def _statements(program: str) -> list[ast.stmt]:
    try:
        return syntax_tree(program).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []


def bound_by(statement: ast.AST) -> list[str]:
    """Names that one statement binds, but for those of its own scopes."""
    if isinstance(statement, _DEFINING):
        return [statement.name]
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        return [(alias.asname or alias.name).partition(".")[0] for alias in statement.names]
    if isinstance(statement, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        return [
            node.id
            for target in targets
            for node in ast.walk(target)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        ]
    if isinstance(statement, (ast.If, ast.Try, ast.With, ast.For, ast.While, ast.ExceptHandler)):
        return [name for part in ast.iter_child_nodes(statement) for name in bound_by(part)]
    return []


def after_future_imports(before: str, program: str) -> str:
    """Two programs as one; what the second imports from `__future__` comes first."""
    lines = program.split("\n")
    moved: list[str] = []
    for statement in _statements(program):
        if isinstance(statement, ast.ImportFrom) and statement.module == "__future__":
            rows = range(statement.lineno - 1, statement.end_lineno or statement.lineno)
            moved += [lines[row] for row in rows]
            for row in rows:
                lines[row] = ""
    return "\n".join([*moved, before, *lines])


_DEFINING = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
