"""The program in a completion: the last fenced block, or the completion of a function."""

from __future__ import annotations

import ast
import re

from opdlab_evaluators.answers.extraction import after_thinking

_FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})[^\n`]*$", re.MULTILINE)
# Where a base model begins something new. Source: arXiv:2107.03374, section 2.
_STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint", "\n@", "\n```", "\n<")


def last_block(completion: str) -> str | None:
    """The last fenced block that was closed, outside the thinking part; None without one."""
    text = after_thinking(completion)
    fences = list(_FENCE.finditer(text))
    found, opened = None, None
    for fence in fences:
        if opened is None:
            opened = fence
        elif fence[1].startswith(opened[1]) and fence[0].strip() == fence[1]:
            found, opened = text[opened.end() + 1 : fence.start()], None
        elif fence[0].strip() != fence[1]:
            # A fence with a language cannot close: what it would close was left open.
            opened = fence
    return found


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
    """Whether the program defines a function or class of this name at its top level."""
    return name in definitions(program) or bool(
        # For what cannot be parsed, and will fail with its own error.
        re.search(rf"^(?:async\s+)?(?:def|class)\s+{re.escape(name)}\b", program, re.MULTILINE)
    )


def definitions(program: str) -> list[str]:
    """Names of functions and classes, and of plain assignments, at the top level; none if unparsable."""
    try:
        body = ast.parse(program).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    names: list[str] = []
    for statement in body:
        if isinstance(statement, _DEFINING):
            names.append(statement.name)
        elif isinstance(statement, ast.Assign):
            names += [each.id for each in statement.targets if isinstance(each, ast.Name)]
    return names


def mentioned(program: str) -> set[str]:
    """Every name that a program uses and does not define itself, built-in ones among them."""
    tree = ast.parse(program)
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    own = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    own |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    own |= {node.name for node in ast.walk(tree) if isinstance(node, _DEFINING)}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            own |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
    return used - own


_DEFINING = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
