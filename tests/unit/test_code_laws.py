"""Laws of the code that no type tells: what tests may change of it, what it remembers, who prints."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[2]
OWN = ("opdlab", "opdlab_evaluators", "opdlab_dashboards")
SOURCES = {
    path: path.read_text()
    for folder in ("platform", "evaluators", "dashboards")
    for path in sorted((ROOT / folder).rglob("*.py"))
}
PATCHING = ("setattr", "setitem", "delattr", "delitem", "patch", "object")
LIMIT = re.compile(r"_?[A-Z][A-Z0-9_]*")
"""A constant of a module; a test may set it: as a parameter it would be an option that nobody else sets."""


def names(text: str) -> list[str]:
    return text.split()


REASONS = {
    "counts or watches the calls of what runs unchanged": names(
        "attend attention_with_lse of _held_by_trial _move fill _sha256 adapt _leaf_states "
        "_scores score unsure training_step may_fork recorded judge drawn draw_missing answer"
    ),
    "breaks our code, to see that a check or a test notices": names(
        "choose read rule keep __len__ states_before_tokens with_grades name sample method fits "
        "grade_all"
    ),
    "stands for a device, a machine, a clock or a library that is not here": names(
        "here this_card find_spec serial getrlimit setrlimit _sleep sleep "
        "lazy_import_flash_attention t.gguf perf_counter timed snapshot_download"
    ),
    "gives what another version, data set, answer or size of a model would give": names(
        "samples contexts version tokenizer folder source held trunk_piece rows_at_a_time"
    ),
    "comes in the midst, where no signal or fault can be timed: a stop, a fault, another process": (
        names(
            "end grade grade_missing write write_whole drawn_answers experiments app _keep_refused "
            "compared require work withdraw OtherDrawsError"
        )
    ),
    "is a server's in the tests' own hands": names("get complete identity"),
    "leaves out a server's proof, which has tests of its own": names(
        "prove prompt_text takes_tokens suffices"
    ),
    "shows what is printed, in a terminal of known width": names("console progress_bar width"),
}
"""Why tests replace parts of our own code."""

PRIVATE = {
    "is a cache that lives as long as the process; the test begins anew": names(
        "_checked _problems _loaded"
    ),
    "has numbers worked out by hand, and one caller": names(
        "_add_product _attends_to_all _check _check_metrics _closed _copied _doubts _ended_by "
        "_extents _keep _keys _probability_of_draw _redirected _require_plain _seen_by _seen_within "
        "_session _statistics _sweep_table _turned _asked _value"
    ),
    "is one step of what goes on for long": names(
        "_draw _left _named _next _rollout _step _take _give_back _clear _boot _tell_unproven _end"
    ),
    "says which of several ways to one result was taken": names(
        "_goes_on _length _quicker _recorded _trial"
    ),
    "is watched, see above": names("_leaf_states _move _scores _sha256"),
    "is called so by notebooks": names("_repr_html_"),
}
"""Why tests look at what is private."""

STATE = {
    "what was found out about a model, for as long as it lives": names(
        "modelling/end_mapping:_MAPPED modelling/head:_DECODERS modelling/length_dependence:_ROTARY "
        "modelling/position_table:_FOUND modelling/prefix_law:_HELD modelling/state_probe:_READS "
        "modelling/stateful_layers:_GOES_ON modelling/stateful_layers:_STEPWISE "
        "sampling/manner:_FOUND serving/copies:_COPIES serving/weights:_LINKS"
    ),
    "what belongs to the process, not to a run": names(
        "console/interrupt:_LISTENING serving/taken:_TAKEN serving/copies:_TOLD "
        "answers/pool:_SHARED programs/pool:_SHARED inside/peer:_LOOPS"
    ),
    "what reading a data set again would find again": names("prompts/preparing:_KNOWN"),
    "the last request to a server, which a client of the next round may ask again": names(
        "serving/trial:_ANSWERED"
    ),
}
"""Names of modules whose values change, caches of pure functions aside."""
CHANGES = re.compile(
    r"(?<![\w.\"'])(_?[A-Z][A-Z0-9_]*)(?:\[[^\n]*?\] = |\.(?:append|add|clear|discard|extend|insert|pop|"
    r"remove|setdefault|update)\(|\.pools\[)|^\s+(?:del|global) (_?[A-Z][A-Z0-9_]*)",
    re.MULTILINE,
)

SILENT = names(
    "configuration datafiles files identity methods modelling objectives plugins sampling "
    "scores scoring service serving"
)
"""Rooms that return values, or raise; what a command says is said above them."""
PRINTS = re.compile(r"(?<![\w.])print\(|console\.(?:print|status|rule|log|input)\(")
TALKING = {"modelling/gguf_files"}
"""It says why minutes pass."""


def known(table: dict[str, list[str]]) -> set[str]:
    return {name for found in table.values() for name in found}


def root(node: ast.expr) -> str:
    """The first name of an expression."""
    while isinstance(node, ast.Attribute | ast.Call | ast.Subscript):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


def imported(tree: ast.Module) -> Iterable[tuple[str, str, bool]]:
    """Names that a file imports: as they are, as they are called here, and whether they are ours."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom | ast.Import):
            for one in node.names:
                module = (node.module or "") if isinstance(node, ast.ImportFrom) else one.name
                called = (one.asname or one.name).partition(".")[0]
                yield one.name, called, module.partition(".")[0] in OWN


