"""Reference pages made from the program at every build: a hook of MkDocs (`hooks` in mkdocs.yml).

Keys, and options of plugins, come from the JSON schema of the models that validate experiment files;
commands from the objects that print `--help`. Nothing here repeats a default or a range.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from cells import cell
from command_pages import commands, shipped
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

Schema = Mapping[str, Any]
LIMITS = {
    "minimum": "≥ {}",
    "exclusiveMinimum": "> {}",
    "maximum": "≤ {}",
    "exclusiveMaximum": "< {}",
}
SIZES = {"minItems": "at least {} items", "maxLength": "at most {} characters"}
MARKS = {"opd": "methods", "cached": "rollouts", "routes": "evaluators", "numeric": "graders"}
"""A type that stands in one kind of plugin alone, by which a union of plugins is known."""
LARGEST = 2**53
"""Numbers beyond this are limits of storage that no reader needs to know."""
KEYS = """\
Every section of an experiment file with its keys. The tables are generated from the models that validate
the file. `opdlab schema` prints the same as a JSON schema for editors. A key without a default is required.

A key is addressed by its path, for example `training.mask.first`, in error messages, on the command line
(`opdlab train my.yaml training.mask.first=4`), in `runs[].set` and in the `space` of a sweep.
"""
PLUGIN_PAGES = {
    "methods": ("Methods", "Values of `method.type`, and of `method.base.type` of LGR."),
    "rollouts": ("Rollout engines", "Values of `rollout.type`."),
    "evaluators": (
        "Evaluators",
        "Values of `type` in `evaluation.benchmarks`. Those that can generate training problems are also "
        "accepted in `prompts.sources`.",
    ),
    "graders": (
        "Graders",
        "Values of `prompts.grader`, and of `grader` of the benchmark `dataset`. A grader without options "
        "may be written as a name: `grader: math`.",
    ),
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    for name, text in pages().items():
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def pages() -> dict[str, str]:
    """Markdown by the name of the page."""
    from opdlab.configuration import json_schema

    schema = json_schema()
    defs = schema["$defs"]
    experiment, pretraining = defs["Experiment"], defs["Pretraining"]
    found = {
        "experiment": "# Experiment files\n\n" + KEYS + "\n" + "\n".join(Keys(defs).of(experiment)),
        "pretraining": "# Pretraining files\n\nFiles with `kind: pretrain`, for `opdlab pretrain`.\n\n"
        + "\n".join(Keys(defs).of(pretraining)),
        "commands": "\n".join(commands()),
        "shipped": "\n".join(shipped()),
    }
    unions = {
        "methods": experiment["properties"]["method"],
        "rollouts": experiment["properties"]["rollout"],
        "evaluators": defs["Evaluation"]["properties"]["benchmarks"]["items"],
        "graders": defs["DatasetPrompts"]["properties"]["grader"],
    }
    for name, union in unions.items():
        title, intro = PLUGIN_PAGES[name]
        found[name] = f"# {title}\n\n{intro}\n\n" + "\n".join(plugins(union))
    return found


class Keys:
    """Sections with their keys, each model once, in the order in which a reader meets them."""

    def __init__(self, defs: Mapping[str, Schema]) -> None:
        self.defs = defs
        self.anchors: dict[str, str] = {}

    def of(self, model: Schema, path: str = "") -> Iterator[str]:
        """The table of a model, then those of the models below it."""
        below = list(self._sections(model, path))
        yield table(model, self.anchors)
        for name, heading, where in below:
            level = "##" if where.count(".") == 0 else "###"
            text = cell(self.defs[name].get("description"))
            yield f"\n{level} {heading} {{ #{self.anchors[name]} }}\n\n{text}\n"
            yield from self.of(self.defs[name], where)

    def _sections(self, model: Schema, path: str) -> Iterator[tuple[str, str, str]]:
        for key, value in model["properties"].items():
            where = f"{path}.{key}" if path else key
            for name in refs(value):
                if name not in self.anchors and self.defs[name].get("properties"):
                    kind = self.defs[name]["properties"].get("type", {}).get("const")
                    suffix = f" with `type: {kind}`" if kind else ""
                    self.anchors[name] = re.sub(
                        r"[.\[\]]+", "-", where + (f"-{kind}" if kind else "")
                    )
                    yield name, f"`{where}`{suffix}", where


def refs(schema: Any) -> Iterator[str]:
    """Names of the models that a value may be, plugins aside."""
    if isinstance(schema, list):
        for one in schema:
            yield from refs(one)
    elif isinstance(schema, dict):
        if "$ref" in schema:
            yield schema["$ref"].rpartition("/")[2]
        elif "properties" not in schema:
            for key in ("anyOf", "oneOf", "items", "additionalProperties", "prefixItems"):
                yield from refs(schema.get(key))


def plugins(union: Schema) -> Iterator[str]:
    """A section for each type of a union of plugins."""
    for one in sorted(options_of(union), key=lambda one: one["properties"]["type"]["const"]):
        name = one["properties"]["type"]["const"]
        keys = {key: value for key, value in one["properties"].items() if key != "type"}
        yield f"\n## `{name}` {{ #{name} }}\n\n{cell(one.get('description'))}\n"
        yield table({**one, "properties": keys}, {}) if keys else "No options.\n"


def options_of(schema: Any) -> Iterator[Schema]:
    """The mappings with a `type` of their own among what a value may be."""
    for one in schema.get("oneOf", schema.get("anyOf", ())):
        if "const" in one.get("properties", {}).get("type", {}):
            yield one
        else:
            yield from options_of(one)


def table(model: Schema, anchors: Mapping[str, str]) -> str:
    """Keys with type, default and meaning."""
    rows = ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    required = model.get("required", ())
    for key, value in model["properties"].items():
        default = "**required**" if key in required else code(value.get("default"), value)
        text = cell(value.get("description"))
        rows.append(f"| `{key}` | {kind(value, anchors)} | {default} | {text} |")
    return "\n".join(rows) + "\n"


def kind(schema: Any, anchors: Mapping[str, str]) -> str:
    """A type in words, with its limits."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[section](#{anchors[name]})" if name in anchors else "any value"
    several = schema.get("anyOf") or schema.get("oneOf")
    if several:
        types = {one["properties"]["type"]["const"] for one in options_of(schema)}
        if page := next((page for mark, page in MARKS.items() if mark in types), None):
            nothing = " or null" if {"type": "null"} in several else ""
            return f"[plugin]({page}.md){nothing}"
        return " or ".join(dict.fromkeys(kind(one, anchors) for one in several))
    if "const" in schema:
        return code(schema["const"], schema)
    if "enum" in schema:
        return ", ".join(code(one, schema) for one in schema["enum"])
    return _plain(schema, anchors)


