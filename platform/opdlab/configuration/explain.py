"""What pydantic found wrong with a configuration, said in the words of the file."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from opdlab.configuration.documents import LONG, Key, short
from opdlab.plugins import MOVED

Path = tuple[Key, ...]
Found = tuple[Path, str]
"""A place in the configuration and the message about it."""

ENDS_SHOWN = 800, 400
"""Characters of the two ends of a fault that is too long."""

_WANTED = {
    "bool_type": "true or false",
    "dict_type": "a mapping (key: value)",
    "finite_number": "a finite number",
    "float_type": "a number",
    "int_type": "a whole number",
    "list_type": "a list",
    "model_type": "a mapping (key: value)",
    "string_type": "text",
    "tuple_type": "a list",
}
_LIMITS = {
    "greater_than": ("above", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("below", "lt"),
    "less_than_equal": ("at most", "le"),
}


def faults(error: ValidationError, model: type[BaseModel], data: Any) -> list[Found]:
    """Place and message of every fault, in pydantic's order.

    Args:
        error: what validating `data` as `model` raised.
        data: plain values as they were written, before validation.
    """
    schema = model.model_json_schema()
    return [_fault(dict(one), schema, data) for one in error.errors(include_url=False)]


def dotted(path: Sequence[Key]) -> str:
    """A path as it is written on the command line: `evaluation.benchmarks.0.level`."""
    return ".".join(short(str(key)) for key in path)


def close(word: str, known: Sequence[str], prefix: str = "") -> str:
    """` Did you mean ...?`, or nothing where no known word is near."""
    match = difflib.get_close_matches(word, known, 1) if len(word) <= LONG else []
    return f" Did you mean {prefix}{match[0]}?" if match else ""


def _fault(error: dict[str, Any], schema: Mapping[str, Any], data: Any) -> Found:
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    path = _written(error["loc"], data, keep_last=kind == "missing")
    key = dotted(path)
    if kind == "extra_forbidden":
        return path, _unknown_key(path, schema, data)
    if kind == "missing" and isinstance(path[-1], int):
        return path[:-1], f"{dotted(path[:-1])} has too few items: there is no item {path[-1]}"
    if kind == "missing":
        return path, f"missing key {key}"
    if kind in ("type_missing", "union_tag_not_found"):
        return path, f"missing key {key}.type; choose one of {_either(_types(schema, data, path))}"
    if kind in ("type_unknown", "union_tag_invalid"):
        known = _types(schema, data, path)
        name = _at(data, path)["type"]
        message = f"{key}.type must be one of {_either(known)}, not {show(name)}."
        return (*path, "type"), message + close(str(name), known)
    if kind == "literal_error":
        known = _enum(schema, data, path)
        return path, f"{key} must be one of {_either(known)}, not {show(value)}." + close(
            str(value), known
        )
    if kind == "plugin_broken":
        return (*path, "type"), f"{key}.type: {context['reason']}"
    if kind == "value_error":
        return _located(path, str(context["error"]), data)
    return path, f"{key} {_must(kind, value, context, error['msg'])}"


def _must(kind: str, value: Any, context: Mapping[str, Any], message: str) -> str:
    """The part of a message that follows the key."""
    if kind in _WANTED:
        quote = "; put it in quotes" if kind == "string_type" and not _is_group(value) else ""
        return f"must be {_WANTED[kind]}, not {show(value)}{quote}"
    if kind in _LIMITS:
        words, limit = _LIMITS[kind]
        return f"must be {words} {_number(context[limit])}, not {show(value)}"
    if kind == "too_short":
        return f"must have at least {context['min_length']} item(s), not {context['actual_length']}"
    if kind == "string_pattern_mismatch":
        return f"must match {context['pattern']}, which {show(value)} does not"
    return f"is wrong: {message}"


def _unknown_key(path: Path, schema: Mapping[str, Any], data: Any) -> str:
    *parents, last = path
    prefix = f"{dotted(parents)}." if parents else ""
    here = _resolve(_schema_at(schema, data, parents), schema, _at(data, parents))
    known = sorted(here.get("properties", {}))
    if news := here.get(MOVED, {}).get(str(last)):
        return f"there is no key {dotted(path)} any more: {news}"
    if "type" not in known:
        ending = close(str(last), known, prefix) or f" Known keys: {', '.join(known)}."
        return f"unknown key {dotted(path)}.{ending}"
    name = _at(data, parents).get("type", parents[-1])
    options = [option for option in known if option != "type"]
    owners = [
        other
        for other, one in _alternatives(_schema_at(schema, data, parents), schema)
        if last in one["properties"]
    ]
    ending = close(str(last), options, prefix)
    if not ending and owners:
        ending = f" It is an option of {_either(owners)}."
    if not ending:
        ending = f" Its options: {', '.join(options)}." if options else " It has none."
    return f"unknown key {dotted(path)}: {name} has no such option.{ending}"


def _located(path: Path, message: str, data: Any) -> Found:
    """A plugin's or a section's own complaint; if it begins with a key of theirs, it is about that."""
    first = message.split(maxsplit=1)[0].rstrip(":,") if message else ""
    inner = _keys(first.split("."), _at(data, path))
    if first and inner:
        return (*path, *inner), f"{dotted(path)}." * bool(path) + message
    return path, f"{dotted(path)}: " * bool(path) + message


def _keys(parts: Sequence[str], data: Any) -> Path:
    """The keys that a dotted name stands for, some of which have dots themselves; () for no key."""
    for length in range(len(parts), 0, -1):
        joined = ".".join(parts[:length])
        if isinstance(data, dict) and joined in data:
            rest = _keys(parts[length:], data[joined])
            if rest or length == len(parts):
                return (joined, *rest)
    return ()


def _written(location: Sequence[Key], data: Any, keep_last: bool) -> Path:
    """The keys of a pydantic location that stand in the data: names of union members do not."""
    path: list[Key] = []
    for i, key in enumerate(location):
        if isinstance(data, dict) and str(key) in data:
            data = data[str(key)]
        elif isinstance(data, list) and isinstance(key, int) and key < len(data):
            data = data[key]
        elif not (keep_last and i == len(location) - 1):
            continue
        path.append(key)
    return tuple(path)


def _at(data: Any, path: Sequence[Key]) -> Any:
    for key in path:
        data = data[key]
    return data


def _schema_at(schema: Mapping[str, Any], data: Any, path: Sequence[Key]) -> Mapping[str, Any]:
    """The part of a JSON schema that describes a place in the data, references not yet followed."""
    node = schema
    for key in path:
        node = _resolve(node, schema, data)
        node = (
            node.get("items", {})
            if isinstance(key, int)
            else node.get("properties", {}).get(key, node.get("additionalProperties") or {})
        )
        data = data[key]
    return node


def _resolve(
    node: Mapping[str, Any], schema: Mapping[str, Any], data: Any = None
) -> Mapping[str, Any]:
    """Follow references, and of several types take the one that the data name; null is none of them."""
    node = _given(node)
    while "$ref" in node:
        node = schema["$defs"][node["$ref"].rsplit("/", 1)[1]]
    if isinstance(data, dict):
        for name, one in _alternatives(node, schema):
            if name == data.get("type"):
                return one
            if list(data) == [name]:
                return {"properties": {name: one}}
    return node


def _given(node: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a value that may be left out is when it is given."""
    others = [one for one in node.get("anyOf", ()) if one.get("type") != "null"]
    return others[0] if len(others) == 1 else node


