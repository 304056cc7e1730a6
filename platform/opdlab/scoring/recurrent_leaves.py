"""Leaves of recurrent layers: each takes one step from the state before it, which no other token sees.

States are kept at the starts of segments. From there all segments that have leaves are run again side by
side, a token at a time, and the leaves at each place branch off. So a layer makes as many short calls as a
segment has tokens, whatever the number of segments and leaves, and few states exist at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from opdlab.modelling import RecurrentLayer, StateStore, select
from opdlab.shapes import Float, Int, Tensor
from opdlab.transfers import to_device

# Bytes of the states of a group of segments and of the leaves that branch off at a time, about.
GROUP_BYTES = 2**28


@dataclass(frozen=True, eq=False)
class _Step:
    """What happens at one place of all segments of a group.

    Attributes:
        leaves: that branch off before this token. `Int[n]`
        source: rows of the states that the call needs: of each leaf, then of the segments that go on.
            `Int[m]`
        going: segments that go on; the first so many.
    """

    leaves: Int[Tensor, "n"]
    source: Int[Tensor, "m"]
    going: int


@dataclass(frozen=True, eq=False)
class _Group:
    """Segments that are run side by side, in the order of their last leaves, the latest first.

    Attributes:
        segment, row, start: of each. `Int[P]`
    """

    segment: Int[Tensor, "P"]
    row: Int[Tensor, "P"]
    start: Int[Tensor, "P"]
    steps: list[_Step]


@dataclass(eq=False)
class RecurrentLeaves:
    """Where leaves branch off.

    Attributes:
        row, column: of each leaf, on the host. `Int[N]`
    """

    store: StateStore
    row: Int[Tensor, "N"]
    column: Int[Tensor, "N"]
    _groups: dict[int, list[_Group]] = field(default_factory=dict)

    def run(
        self, layer: RecurrentLayer, inputs: Float[Tensor, "N H"], arguments: dict[str, Any]
    ) -> Float[Tensor, "N H"]:
        """Outputs of a layer for the leaves."""
        branching = int(
            torch.unique(self.row * self.store.S + self.column, return_counts=True)[1].max()
        )
        size = max(1, GROUP_BYTES // (self.store.bytes_of(layer) * (1 + branching)))
        if size not in self._groups:
            self._groups[size] = self._cut(size, inputs.device)
        found = torch.empty_like(inputs)
        for group in self._groups[size]:
            self._run(layer, group, inputs, arguments, found)
        return found

    def _run(
        self,
        layer: RecurrentLayer,
        group: _Group,
        inputs: Float[Tensor, "N H"],
        arguments: dict[str, Any],
        found: Float[Tensor, "N H"],
    ) -> None:
        before = self.store.inputs[layer.index]
        state = self.store.at(layer, group.segment)
        for offset, step in enumerate(group.steps):
            n, row, column = len(step.leaves), group.row[: step.going], group.start + offset
            tokens = torch.cat([inputs[step.leaves], before[row, column[: step.going]]])
            # A leaf stands where the segment's own token does.
            output, after = layer.run(
                tokens[:, None],
                select(state, step.source),
                column[step.source][:, None],
                arguments,
            )
            found[step.leaves] = output[:n, 0]
            state = {name: part[n:] for name, part in after.items()}

    def _cut(self, size: int, device: torch.device) -> list[_Group]:
        store = self.store
        row, start = torch.tensor(store.row), torch.tensor(store.column)
        order = (row * store.S + start).argsort()
        places = (row * store.S + start)[order]
        # The last segment that begins at or before the leaf.
        at = torch.searchsorted(places, self.row * store.S + self.column, right=True) - 1
        segments, pair = torch.unique(order[at], return_inverse=True)
        offset = self.column - start[segments[pair]]
        last = torch.zeros_like(segments).scatter_reduce(0, pair, offset, "amax")
        late = last.argsort(descending=True, stable=True)
        rank = torch.empty_like(late)
        rank[late] = torch.arange(len(late))
        groups = []
        for first in range(0, len(late), size):
            mine = late[first : first + size]
            leaves = ((rank[pair] >= first) & (rank[pair] < first + size)).nonzero().squeeze(1)
            steps = self._steps(leaves, offset[leaves], rank[pair[leaves]] - first, last[mine])
            chosen = segments[mine]
            here, of, begin = (
                to_device(part, device) for part in (chosen, row[chosen], start[chosen])
            )
            groups.append(_Group(here, of, begin, _sent(steps, device)))
        return groups

    def _steps(
        self,
        leaves: Int[Tensor, "n"],
        offset: Int[Tensor, "n"],
        pair: Int[Tensor, "n"],
        last: Int[Tensor, "P"],
    ) -> list[_Step]:
        order = offset.argsort(stable=True)
        counts = torch.bincount(offset, minlength=int(last[0]) + 1).tolist()
        steps = []
        parts = (part[order].split(counts) for part in (leaves, pair))
        for place, (some, of) in enumerate(zip(*parts, strict=True)):
            going = int((last > place).sum())
            steps.append(_Step(some, torch.cat([of, torch.arange(going)]), going))
        return steps


def _sent(steps: list[_Step], device: torch.device) -> list[_Step]:
    """The steps on a device, in two copies."""
    leaves = to_device(torch.cat([step.leaves for step in steps]), device)
    source = to_device(torch.cat([step.source for step in steps]), device)
    return [
        _Step(some, of, step.going)
        for step, some, of in zip(
            steps,
            leaves.split([len(step.leaves) for step in steps]),
            source.split([len(step.source) for step in steps]),
            strict=True,
        )
    ]
