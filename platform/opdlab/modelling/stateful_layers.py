"""Layers that keep a recurrent state instead of keys: found in any model, and run from any state.

Every such layer of transformers (gated delta nets, Mamba, short convolutions, linear attention) reads its
state from a cache and writes it back, and takes one step from it when it is given one token. So a stand-in
for the cache is all that is needed to run the layer's own forward from any state. A few layers keep the
state in attributes of their own instead.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import FunctionType
from typing import Any, final
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from transformers import PreTrainedModel

from opdlab.modelling.following import Following
from opdlab.modelling.forward_code import Places, arguments_of, kept_by, named_in, places_of
from opdlab.modelling.linear_rules import RULES, Rule
from opdlab.modelling.state_cache import State, StateCache
from opdlab.modelling.state_probe import states_among
from opdlab.shapes import Float, Int, Tensor

_CACHES = ("past_key_values", "cache_params", "cache", "past_key_value")
_WRITES = {"update_conv_state", "update_recurrent_state", "set_linear_cache"}
# Tokens by which it is tried whether a layer goes on from a state with several tokens at a time.
_TRIED = 8
_GOES_ON: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
_STEPWISE: WeakSet[nn.Module] = WeakSet()


@dataclass(eq=False)
class RecurrentLayer(ABC):
    """A layer of a model that keeps a state.

    Attributes:
        module: the layer.
        index: of this layer among those of the model that keep a state.
        count: of all these layers.
        outputs: that its forward returns, the first of which is what later layers read.
    """

    module: nn.Module
    index: int
    count: int = 1
    outputs: int = 1
    _own: Callable[..., Any] = field(init=False)
    _signature: inspect.Signature = field(init=False)

    def __post_init__(self) -> None:
        self._own = self.module.forward
        self._signature = inspect.signature(self._own)

    @abstractmethod
    def _run(
        self,
        inputs: Float[Tensor, "B S H"],
        state: State | None,
        column: Int[Tensor, "B S"],
        arguments: dict[str, Any],
    ) -> tuple[Any, State]:
        """What the module's own forward returns, and the state afterwards."""

    def arguments(self, args: tuple[Any, ...], options: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a call by name, and the inputs under the name of the first one."""
        bound = self._signature.bind(*args, **options)
        found = dict(bound.arguments)
        for name, parameter in self._signature.parameters.items():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                found |= found.pop(name, {})
        return found

    @property
    def first(self) -> str:
        """Name of the argument that holds the inputs."""
        return next(iter(self._signature.parameters))

    def run(
        self,
        inputs: Float[Tensor, "B S H"],
        state: State | None,
        column: Int[Tensor, "B S"],
        arguments: dict[str, Any],
    ) -> tuple[Float[Tensor, "B S H"], State]:
        """Outputs of some tokens after a state, and the state after them; `state` may be overwritten.

        Args:
            state: None at the beginning of a text.
            column: where the tokens stand in their text.
            arguments: of the module's forward; inputs, state and mask of padding are replaced.
        """
        if state is None or inputs.shape[1] == 1 or self._goes_on(inputs, column, arguments):
            output, after = self._run(inputs, state, column, arguments)
            if isinstance(output, tuple):
                self.outputs = len(output)
            return _first(output), after
        found = []
        for token, place in zip(inputs.split(1, 1), column.split(1, 1), strict=True):
            output, state = self.run(token, state, place, arguments)
            found.append(output)
        return torch.cat(found, 1), state

    def _goes_on(
        self, inputs: Float[Tensor, "B S H"], column: Int[Tensor, "B S"], arguments: dict[str, Any]
    ) -> bool:
        """Whether several tokens may go on from a state; some layers begin anew with several.

        Tried on the first inputs that come: against the same tokens in one call, and one by one; and by
        what is read of the state, since rounding may hide that it is not.
        """
        if self.module not in _GOES_ON:
            if inputs.shape[1] < 3:
                return False  # too few to tell
            count = min(_TRIED, inputs.shape[1])
            some, at = inputs[:1, :count], torch.arange(count, device=inputs.device)[None]
            bare = isinstance(inputs, FakeTensor) or inputs.device.type == "meta"
            alike = self._reads_alike(some, at, arguments)
            _GOES_ON[self.module] = alike and (bare or self._try(some, at, arguments))
        return _GOES_ON[self.module]

    def _try(
        self, inputs: Float[Tensor, "B S H"], column: Int[Tensor, "B S"], arguments: dict[str, Any]
    ) -> bool:
        half = inputs.shape[1] // 2
        first, second = slice(0, half), slice(half, None)
        rest = inputs[:, second], column[:, second]
        whole = self._run(inputs, None, column, arguments)
        state = self._run(inputs[:, first], None, column[:, first], arguments)[1]
        again = {name: part.clone() for name, part in state.items()}
        together = self._run(rest[0], again, rest[1], arguments)
        singly = []
        for token, place in zip(*(part.split(1, 1) for part in rest), strict=True):
            output, state = self._run(token, state, place, arguments)
            singly.append(_first(output))
        truth = _first(whole[0])[:, second].float()
        gaps = [
            float((found.float() - truth).norm())
            for found in (_first(together[0]), torch.cat(singly, 1))
        ]
        return gaps[0] <= 4 * gaps[1] + 1e-5 * float(truth.norm())

    def _reads_alike(
        self, inputs: Float[Tensor, "B S H"], column: Int[Tensor, "B S"], arguments: dict[str, Any]
    ) -> bool:
        """The same without content: whether several tokens read all of a state that one reads."""
        half = inputs.shape[1] // 2
        state = self._run(inputs[:, :half], None, column[:, :half], arguments)[1]
        one, several = (
            self._read(inputs[:, half:end], state, column[:, half:end], arguments)
            for end in (half + 1, None)
        )
        return one <= several

    def _read(
        self,
        inputs: Float[Tensor, "B S H"],
        state: State,
        column: Int[Tensor, "B S"],
        arguments: dict[str, Any],
    ) -> set[Any]:
        """Names of the parts of a state that outputs depend on."""
        found = set()
        for name in state:
            given = {each: part.clone() for each, part in state.items()}
            with Following(given[name]) as following:
                output = _first(self._run(inputs, given, column, arguments)[0])
            if output in following:
                found.add(name)
        return found

    def blank(
        self, inputs: Float[Tensor, "B S H"], column: Int[Tensor, "B S"], arguments: dict[str, Any]
    ) -> State:
        """The state before the first token, as zeros for every row."""
        _, state = self._run(inputs[:1, :1], None, column[:1, :1] * 0, arguments)
        rows = len(inputs)
        return {name: part.new_zeros(rows, *part.shape[1:]) for name, part in state.items()}


@final
class CachedLayer(RecurrentLayer):
    """A layer that keeps its state in the cache."""

    @property
    def stepwise(self) -> bool:
        """Whether it is run token by token though it could be otherwise."""
        return self.module in _STEPWISE

    @property
    def rule(self) -> Rule | None:
        """How its state is a sum, where its forward calls functions that are known here."""
        if self.stepwise:
            return None
        names = named_in(self.module)
        plain = not any(hasattr(part, "_hf_hook") for part in self.module.modules())
        return next((rule for rule in RULES if plain and {rule.many, rule.one} <= names), None)

    @property
    def convolves(self) -> bool:
        """Whether its state is the last inputs of a convolution alone."""
        return named_in(self.module) & _WRITES == {"update_conv_state"}

    def run_with(
        self,
        inputs: Float[Tensor, "B S H"],
        cache: StateCache,
        arguments: dict[str, Any],
        calls: Mapping[str, Callable[[Callable[..., Any], dict[str, Any]], Any]],
    ) -> Float[Tensor, "B S H"]:
        """Outputs of the module's own forward, some of whose functions are replaced.

        Args:
            calls: by a function's name, what is done in its place: it gets the function, and its arguments.
        """
        bare: Any = inspect.unwrap(type(self.module).forward)
        names = bare.__globals__ | {
            name: partial(_called, bare.__globals__[name], call) for name, call in calls.items()
        }
        own = FunctionType(bare.__code__, names, bare.__name__, bare.__defaults__, bare.__closure__)
        own.__kwdefaults__ = bare.__kwdefaults__
        given = {self.first: inputs, _cache_of(self._signature): cache, "attention_mask": None}
        output = own(self.module, **arguments | given)
        if isinstance(output, tuple):
            self.outputs = len(output)
        return _first(output)

    def _run(
        self,
        inputs: Float[Tensor, "B S H"],
        state: State | None,
        column: Int[Tensor, "B S"],
        arguments: dict[str, Any],
    ) -> tuple[Any, State]:
        cache = StateCache(state)
        given = {self.first: inputs, _cache_of(self._signature): cache}
        if "attention_mask" in self._signature.parameters:
            given["attention_mask"] = None
        return self._own(**arguments | given), cache.state


@final
class OwnStateLayer(RecurrentLayer):
    """A layer that keeps its state in attributes, its own or of modules within."""

    def _run(
        self,
        inputs: Float[Tensor, "B S H"],
        state: State | None,
        column: Int[Tensor, "B S"],
        arguments: dict[str, Any],
    ) -> tuple[Any, State]:
        places = places_of(self.module)
        before = [getattr(part, name) for part, name in places]
        try:
            for number, (part, name) in enumerate(places):
                setattr(part, name, None if state is None else state[number])
            given = {self.first: inputs, "use_cache": True, "position_ids": column}
            output = self._own(**arguments | given)
            kept = {number: getattr(part, name) for number, (part, name) in enumerate(places)}
        finally:
            for (part, name), value in zip(places, before, strict=True):
                setattr(part, name, value)
        return output, kept


def recurrent_layers(model: PreTrainedModel) -> list[RecurrentLayer]:
    """The layers of a model that keep a state, by what their forward does; none for most models."""
    found: list[RecurrentLayer] = []
    own: dict[nn.Module, Places] = {}
    for module in model.modules():
        if isinstance(module, (PreTrainedModel, nn.ModuleList)):
            continue
        if named_in(module) & _WRITES and _cache_of(inspect.signature(module.forward)):
            found.append(CachedLayer(module, len(found)))
        elif "use_cache" in arguments_of(module) and any(map(kept_by, module.modules())):
            within = [part for part in module.modules() if part is not module]
            if not any("use_cache" in arguments_of(part) for part in within):
                own[module] = places_of(module)
                found.append(OwnStateLayer(module, len(found)))
    states = states_among(model, own) if own else {}
    found = [one for one in found if one.module in states or one.module not in own]
    for index, layer in enumerate(found):
        layer.index, layer.count = index, len(found)
    return found


def step_by_step(model: PreTrainedModel) -> bool:
    """Run all recurrent layers token by token where leaves branch off; whether some were not before."""
    quicker = [
        one for one in recurrent_layers(model) if isinstance(one, CachedLayer) and not one.stepwise
    ]
    _STEPWISE.update(layer.module for layer in quicker)
    return bool(quicker)


def _called(
    function: Callable[..., Any],
    call: Callable[[Callable[..., Any], dict[str, Any]], Any],
    *args: Any,
    **options: Any,
) -> Any:
    bound = inspect.signature(function).bind(*args, **options)
    bound.apply_defaults()
    named = dict(bound.arguments)
    return call(function, named | named.pop("kwargs", {}))


def _first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def _cache_of(signature: inspect.Signature) -> str:
    return next((name for name in _CACHES if name in signature.parameters), "")