def replaced(text: str) -> set[str]:
    """What of our code a test replaces, limits aside."""
    tree = ast.parse(text)
    theirs = {called for _, called, ours in imported(tree) if not ours}
    found = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        if node.func.attr not in PATCHING or not node.args:
            continue
        target = node.args[0]
        told = ast.unparse(target).strip("f'\"")
        if isinstance(target, ast.Constant | ast.JoinedStr):
            ours, name = told.startswith(OWN), told.rpartition(".")[2]
        else:
            ours, name = root(target) not in theirs, ast.unparse(node.args[1]).strip("'\"")
        if ours and not LIMIT.fullmatch(name):
            found.add(name)
    return found


def looked_at(text: str, private: set[str]) -> set[str]:
    """Private names of our code that a test uses."""
    tree = ast.parse(text)
    names = list(imported(tree))
    theirs = {called for _, called, ours in names if not ours} | {"self", "cls"}
    found = {name for name, _, ours in names if ours and re.match(r"_[a-z]", name)}
    return found | {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in private and root(node) not in theirs
    }


def test_tests_replace_our_code_and_look_behind_it_for_a_reason_only() -> None:
    defined = r"(?:def |self\.|cls\.|^)(_[a-z]\w*)|^\s+(_[a-z]\w*):"
    private = {
        name
        for text in SOURCES.values()
        for pair in re.findall(defined, text, re.MULTILINE)
        for name in pair
        if name
    }
    tests = {path: path.read_text() for path in (ROOT / "tests").rglob("*.py")}
    patching = re.compile(rf"\.(?:{'|'.join(PATCHING)})\(")
    patches = {n for text in tests.values() if patching.search(text) for n in replaced(text)}
    assert not patches - known(REASONS), "set a parameter, or tell the reason in REASONS"
    looking = re.compile(r"\w\._[a-z]|import .*\b_[a-z]|^    _[a-z]\w+,$", re.MULTILINE)
    seen = {n for text in tests.values() if looking.search(text) for n in looked_at(text, private)}
    assert not seen - known(PRIVATE), "use what is public, or tell the reason in PRIVATE"


def test_modules_remember_what_is_listed_here_only() -> None:
    found = set()
    for path, text in SOURCES.items():
        changed = {name for pair in CHANGES.findall(text) for name in pair if name}
        own = set(re.findall(r"^(_?[A-Z][A-Z0-9_]*)\b[^=\n]*=", text, re.MULTILINE))
        found |= {f"{path.parent.name}/{path.stem}:{name}" for name in changed & own}
    assert not found - known(STATE), "keep it in an object, or tell the reason in STATE"


def test_what_computes_prints_nothing() -> None:
    core = ROOT / "platform/opdlab"
    talking = {
        f"{path.parent.name}/{path.stem}"
        for path, text in SOURCES.items()
        if path.is_relative_to(core) and path.relative_to(core).parts[0] in SILENT
        if PRINTS.search(text)
    }
    assert talking == TALKING
