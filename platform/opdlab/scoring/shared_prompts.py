"""Rollouts of one prompt share the prompt's pass: its tokens go through the model once, not once a row."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from opdlab.modelling import Lines, MaskFunction, Own, Pass
from opdlab.shapes import Bool, Int, Tensor

# Attention functions that take a mask of any form.
ANY_MASK = ("sdpa", "eager")
_MASK_ELEMENTS = 2**25


@dataclass(frozen=True, eq=False)
class _Masks:
    """What the layers receive: the prompts' own mask, and the rule for the responses."""

    prompts: Any
    rule: MaskFunction


@dataclass(eq=False)
class SharedPass(Pass):
    """Each prompt once, then all responses; a response sees its prompt's keys and its own.

    Attributes:
        prompts: lines of the prompts' tokens, which come first.
        responses: lines of the responses' tokens.
        prompt: prompt of each response. `Int[B]`
        row, column: of each response token. `Int[N]`
        ends: the last column of each place in the responses' lines; on the host, which need not ask.
        width: columns of the widest row.
        keys, values: by layer, of whole rows, each prompt's in all of its rows. `Float[B Hkv S D]`
    """

    own: Own
    prompts: Lines
    responses: Lines
    prompt: Int[Tensor, "B"]
    row: Int[Tensor, "N"]
    column: Int[Tensor, "N"]
    ends: list[int]
    width: int
    keep: bool = False
    keys: dict[int, Tensor] = field(default_factory=dict)
    values: dict[int, Tensor] = field(default_factory=dict)
    _blocks: dict[int, tuple[MaskFunction, list[Bool[Tensor, "B 1 C S"]]]] = field(
        default_factory=dict
    )

    def mask(self, mask_function: MaskFunction, **options: Any) -> _Masks:
        return _Masks(self.own.mask(self.prompts, mask_function, options), mask_function)

    def attend(
        self,
        module: torch.nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: _Masks,
        **options: Any,
    ) -> Tensor:
        N = len(self.prompts.slot)
        heads = [self.prompts.fill(x[0, :, :N]) for x in (query, key, value)]
        prompts = self.own.attend(module, *heads, mask.prompts, **options)
        keys = self._rows(heads[1], key[0, :, N:])
        values = self._rows(heads[2], value[0, :, N:])
        if self.keep:
            layer: Any = module.layer_idx
            self.keys[layer], self.values[layer] = keys, values
        queries = self.responses.fill(query[0, :, N:])
        found, start = [], 0
        for seen in self._seen(mask.rule, query.dtype):
            stop = start + seen.shape[2]
            part = (queries[:, :, start:stop], *(x[:, :, : seen.shape[3]] for x in (keys, values)))
            found.append(self.own.attend(module, *part, seen, **options))
            start = stop
        responses = self.responses.empty(torch.cat(found, 1))
        return torch.cat([self.prompts.empty(prompts), responses])[None]

    def _rows(self, prompts: Tensor, responses: Tensor) -> Tensor:
        """Keys or values of whole rows, from those of prompts in lines and of response tokens."""
        rows = prompts.new_zeros(len(self.prompt), prompts.shape[1], self.width, prompts.shape[3])
        rows[:, :, : prompts.shape[2]] = prompts[self.prompt]
        rows[self.row, :, self.column] = responses.transpose(0, 1)
        return rows

    def _seen(self, rule: MaskFunction, dtype: torch.dtype) -> list[Tensor]:
        """Masks of the responses' lines, in blocks of columns that bound their memory."""
        if id(rule) not in self._blocks:
            self._blocks[id(rule)] = (rule, self._cut(rule, dtype))
        return self._blocks[id(rule)][1]

    def _cut(self, rule: MaskFunction, dtype: torch.dtype) -> list[Tensor]:
        R, C = self.responses.R, self.responses.C
        column = self.column[self.responses.token].view(R, 1, C, 1)
        zero = column.new_zeros(1)
        step = max(1, _MASK_ELEMENTS // (R * self.width))
        blocks = []
        for place in range(0, C, step):
            part, last = column[:, :, place : place + step], max(self.ends[place : place + step])
            key = torch.arange(last + 1, device=part.device)
            seen = rule(zero, zero, part, key)
            if self.own.name == "eager":
                never = torch.finfo(dtype).min
                seen = torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(
                    ~seen, never
                )
            blocks.append(seen)
        return blocks
