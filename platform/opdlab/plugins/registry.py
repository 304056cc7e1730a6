"""Plugins found through entry points, and their options as typed configuration.

A plugin class is a frozen dataclass; its fields are its options. In a YAML it is chosen by `type`, and
an option that belongs to another type is an error at load.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache, partial
from importlib.metadata import EntryPoint, entry_points
from inspect import isabstract
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_type_hints

from pydantic import (
    BaseModel,
    ConfigDict,
    Field as Declared,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PydanticUserError,
    ValidationError,
    create_model,
)
from pydantic_core import PydanticCustomError, PydanticKnownError, core_schema

from opdlab import secret_options
from opdlab.errors import PluginError
from opdlab.plugins.strict import strictly

METHODS = "opdlab.methods"
ROLLOUTS = "opdlab.rollouts"
EVALUATORS = "opdlab.evaluators"
GRADERS = "opdlab.graders"
STATISTICS = "opdlab.statistics"
DASHBOARDS = "opdlab.dashboards"
SECTIONS = "opdlab.sections"

MOVED = "x-moved"
"""Key of a schema: keys that were here once, each with what to write in its place."""
ONE_OF = "one_of"
"""Key of an option's metadata: the group of the plugin that it holds."""


@cache
def _installed() -> Any:
    """All entry points; reading the metadata of every package takes a while, so only once.

    Their type is another in Python 3.11, where it can be asked for a group as well.
    """
    return entry_points()


def _points(group: str) -> list[EntryPoint]:
    return sorted(_installed().select(group=group), key=lambda point: point.name)


def forget() -> None:
    """Look again for what is installed, and import it again where it is chosen."""
    for known in (_installed, load, options_model):
        known.cache_clear()


def names(group: str) -> list[str]:
    """Names of the plugins of a group, sorted; nothing is imported."""
    return list(dict.fromkeys(point.name for point in _points(group)))


def package(group: str, name: str) -> str:
    """Name and version of the package that offers a plugin."""
    dists = [point.dist for point in _points(group) if point.name == name and point.dist]
    return ", ".join(dict.fromkeys(f"{dist.name} {dist.version}" for dist in dists))


