"""Plugins found through entry points, and their options as typed configuration.

A plugin class is a frozen dataclass; its fields are its options. In a YAML it is chosen by `type`, and
an option that belongs to another type is an error at load.
"""

from __future__ import annotations

import difflib
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, create_model
from pydantic_core import core_schema

from opdlab.errors import PluginError

METHODS = "opdlab.methods"
ROLLOUTS = "opdlab.rollouts"
EVALUATORS = "opdlab.evaluators"
STATISTICS = "opdlab.statistics"


def names(group: str) -> list[str]:
    """Names of the plugins of a group, sorted; nothing is imported."""
    return sorted({point.name for point in entry_points(group=group)})


@cache
def load(group: str, name: str) -> Any:
    """Import one plugin.

    Raises:
        PluginError: no such plugin, two packages offer it, or its import fails.
    """
    points = {point.value: point for point in entry_points(group=group) if point.name == name}
    if not points:
        close = difflib.get_close_matches(name, names(group), 1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise PluginError(f"no {group} plugin {name!r}; installed: {', '.join(names(group))}.{hint}")
    if len(points) > 1:
        raise PluginError(
            f"{group} plugin {name!r} is offered {len(points)} times ({', '.join(points)}): "
            "uninstall all but one of the packages"
        )
    return _import(next(iter(points.values())))


def _import(point: EntryPoint) -> Any:
    try:
        return point.load()
    except (ImportError, AttributeError) as error:
        package = point.dist.name if point.dist else "?"
        raise PluginError(
            f"plugin {point.name!r} of package {package} ({point.value}) cannot be imported: {error}"
        ) from error


def options_model(name: str, plugin: type) -> type[BaseModel]:
    """Pydantic model of a plugin's options, with the `type` key that selects it."""
    if not is_dataclass(plugin):
        raise PluginError(f"plugin {name!r} ({plugin!r}) is no dataclass; decorate it with @dataclass")
    hints = get_type_hints(plugin, include_extras=True)
    declared: dict[str, Any] = {"type": (Literal[name], Field(description=_summary(plugin)))}
    for f in fields(plugin):
        default = f.default_factory() if f.default_factory is not MISSING else f.default
        limits = dict(f.metadata)
        value = ... if default is MISSING else default
        declared[f.name] = (hints[f.name], Field(value, **limits))
    return create_model(
        plugin.__name__,
        __config__=ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=False),
        __doc__=plugin.__doc__,
        **declared,
    )


def _summary(plugin: type) -> str:
    return (plugin.__doc__ or plugin.__name__).strip().splitlines()[0]


class OneOf:
    """Annotation of a configuration field that holds a plugin of a group.

    The value is an instance of the plugin's class; it serialises to its options with `type`.
    """

    def __init__(self, group: str) -> None:
        self.group = group

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        plugins = {name: load(self.group, name) for name in names(self.group)}
        models = {name: options_model(name, plugin) for name, plugin in plugins.items()}
        union: Any = models[next(iter(models))]
        for model in models.values():
            union = union | model
        inner = handler.generate_schema(Annotated[union, Field(discriminator="type")])
        return core_schema.no_info_after_validator_function(
            lambda options: _build(plugins, options),
            inner,
            serialization=core_schema.plain_serializer_function_ser_schema(describe),
        )


def _build(plugins: dict[str, type], options: BaseModel) -> Any:
    values = {name: getattr(options, name) for name in type(options).model_fields}
    return plugins[values.pop("type")](**values)


def type_name(group: str, plugin: Any) -> str:
    """The name under which a plugin instance's class is registered."""
    for name in names(group):
        if load(group, name) is type(plugin):
            return name
    raise PluginError(f"{type(plugin).__name__} is not registered under {group}")


def describe(plugin: Any) -> dict[str, Any]:
    """A plugin's `type` and options as plain values, as an experiment would write them."""
    for group in (METHODS, ROLLOUTS, EVALUATORS):
        for name in names(group):
            if load(group, name) is type(plugin):
                return {"type": name, **{f.name: getattr(plugin, f.name) for f in fields(plugin)}}
    raise PluginError(f"{type(plugin).__name__} is not a registered plugin")
