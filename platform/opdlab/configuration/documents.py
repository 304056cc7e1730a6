"""YAML text as plain data, with the line that each value stands in.

Values are read by the rules of YAML 1.2: `no` and `12:30` are text, `1e-3` is a number. Nothing but
mappings, lists, strings, numbers, booleans and null comes out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import yaml
from yaml.reader import ReaderError

from opdlab.errors import ConfigError
from opdlab.files import read_file

Key = str | int


DEEPEST = 100
"""Levels of mappings and lists inside each other; Python's own stack holds a few times as many."""
MOST_VALUES = 100_000
"""Values of a document, with those that aliases repeat."""
MOST_DIGITS = 25
"""Of a whole number; seeds have up to 19, and a few hundred are more than a float holds."""

WRITTEN = "# Written by opdlab; the last line is `...`\n"
END = "...\n"
"""First and last line of what opdlab writes: a part of YAML is YAML as well."""

LONG, SHOWN = 200, 40
"""Characters of a text from which on a message cuts it, and of what it then shows."""

_TAG = "tag:yaml.org,2002:"
_INT = r"[-+]?(0|[1-9][0-9]*)|0x[0-9a-fA-F]+"
_FLOAT = (
    r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)
_FORMS = {
    f"{_TAG}null": re.compile(r"^(?:~|null|Null|NULL|)$"),
    f"{_TAG}bool": re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"),
    f"{_TAG}int": re.compile(f"^(?:{_INT})$"),
    f"{_TAG}float": re.compile(f"^(?:{_FLOAT})$"),
    f"{_TAG}merge": re.compile(r"^<<$"),
}
"""How a plain value of each type is written."""
_PLAIN = {*_FORMS, *(f"{_TAG}{name}" for name in ("str", "map", "seq"))}


class _Yaml12(yaml.SafeLoader):
    """SafeLoader with the core types of YAML 1.2 in place of those of 1.1."""

    yaml_implicit_resolvers = {}
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.depth += 1
        if self.depth > DEEPEST:
            mark = self.peek_event().start_mark
            raise _marked(mark, f"more than {DEEPEST} levels inside each other")
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


for _tag, _first in zip(
    _FORMS,
    (["~", "n", "N", ""], "tTfF", "-+0123456789", "-+.0123456789", "<"),
    strict=True,
):
    _Yaml12.add_implicit_resolver(_tag, _FORMS[_tag], list(_first))


class _Dumper(yaml.SafeDumper):
    """Puts text in quotes where a reader of YAML 1.1 or 1.2 would take it for something else."""

    yaml_implicit_resolvers = {
        first: yaml.SafeDumper.yaml_implicit_resolvers.get(first, [])
        + _Yaml12.yaml_implicit_resolvers.get(first, [])
        for first in {*yaml.SafeDumper.yaml_implicit_resolvers, *_Yaml12.yaml_implicit_resolvers}
    }


def _scalar(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    # PyYAML breaks lines at these, and reads every break as a newline.
    style = '"' if any(mark in text for mark in "\x85\u2028\u2029") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _scalar)


@dataclass(frozen=True)
class Document:
    """A YAML file that was read.

    Attributes:
        name: the file as messages show it.
        data: its content; no part is shared, so that changing one changes nothing else.
        node: the syntax tree, which knows the lines; merged keys (`<<`) stand among a mapping's own.
    """

    name: str
    data: Any
    node: yaml.Node | None

    def line(self, path: Sequence[Key]) -> int:
        """Line of a key or list item, or of the deepest part of `path` that the file has."""
        node, line = self.node, 1
        for key in path:
            step = _child(node, key)
            if step is None:
                break
            node, line = step
        return line


def read(path: Path, name: str) -> Document:
    """Read a YAML file.

    Raises:
        ConfigError: unreadable, no YAML, or a key stands twice; every repeated key is named.
    """
    try:
        text = read_file(path).decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name}: not a text file in UTF-8 (byte {error.start})") from error
    except OSError as error:
        raise ConfigError(f"{name}: cannot be read: {error.strerror or error}") from error
    if text.startswith(WRITTEN) and not text.endswith(f"\n{END}"):
        raise ConfigError(
            f"{name}: damaged: it was cut, for its last line is no longer `...`; restore it from a copy. "
            "If you changed it yourself, remove its first line"
        )
    try:
        node, data, faults = _parsed(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}:{_said(error, text)}") from error
    if faults:
        raise ConfigError("\n".join(f"{name}:{line}: {fault}" for line, fault in sorted(faults)))
    return Document(name, data, node)


def value(text: str) -> Any:
    """The value that a piece of YAML stands for, as on a command line.

    Raises:
        ValueError: it is no YAML, holds what no key can have, or its keys are not unique.
    """
    try:
        _, data, faults = _parsed(text)
    except yaml.YAMLError as error:
        raise ValueError(_said(error, text).partition(": ")[2]) from error
    for _, fault in faults:
        raise ValueError(fault)
    return data


def _parsed(text: str) -> tuple[yaml.Node | None, Any, list[tuple[int, str]]]:
    """Syntax tree, plain values, and line and message of every fault; no values where there is one.

    Raises:
        yaml.YAMLError: it is no YAML.
    """
    loader = _Yaml12(text)
    try:
        node = _node(loader)
        faults = list(_faults(node, (), count(1))) if node else []
        if node is None or faults:
            return node, None, faults
        return node, json.loads(json.dumps(loader.construct_document(node))), []
    finally:
        loader.dispose()


