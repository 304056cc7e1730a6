"""States of linear attention in products: what a query reads of them, without the states themselves.

In the gated delta rule and in Mamba-2 a state is a sum of keys times values that decays by one number a
head: S_t = a_t S_(t-1) + k_t u_t. So a query that stands within a segment reads it from the state at the
segment's start and from the keys and values since then, as attention does, by two products. For the delta
rule the values are those that remain when what the state already gives for a key is taken away.

Sources: Mamba-2, arXiv:2405.21060, section 6; gated delta networks, arXiv:2412.06464, section 3.3.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch

from opdlab.shapes import Float, Int, Tensor


@dataclass(frozen=True, eq=False)
class Sum:
    """Tokens of some rows as terms of the sum.

    Attributes:
        key: `Float[R H c N]`
        value: of the delta rule, before anything is taken away. `Float[R H c D]`
        decay: logarithms. `Float[R H c]`
        rate: of the delta rule, None for others. `Float[R H c]`
    """

    key: Tensor
    value: Tensor
    decay: Tensor
    rate: Tensor | None = None

    def part(self, columns: slice) -> Sum:
        """Some of the tokens."""
        rate = None if self.rate is None else self.rate[:, :, columns]
        key, value = self.key[:, :, columns], self.value[:, :, columns]
        return Sum(key, value, self.decay[:, :, columns], rate)


@dataclass(frozen=True, eq=False)
class Segments:
    """Segments of as many tokens, the last ones filled up.

    Attributes:
        state: at the start. `Float[P H N D]`
        key, value: what is added to it. `Float[P H c N]`, `Float[P H c D]`
        decay: logarithms, from the start on. `Float[P H c]`
    """

    state: Float[Tensor, "P H N D"]
    key: Float[Tensor, "P H c N"]
    value: Float[Tensor, "P H c D"]
    decay: Float[Tensor, "P H c"]

    @classmethod
    def of(cls, parts: list[Segments]) -> Segments:
        """All of these."""
        names = ("state", "key", "value", "decay")
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in names))

    def select(self, index: Int[Tensor, "p"]) -> Segments:
        """Some of these."""
        return Segments(self.state[index], self.key[index], self.value[index], self.decay[index])

    def read(
        self, query: Float[Tensor, "P H n N"], seen: Int[Tensor, "P n"]
    ) -> Float[Tensor, "P H n D"]:
        """What queries read of the states after the first `seen` tokens of their segments."""
        place = torch.arange(self.key.shape[2], device=query.device)
        at = (seen - 1).clamp_min(0)[:, None].expand(-1, query.shape[1], -1)
        since = torch.where(seen[:, None] > 0, self.decay.gather(2, at), 0.0)[..., None]
        weight = (since - self.decay[:, :, None]).masked_fill(
            (place >= seen[..., None])[:, None], -torch.inf
        )
        within = (query @ self.key.transpose(-1, -2)) * weight.exp()
        return since.exp() * (query @ self.state) + within @ self.value


def segment(
    tokens: Sum, state: Float[Tensor, "R H N D"], length: int
) -> tuple[Segments, Float[Tensor, "R H N D"]]:
    """A segment that begins with a state, filled up to so many tokens; and the state after it."""
    key, value, decay = tokens.key, tokens.value, tokens.decay.cumsum(-1)
    if tokens.rate is not None:
        value = _remaining(tokens, decay, state)
    last = decay[..., -1:]
    after = state * last[..., None].exp() + (key * (last - decay)[..., None].exp()).mT @ value
    more = length - key.shape[2]
    pad = torch.nn.functional.pad
    filled = pad(key, (0, 0, 0, more)), pad(value, (0, 0, 0, more)), pad(decay, (0, more))
    return Segments(state, *filled), after


def _remaining(
    tokens: Sum, decay: Float[Tensor, "R H c"], state: Float[Tensor, "R H N D"]
) -> Float[Tensor, "R H c D"]:
    assert tokens.rate is not None
    rate, key = tokens.rate[..., None], tokens.key
    later = torch.ones(key.shape[2], key.shape[2], dtype=torch.bool, device=key.device).triu(1)
    between = (decay[..., None] - decay[..., None, :]).masked_fill(later, -torch.inf).exp()
    system = (rate * key @ key.mT) * between
    known = torch.cat([rate * tokens.value, rate * key * decay[..., None].exp()], -1)
    solved = torch.linalg.solve_triangular(system, known, upper=False, unitriangular=True)
    value, read = solved.split([tokens.value.shape[-1], key.shape[-1]], -1)
    return value - read @ state


Read = Callable[[Tensor], Tensor]
"""What queries read of states, `Float[N H n K]` -> `Float[N H n D]`."""


class Rule(ABC):
    """How a kind of layer hands over the terms of its sum.

    Attributes:
        many, one: the functions that its forward calls for several tokens and for one.
    """

    many: str
    one: str

    @abstractmethod
    def terms(self, call: dict[str, Any]) -> Sum:
        """Of a call of `many`, by the names of its arguments."""

    @abstractmethod
    def state(self, kept: Tensor) -> Float[Tensor, "R H N D"]:
        """The layer's own state, as it is here."""

    @abstractmethod
    def leaves(self, read: Read, call: dict[str, Any]) -> Any:
        """What `one` returns for tokens of which each takes a step from a state of its own.

        In the order of its axes in memory, as what follows in the layer's forward may rely on.
        """


