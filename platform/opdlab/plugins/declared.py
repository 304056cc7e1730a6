"""What plugins say of themselves, checked when an experiment is read: names, switches, contracts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from opdlab.errors import PluginError
from opdlab.methods import MEASURES, SUPPORTS, Contract, Method, Needs
from opdlab.plugins.evaluator import Evaluator
from opdlab.plugins.returned import kind_of, name_of, said_by

SWITCHES = ("graded", "corrected", "own_samples", "of_answers")
SAMPLERS = ("student", "teacher")
NAMED = ("benchmark", "grader_version")
Plugin = TypeVar("Plugin", bound=Method | Evaluator)


def valid(check: Callable[[Plugin], object]) -> Callable[[Plugin], Plugin]:
    """A check as pydantic takes it: the plugin comes back, a fault is a ValueError."""

    def checked(plugin: Plugin) -> Plugin:
        try:
            check(plugin)
        except PluginError as error:
            raise ValueError(str(error)) from error
        return plugin

    return checked


def method(found: Method) -> None:
    """Check what a method says of itself, by which it is sampled, scored and refused.

    Raises:
        PluginError: naming the property, what it is and what it must be.
    """
    if (sampler := _said(found, "sampler")) not in SAMPLERS:
        raise _wrong(found, "sampler", sampler, "'student' or 'teacher'")
    # By these, and by the sampler, other properties may go.
    needs(found)
    contract(found)
    group = _said(found, "group")
    if not isinstance(group, int) or isinstance(group, bool) or group < 0:
        raise _wrong(found, "group", group, "a whole number of 0 or more")
    for name in SWITCHES:
        if not isinstance(value := _said(found, name), bool):
            raise _wrong(found, name, value, "True or False")


def contract(found: Method) -> Contract:
    """What a method says of its objective.

    Raises:
        PluginError: it is no contract, or a part of it is not what it must be.
    """
    said = _said(found, "contract")
    if not isinstance(said, Contract):
        raise PluginError(f"{name_of(found)}.contract returned {kind_of(said)}, wanted Contract")
    kinds = get_type_hints(Contract)
    for one in fields(Contract):
        value, kind = getattr(said, one.name), kinds[one.name]
        if get_origin(kind) is Literal:
            if value not in get_args(kind):
                wanted = " or ".join(map(repr, get_args(kind)))
                raise _wrong(found, f"contract.{one.name}", value, wanted)
        elif kind is str and not isinstance(value, str):
            raise _wrong(found, f"contract.{one.name}", value, "text")
    if not isinstance(said.gradient, Mapping) or not all(map(_is_term, said.gradient.items())):
        wanted = "a mapping from names of true gradients to numbers or None"
        raise _wrong(found, "contract.gradient", said.gradient, wanted)
    return said


def needs(found: Method) -> Needs:
    """What a method says that it needs of a teacher.

    Raises:
        PluginError: it is no `Needs`, or a part of it is not what it must be.
    """
    said = _said(found, "needs")
    if not isinstance(said, Needs):
        raise PluginError(f"{name_of(found)}.needs returned {kind_of(said)}, wanted Needs")
    if said.support not in SUPPORTS:
        raise _wrong(found, "needs.support", said.support, " or ".join(map(repr, SUPPORTS)))
    if said.confidence is not None and said.confidence not in MEASURES:
        wanted = " or ".join(map(repr, (*MEASURES, None)))
        raise _wrong(found, "needs.confidence", said.confidence, wanted)
    whole = isinstance(said.top_k, int) and not isinstance(said.top_k, bool)
    if not whole or said.top_k < 0 or (said.top_k > 0) != (said.support == "top-k"):
        wanted = "the tokens of support 'top-k', 1 or more, and 0 with any other"
        raise _wrong(found, "needs.top_k", said.top_k, wanted)
    if not isinstance(said.answers, bool) or said.answers != (found.sampler == "teacher"):
        raise _wrong(found, "needs.answers", said.answers, "whether `sampler` is 'teacher'")
    if found.full is not said.distribution:
        raise PluginError(
            f"{name_of(found)}.full is {found.full!r}, and follows from `needs`: leave it out, and write "
            'needs = Needs("full") where the loss takes the whole distribution'
        )
    return said


def evaluator(found: Evaluator) -> None:
    """Check the names that an evaluator gives to its benchmark and to its grader.

    Raises:
        PluginError: one is not a text, or empty, or it does not say how many answers are graded at once.
    """
    for name in NAMED:
        value = _said(found, name)
        if not isinstance(value, str) or not value.strip():
            raise _wrong(found, name, value, "text that is not empty")
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise _wrong(found, name, value, "text without half characters")
    at_once = _said(found, "graded_at_once")
    if not isinstance(at_once, int) or isinstance(at_once, bool) or at_once < 1:
        raise _wrong(found, "graded_at_once", at_once, "a whole number of 1 or more")
    for name in ("trains", "explains"):
        with said_by(found, name):
            value = getattr(found, name)()
        if not isinstance(value, bool):
            raise _wrong(found, name, value, "True or False")


def _is_term(term: tuple[Any, Any]) -> bool:
    name, factor = term
    number = isinstance(factor, int | float) and math.isfinite(factor)
    return isinstance(name, str) and (factor is None or number)


def _said(plugin: Method | Evaluator, name: str) -> Any:
    with said_by(plugin, name):
        return getattr(plugin, name)


def _wrong(plugin: Method | Evaluator, name: str, value: Any, wanted: str) -> PluginError:
    plain = isinstance(value, str | int | float | list | tuple | dict)
    found = f"{value!r:.80}" if plain else kind_of(value)
    hint = "; write @property above it" if callable(value) else ""
    return PluginError(f"{name_of(plugin)}.{name} is {found}, wanted {wanted}{hint}")