def _node(loader: _Yaml12) -> yaml.Node | None:
    try:
        return loader.get_single_node()
    except (ValueError, OverflowError) as error:
        # PyYAML hands any eight digits to `chr`.
        raise _marked(
            loader.get_mark(), "an escape names no character; the last is \\U0010FFFF"
        ) from error


def text(data: Any) -> str:
    """Plain values as YAML that `read` and `value` read back equal."""
    return yaml.dump(
        data,
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=None,
        width=72,
    )


def file_text(data: Any) -> str:
    """The same as a file, of which `read` notices where its end got lost."""
    return WRITTEN + text(data) + END


def _said(error: yaml.YAMLError, text: str) -> str:
    """Line and message of what is no YAML."""
    if isinstance(error, ReaderError):
        line = text.count("\n", 0, error.position) + 1
        return (
            f"{line}: no YAML: the character {_code(error.character)} is not allowed in a file; delete it, "
            'or write it as an escape inside of "..."'
        )
    if not isinstance(error, yaml.MarkedYAMLError):
        return f"1: no YAML: {error}"
    mark = error.problem_mark or error.context_mark
    words = " ".join(part for part in (error.context, error.problem) if part)
    hint = "; indent with spaces, not tabs" if "'\\t'" in words else ""
    return f"{mark.line + 1 if mark else 1}: no YAML: {words}{hint}"


def short(text: str) -> str:
    """The beginning of a text that is too long for a message."""
    return text if len(text) <= LONG else f"{text[:SHOWN]}... ({len(text):,} characters)"


def _code(character: str | int) -> str:
    return f"U+{character if isinstance(character, int) else ord(character):04X}"


def _faults(
    node: yaml.Node, above: tuple[yaml.Node, ...], number: Iterator[int]
) -> Iterator[tuple[int, str]]:
    """Keys that stand twice in one mapping, aliases that contain themselves, and what JSON cannot hold.

    Args:
        number: counts the nodes.

    Raises:
        yaml.MarkedYAMLError: aliases make more of the document than anyone would write.
    """
    if any(node is one for one in above):
        yield node.start_mark.line + 1, "an alias contains itself"
        return
    if len(above) >= DEEPEST:
        raise _marked(node.start_mark, f"more than {DEEPEST} levels inside each other")
    if next(number) > MOST_VALUES:
        raise _marked(node.start_mark, f"more than {MOST_VALUES:,} values, aliases included")
    if fault := _no_plain_value(node):
        yield node.start_mark.line + 1, fault
    elif isinstance(node, yaml.CollectionNode):
        if isinstance(node, yaml.MappingNode):
            yield from _key_faults(node)
        for child in node.value:
            inner = child[1] if isinstance(child, tuple) else child
            yield from _faults(inner, (*above, node), number)


def _key_faults(node: yaml.MappingNode) -> Iterator[tuple[int, str]]:
    seen: dict[str, int] = {}
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            continue  # PyYAML refuses it
        if key.value in seen:
            yield line, f"key {short(key.value)} appears twice, first in line {seen[key.value]}"
        seen.setdefault(key.value, line)
        if fault := _no_plain_value(key):
            yield line, fault


def _marked(mark: yaml.Mark, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


def _no_plain_value(node: yaml.Node) -> str:
    """Why a node is neither a mapping, a list, text, a number, a boolean nor null; empty if it is one."""
    tag = node.tag.replace(_TAG, "!!")
    if node.tag not in _PLAIN:
        return f"the tag {tag} is not known here; write a plain value, and text in quotes"
    if not isinstance(node, yaml.ScalarNode):
        kind = "map" if isinstance(node, yaml.MappingNode) else "seq"
        return "" if node.tag == _TAG + kind else f"{tag} is not a type of a mapping or list"
    if node.tag in (f"{_TAG}map", f"{_TAG}seq"):
        return f"{tag} is not a type of a single value"
    shown = short(node.value)
    if node.tag == f"{_TAG}int" and len(node.value) > MOST_DIGITS:
        return f"a number of {len(node.value):,} digits is more than any key takes"
    forms = [node.tag] if node.tag != f"{_TAG}float" else [node.tag, f"{_TAG}int"]
    if node.tag in _FORMS and not any(_FORMS[form].match(node.value) for form in forms):
        return f"{shown!r} is no {tag}; leave the tag out"
    if any("\ud800" <= character <= "\udfff" for character in node.value):
        return f"{shown!r} holds half of a character; write it whole, such as \\U0001F600"
    return ""


def _child(node: yaml.Node | None, key: Key) -> tuple[yaml.Node, int] | None:
    """The node under a key or index, and the line that the key stands in."""
    if isinstance(node, yaml.SequenceNode):
        if isinstance(key, int) and key < len(node.value):
            return node.value[key], node.value[key].start_mark.line + 1
        return None
    if not isinstance(node, yaml.MappingNode):
        return None
    # Merged keys come first, so the last of a name is the one that counts.
    for name, child in reversed(node.value):
        if name.value == str(key):
            return child, name.start_mark.line + 1
    return None
