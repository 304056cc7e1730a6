"""Leaves of recurrent layers: each takes one step from the state before it, which no other token sees.

Where states are sums (`opdlab.modelling.linear_rules`), leaves read from them by products, all at once; a
convolution needs the last inputs alone.

Of other layers states are kept at the starts of segments. From there all segments that have leaves are run
again side by side, a token at a time, and the leaves at each place branch off. So a layer makes as many
short calls as a segment has tokens, however many segments and leaves there are, and few states exist at a
time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from opdlab.modelling import (
    CachedLayer,
    Lines,
    RecurrentLayer,
    Segments,
    StateCache,
    StateStore,
    select,
    slices,
)
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


@dataclass(frozen=True, eq=False)
class _Places:
    """Where leaves stand in their segments, in lines of one segment each.

    Attributes:
        row, column: of each leaf. `Int[N]`
        segment: of each line. `Int[P]`
        seen: tokens of the segment before the leaf, in lines. `Int[P M]`
    """

    row: Int[Tensor, "N"]
    column: Int[Tensor, "N"]
    lines: Lines
    segment: Int[Tensor, "P"]
    seen: Int[Tensor, "P M"]

    @classmethod
    def of(
        cls,
        store: StateStore,
        row: Int[Tensor, "N"],
        column: Int[Tensor, "N"],
        device: torch.device,
    ) -> _Places:
        """Of leaves in the order of rows and columns."""
        order, at = _segments(store, row, column)
        lines_of, pair = torch.unique(at, return_inverse=True)
        lines = Lines.of(pair, len(lines_of))
        segment = order[lines_of]
        seen = (column - torch.tensor(store.column)[segment[pair]])[lines.token]
        sent = (to_device(part, device) for part in (segment, seen.view(lines.R, lines.C)))
        return cls(to_device(row, device), to_device(column, device), lines.to(device), *sent)

    def read(self, sums: Segments, query: Float[Tensor, "N H n K"]) -> Float[Tensor, "N H n D"]:
        """What queries read of the states before their leaves."""
        _, H, n, K = query.shape
        (P, M), c = self.seen.shape, sums.key.shape[2]
        lined = query[self.lines.token].view(P, M, H, n, K).transpose(1, 2).flatten(2, 3)
        seen = self.seen.repeat_interleave(n, 1)
        size = max(1, GROUP_BYTES // (4 * H * (M * n * 2 * c + K * sums.value.shape[3])))
        found = [
            sums.select(self.segment[some]).read(lined[some], seen[some])
            for some in slices(P, size)
        ]
        lines = torch.cat(found).unflatten(2, (M, n)).transpose(1, 2)
        return self.lines.empty(lines)


def _segments(
    store: StateStore, row: Int[Tensor, "N"], column: Int[Tensor, "N"]
) -> tuple[Int[Tensor, "S"], Int[Tensor, "N"]]:
    """The store's segments in the order of rows and columns, and which of these each leaf stands in."""
    start = torch.tensor(store.row) * store.S + torch.tensor(store.column)
    order = start.argsort()
    # The last segment that begins at or before the leaf.
    at = torch.searchsorted(start[order], row * store.S + column, right=True) - 1
    return order, at


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
    _places: _Places | None = None

    def run(
        self, layer: RecurrentLayer, inputs: Float[Tensor, "N H"], arguments: dict[str, Any]
    ) -> Float[Tensor, "N H"]:
        """Outputs of a layer for the leaves."""
        if isinstance(layer, CachedLayer) and layer.index in self.store.convolved:
            return self._read(layer, inputs, arguments)
        size = max(1, GROUP_BYTES // (self.store.bytes_of(layer) * (1 + self._branching())))
        if size not in self._groups:
            self._groups[size] = self._cut(size, inputs.device)
        found = torch.empty_like(inputs)
        for group in self._groups[size]:
            self._run(layer, group, inputs, arguments, found)
        return found

    def _branching(self) -> int:
        """Leaves of the place that has most."""
        place = self.row * self.store.S + self.column
        return int(torch.unique(place, return_counts=True)[1].max())

    def _find(self, device: torch.device) -> _Places:
        return _Places.of(self.store, self.row, self.column, device)

    def _read(
        self, layer: CachedLayer, inputs: Float[Tensor, "N H"], arguments: dict[str, Any]
    ) -> Float[Tensor, "N H"]:
        """The same where states are sums, from which a leaf's own queries read, or convolutions alone."""
        rule, device = layer.rule, inputs.device
        if self._places is None:
            self._places = self._find(device)
        places = self._places

        def one(_function: Any, call: dict[str, Any]) -> Any:
            assert rule is not None
            return rule.leaves(partial(places.read, self.store.summed(layer)), call)

        window = self.store.window(layer, places.row, places.column)
        blank = {("convolution", 0): window, ("recurrent", 0): window.new_zeros(0)}
        calls = {} if rule is None else {rule.one: one}
        return layer.run_with(inputs[:, None], StateCache(blank), arguments, calls)[:, 0]

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
        order, at = _segments(store, self.row, self.column)
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
