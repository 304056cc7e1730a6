"""YAML text as plain data, with the line that each value stands in.

Values are read by the rules of YAML 1.2: `no` and `12:30` are text, `1e-3` is a number. Nothing but
mappings, lists, strings, numbers, booleans and null comes out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from opdlab.errors import ConfigError

Key = str | int


class _Yaml12(yaml.SafeLoader):
    """SafeLoader with the core types of YAML 1.2 in place of those of 1.1."""

    yaml_implicit_resolvers = {}


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9]*)|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    ("merge", r"<<", ["<"]),
):
    _Yaml12.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first
    )


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
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name}: not a text file in UTF-8 (byte {error.start})") from error
    except OSError as error:
        raise ConfigError(f"{name}: cannot be read: {error.strerror}") from error
    loader = _Yaml12(text)
    try:
        node = loader.get_single_node()
        faults = list(_faults(node, ())) if node else []
        if faults:
            raise ConfigError(
                "\n".join(f"{name}:{line}: {fault}" for line, fault in sorted(faults))
            )
        data = loader.construct_document(node) if node else None
    except yaml.MarkedYAMLError as error:
        raise ConfigError(f"{name}:{_marked(error)}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: no YAML: {error}") from error
    finally:
        loader.dispose()
    return Document(name, json.loads(json.dumps(data)), node)


def value(text: str) -> Any:
    """The value that a piece of YAML stands for, as on a command line.

    Raises:
        ValueError: it is no YAML, or its keys are not unique.
    """
    loader = _Yaml12(text)
    try:
        node = loader.get_single_node()
        for _, fault in _faults(node, ()) if node else ():
            raise ValueError(fault)
        return json.loads(json.dumps(loader.construct_document(node))) if node else None
    except yaml.YAMLError as error:
        problem = error.problem if isinstance(error, yaml.MarkedYAMLError) else error
        raise ValueError(f"no YAML: {problem}") from error
    finally:
        loader.dispose()


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


def _marked(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    text = " ".join(part for part in (error.context, error.problem) if part)
    hint = "; indent with spaces, not tabs" if "'\\t'" in text else ""
    return f"{mark.line + 1 if mark else 1}: no YAML: {text}{hint}"


def _faults(node: yaml.Node, above: tuple[yaml.Node, ...]) -> Iterator[tuple[int, str]]:
    """Keys that stand twice in one mapping, and aliases that contain themselves."""
    if any(node is one for one in above):
        yield node.start_mark.line + 1, "an alias contains itself"
    elif isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, child in node.value:
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                yield line, f"key {key.value} stands twice, first in line {seen[key.value]}"
            elif isinstance(key, yaml.ScalarNode):
                seen[key.value] = line
            yield from _faults(child, (*above, node))
    elif isinstance(node, yaml.SequenceNode):
        for child in node.value:
            yield from _faults(child, (*above, node))


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