@final
class DeltaRule(Rule):
    """The gated delta rule."""

    many, one = "torch_chunk_gated_delta_rule", "torch_recurrent_gated_delta_rule"

    def terms(self, call: dict[str, Any]) -> Sum:
        _, key, value, decay, rate = self._heads(call)
        return Sum(key, value, decay, rate)

    def state(self, kept: Tensor) -> Tensor:
        return kept.float()

    def leaves(self, read: Read, call: dict[str, Any]) -> Any:
        query, key, value, decay, rate = self._heads(call)
        of_query, of_key = (read(torch.cat([query, key], 2)) * decay.exp()[..., None]).split(1, 2)
        change = rate[..., None] * (value - of_key)
        output = of_query + (query * key).sum(-1, keepdim=True) * change
        return output.transpose(1, 2).to(call["query"].dtype).contiguous(), None

    def _heads(self, call: dict[str, Any]) -> tuple[Tensor, ...]:
        query, key, value = call["query"], call["key"], call["value"]
        times = value.shape[2] // key.shape[2]
        query, key = (x.float().repeat_interleave(times, 2) for x in (query, key))
        if call["use_qk_l2norm_in_kernel"]:
            query, key = (
                x * torch.rsqrt((x * x).sum(-1, keepdim=True) + 1e-6) for x in (query, key)
            )
        query = query * query.shape[-1] ** -0.5
        rest = value, call["g"], call["beta"]
        return tuple(x.transpose(1, 2).float() for x in (query, key, *rest))


@final
class SsdRule(Rule):
    """State-space duality, of Mamba-2."""

    many, one = "mamba2_chunk_scan", "mamba2_selective_state_update"

    def terms(self, call: dict[str, Any]) -> Sum:
        inputs, step, rate, key = (call[name].float() for name in ("hidden_states", "dt", "A", "B"))
        step = _step(step, call)
        key = key.repeat_interleave(inputs.shape[2] // key.shape[2], 2).transpose(1, 2)
        value = (inputs * step[..., None]).transpose(1, 2)
        return Sum(key, value, (rate * step).transpose(1, 2))

    def state(self, kept: Tensor) -> Tensor:
        return kept.float().mT

    def leaves(self, read: Read, call: dict[str, Any]) -> Any:
        inputs = call["hidden_states"]
        times = inputs.shape[1] // call["B"].shape[1]
        key, query = (call[name].float().repeat_interleave(times, 1) for name in ("B", "C"))
        some = call | {"dt_bias": call["dt_bias"][:, 0]}
        step = _step(call["dt"][..., 0].float(), some)[..., None]
        before = read(query[:, :, None])[:, :, 0] * (call["A"][:, 0, :1].float() * step).exp()
        own = (query * key).sum(-1, keepdim=True) * step * inputs.float()
        output = before + own + call["D"] * inputs
        if call.get("z") is not None:
            output = output * torch.nn.functional.silu(call["z"])
        return output.to(inputs.dtype).contiguous()


def _step(step: Float[Tensor, "*b H"], call: dict[str, Any]) -> Float[Tensor, "*b H"]:
    step = torch.nn.functional.softplus(step + call["dt_bias"].float())
    low, high = call.get("dt_limit", (0.0, torch.inf))
    return step.clamp(low, high)


RULES: tuple[Rule, ...] = (DeltaRule(), SsdRule())