def _alternatives(
    node: Mapping[str, Any], schema: Mapping[str, Any]
) -> list[tuple[str, Mapping[str, Any]]]:
    members = [_resolve(member, schema) for member in _given(node).get("oneOf", ())]
    # A plugin may be named in other ways, too.
    named = [(one.get("properties", {}).get("type", {}).get("const"), one) for one in members]
    return [(name, one) for name, one in named if name is not None]


def _types(schema: Mapping[str, Any], data: Any, path: Path) -> list[str]:
    return sorted(name for name, _ in _alternatives(_schema_at(schema, data, path), schema))


def _enum(schema: Mapping[str, Any], data: Any, path: Path) -> list[str]:
    node = _resolve(_schema_at(schema, data, path), schema)
    return [str(one) for one in node.get("enum", [node.get("const")])]


def _either(names: Sequence[str]) -> str:
    return ", ".join(names)


def _is_group(value: Any) -> bool:
    return isinstance(value, (dict, list))


def capped(fault: str) -> str:
    """A fault without the midst of what is too long to be read, whoever repeats it."""
    if len(fault) <= sum(ENDS_SHOWN):
        return fault
    first, last = ENDS_SHOWN
    left = len(fault) - first - last
    return f"{fault[:first]} ... ({left:,} characters) ... {fault[-last:]}"


def show(value: Any) -> str:
    """A value as messages show it."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return str(value).lower()
    return f"'{short(value)}'" if isinstance(value, str) else str(value)


def _number(limit: float) -> str:
    """A limit with all of its digits where it is a whole number."""
    return str(limit) if isinstance(limit, int) else f"{limit:g}"