@cache
def load(group: str, name: str) -> Any:
    """Import one plugin.

    Raises:
        PluginError: no such plugin, two packages offer it, or its import fails.
    """
    points = {point.value: point for point in _points(group) if point.name == name}
    if not points:
        close = difflib.get_close_matches(name, names(group), 1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise PluginError(
            f"no {group} plugin {name!r}; installed: {', '.join(names(group))}.{hint}"
        )
    if len(points) > 1:
        raise PluginError(
            f"{group} plugin {name!r} is offered {len(points)} times ({', '.join(points)}): "
            "uninstall all but one of the packages"
        )
    return _import(next(iter(points.values())))


def working(*groups: str) -> Iterator[tuple[str, Any]]:
    """Name and class of every plugin that can be imported, those that already are first."""
    points = [point for group in groups for point in _points(group)]
    for point in sorted(points, key=lambda point: point.module not in sys.modules):
        try:
            yield point.name, load(point.group, point.name)
        except PluginError:
            # A broken plugin is reported where it is chosen, and by `opdlab plugins`.
            continue


def _import(point: EntryPoint) -> Any:
    try:
        return point.load()
    except Exception as error:  # the module is foreign code and may fail in any way
        package = point.dist.name if point.dist else "?"
        raise PluginError(
            f"plugin {point.name!r} of package {package} ({point.value}) cannot be imported: "
            f"{type(error).__name__}: {error}"
        ) from error


@cache
def options_model(name: str, plugin: type) -> type[BaseModel]:
    """Pydantic model of a plugin's options, with the `type` key that selects it.

    Raises:
        PluginError: the plugin is not a dataclass, or its annotations cannot be used.
    """
    if not is_dataclass(plugin):
        raise PluginError(
            f"plugin {name!r} ({plugin!r}) is not a dataclass; decorate it with @dataclass"
        )
    declared: dict[str, Any] = {"type": (Literal[name], Declared(description=summary(plugin)))}
    try:
        hints = get_type_hints(plugin, include_extras=True)
        for f in fields(plugin):
            default = f.default_factory() if f.default_factory is not MISSING else f.default
            value = ... if default is MISSING else default
            declared[f.name] = (_annotation(hints[f.name], f), Declared(value, **_limits(f)))
        news: dict[str, Any] = {old: f"write {new}" for old, new in renamed(plugin).items()}
        return create_model(
            plugin.__name__,
            __config__=ConfigDict(
                extra="forbid",
                frozen=True,
                allow_inf_nan=False,
                json_schema_extra={MOVED: news} if news else None,
            ),
            __doc__=plugin.__doc__,
            **declared,
        )
    except (NameError, TypeError, PydanticUserError) as error:
        raise PluginError(f"the options of plugin {name!r} cannot be read: {error}") from error


def renamed(plugin: type) -> Mapping[str, str]:
    """Options that a plugin had under other names once, with today's: its class attribute `renamed`."""
    return getattr(plugin, "renamed", {})


def _annotation(hint: Any, option: Field[Any]) -> Any:
    """An option's type; where it holds another plugin, one that is read as a plugin is."""
    group = option.metadata.get(ONE_OF)
    if group is None:
        return hint
    (base,) = (kind for kind in get_args(hint) if kind is not NoneType)
    plugin: Any = Annotated[base, Named(group) if group == GRADERS else Nested(group)]
    return plugin | None


def _limits(option: Field[Any]) -> dict[str, Any]:
    return {name: value for name, value in option.metadata.items() if name != ONE_OF}


def summary(plugin: type) -> str:
    """First line of a plugin's docstring."""
    return (plugin.__doc__ or plugin.__name__).strip().splitlines()[0]


class OneOf:
    """Annotation of a configuration field that holds a plugin of a group.

    The value is an instance of the plugin's class; it serialises to its options with `type`. Only the
    plugin that is chosen gets imported, so a broken one harms nobody who does not use it.
    """

    def __init__(self, group: str) -> None:
        self.group = group

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(
            partial(self._instance, source),
            serialization=core_schema.plain_serializer_function_ser_schema(describe),
        )

    def _instance(self, base: type, value: Any) -> Any:
        if isinstance(value, base):
            return value
        if not isinstance(value, dict):
            raise PydanticKnownError("dict_type")
        if "type" not in value:
            raise PydanticCustomError("type_missing", "a plugin is chosen by the key `type`")
        if value["type"] not in names(self.group):
            raise PydanticCustomError("type_unknown", "no plugin of this type is installed")
        try:
            plugin = load(self.group, value["type"])
            options = options_model(value["type"], plugin)
            _check_contract(value["type"], plugin, base)
        except PluginError as error:
            raise PydanticCustomError(
                "plugin_broken", "{reason}", {"reason": str(error)}
            ) from error
        try:
            given = secret_options.restored(value)
        except ValueError as error:
            raise PydanticCustomError("secret_gone", "{reason}", {"reason": str(error)}) from error
        return _with_options(plugin, options, given)

    def _offered(self) -> Iterator[tuple[str, Any]]:
        yield from sorted(working(self.group))

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        models = (options_model(name, plugin) for name, plugin in self._offered())
        return {"oneOf": [handler(model.__pydantic_core_schema__) for model in models]}


class Nested(OneOf):
    """The same inside another plugin's options; its schema leaves out what can hold a plugin itself."""

    def _offered(self) -> Iterator[tuple[str, Any]]:
        for name, plugin in super()._offered():
            if not (is_dataclass(plugin) and any(ONE_OF in f.metadata for f in fields(plugin))):
                yield name, plugin


class Named(OneOf):
    """The same where the name of a plugin may stand for it, with its default options (`grader: exact`), or
    over them (`grader: {judge: {url: ...}}`), or over its first option (`grader: {evaluate: rouge}`)."""

    def _instance(self, base: type, value: Any) -> Any:
        if isinstance(value, dict) and len(value) == 1 and "type" not in value:
            ((name, options),) = value.items()
            if name in names(self.group):
                try:
                    return super()._instance(base, {"type": name, **self._options(name, options)})
                except ValidationError as error:
                    raise _below(error, name) from error
        if isinstance(value, str):
            if value not in names(self.group):
                close = difflib.get_close_matches(value, names(self.group), 1)
                hint = f" Did you mean {close[0]}?" if close else ""
                raise ValueError(
                    f"{value!r} is not one of {', '.join(names(self.group))}, nor a mapping with "
                    f"`type`.{hint}"
                )
            value = {"type": value}
        return super()._instance(base, value)

    def _options(self, name: str, given: Any) -> dict[str, Any]:
        """What stands below a plugin's name: its options, or its first one."""
        if isinstance(given, dict):
            return given
        found = fields(load(self.group, name))
        if not found:
            raise ValueError(f"{name} has no options; write only its name")
        return {found[0].name: given}

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        found = super().__get_pydantic_json_schema__(schema, handler)
        listed = [name for name, _ in self._offered()]
        below: dict[str, Any] = {
            "type": "object",
            "minProperties": 1,
            "maxProperties": 1,
            "additionalProperties": False,
            "properties": {name: {} for name in listed},
        }
        return {"oneOf": [{"type": "string", "enum": listed}, below, *found["oneOf"]]}


def _below(error: ValidationError, name: str) -> ValidationError:
    """The same faults, one key deeper."""
    faults: list[Any] = [
        {
            "type": one["type"],
            "loc": (name, *one["loc"]),
            "input": one["input"],
            "ctx": one.get("ctx", {}),
        }
        for one in error.errors(include_url=False)
    ]
    return ValidationError.from_exception_data(error.title, faults)


def made(group: str, described: Mapping[str, Any]) -> Any:
    """The plugin that `describe` described, those inside it too.

    Raises:
        PluginError: it is not installed, or takes these options no more.
    """
    name = described["type"]
    plugin = load(group, name)
    today = renamed(plugin)
    # Records of before are records; an experiment is told what to write.
    options = {today.get(key, key): value for key, value in described.items()}
    try:
        return _with_options(plugin, options_model(name, plugin), options)
    except ValueError as error:
        raise PluginError(f"{name} takes the options {dict(described)} no more: {error}") from error


def _with_options(plugin: Any, options: type[BaseModel], given: Any) -> Any:
    parsed = strictly(options, given)
    return plugin(
        **{name: getattr(parsed, name) for name in options.model_fields if name != "type"}
    )


def _check_contract(name: str, plugin: type, base: type) -> None:
    if not issubclass(plugin, base):
        raise PluginError(f"plugin {name!r} ({plugin.__name__}) must subclass {base.__name__}")
    if isabstract(plugin):
        missing = ", ".join(sorted(plugin.__abstractmethods__))
        raise PluginError(f"plugin {name!r} ({plugin.__name__}) does not define {missing}")


def type_name(group: str, plugin: Any) -> str:
    """The name under which a plugin instance's class is registered.

    Raises:
        PluginError: it is not registered in this group.
    """
    for name, known in working(group):
        if known is type(plugin):
            return name
    raise PluginError(f"{type(plugin).__name__} is not registered under {group}")


def called(group: str, plugin: Any) -> str:
    """A plugin instance as experiments name it, or its class where it is registered nowhere."""
    try:
        return type_name(group, plugin)
    except PluginError:
        return type(plugin).__name__


def describe(plugin: Any) -> dict[str, Any]:
    """A plugin's `type` and options as plain values, as an experiment would write them, without secrets."""
    for name, known in working(METHODS, ROLLOUTS, EVALUATORS, GRADERS):
        if known is type(plugin):
            options = {f.name: (f, getattr(plugin, f.name)) for f in fields(plugin)}
            return {"type": name, **{key: _plain(*option) for key, option in options.items()}}
    raise PluginError(f"{type(plugin).__name__} is not a registered plugin")


def _plain(option: Field[Any], value: Any) -> Any:
    if ONE_OF in option.metadata and value is not None:
        return describe(value)
    return secret_options.covered(option.name, value)