def _plain(schema: Schema, anchors: Mapping[str, str]) -> str:
    names = {
        "integer": "whole number",
        "number": "number",
        "string": "text",
        "boolean": "true or false",
    }
    named = schema.get("type", "any value")
    if named == "array":
        inner = schema.get("items") or {"anyOf": schema.get("prefixItems", [{}])}
        words = f"list of {kind(inner, anchors)}" if inner != {"anyOf": [{}]} else "list"
    elif named == "object":
        inner = schema.get("additionalProperties")
        words = (
            f"mapping to {kind(inner, anchors)}" if isinstance(inner, dict) and inner else "mapping"
        )
    else:
        words = names.get(named, named)
    limits = [
        text.format(f"{schema[key]:g}")
        for key, text in LIMITS.items()
        if abs(schema.get(key, LARGEST)) < LARGEST
    ]
    limits += [text.format(schema[key]) for key, text in SIZES.items() if key in schema]
    return ", ".join([words, *limits])


def code(value: Any, schema: Schema) -> str:
    """A value as YAML writes it."""
    if value is None and "default" not in schema:
        return ""
    words = {None: "null", True: "true", False: "false", "": '""'}
    if isinstance(value, str) and "\n" in value:
        return f"`{json.dumps(value)}`"
    if isinstance(value, str | bool) or value is None:
        return f"`{words.get(value, value)}`"
    if isinstance(value, int | float):
        return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"
    return "its defaults" if isinstance(value, dict) and value else f"`{flow(value)}`"


def flow(value: Any) -> str:
    """A list or mapping in YAML's flow form."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(flow(one) for one in value)}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {flow(one)}" for key, one in value.items()) + "}"
    return (
        "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    )
