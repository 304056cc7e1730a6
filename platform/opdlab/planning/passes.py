"""What a teacher holds while it scores: its own passes, on tensors without content.

What is computed many times alike (pieces of a row, leaves, rows of the vocabulary) is computed once here,
beside all that is held then. So nothing is estimated but how a model is scored: whether it can be hooked
is found out; whether its scores then come out right is not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import accumulate
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PretrainedConfig, PreTrainedModel

from opdlab.modelling import (
    CachedLayer,
    KeyStore,
    Lines,
    MaskFunction,
    Own,
    PackedPass,
    StateStore,
    Stretch,
    Tried,
    UnsupportedError,
    counts_from,
    flat_states,
    hidden_states,
    hooked,
    original_length,
    prefix_gap,
    prefixes_tried,
    project,
    recurrent_layers,
    rotary,
    rows_at_a_time,
    running,
    slices,
    stretches,
    thresholds,
    vocabulary_statistics,
)
from opdlab.planning.footprint import (
    Held,
    Shape,
    build,
    contentless,
    kept_of_a_token,
    layers,
    shortened,
    sizes,
)
from opdlab.planning.scored_rows import ScoredRows, beside, costly
from opdlab.records import Questions, Rollout
from opdlab.sampling import FAILURES
from opdlab.scoring import (
    ANY_MASK,
    TRIAL_PIECE,
    TRIAL_ROWS,
    TRIAL_STEPS,
    WORTH_SHARING,
    Chunk,
    Continuation,
    LeafPass,
    Leaves,
    RecurrentLeaves,
    SharedPass,
    States,
    chunks,
    draws,
    leaf_chunks,
    leaves,
    leaves_at_once,
    log_probs,
    response_states,
    row_scores,
    shared_pass,
    trial_rollout,
    tried_at_load,
    trunk_piece,
    with_sampled,
)
from opdlab.shapes import Float, Tensor

_OF_TRIAL = ScoredRows(
    len(TRIAL_ROWS),
    *(-(-sum(each) // len(each)) for each in zip(*TRIAL_ROWS, strict=True)),
    top_k=1,
)
"""As many tokens as a trial has, in rows of one length; of two candidates one is the sampled token."""
_LONGEST_TRIED = max(map(sum, TRIAL_ROWS))
_LONG, _LONG_PIECE = 256, 128
"""Tokens of the longest row, and piece, that is looked at, of models that may compute token by token."""


def scoring(
    config: PretrainedConfig, dtype: torch.dtype, asked: ScoredRows, on_cpu: bool = True
) -> int:
    """Bytes that a teacher takes beside its weights, from its first scores on."""
    size, tree = sizes(config, dtype), _is_hooked(Shape.of(config))
    counted, at_load = counts_from(config), tried_at_load(size.parameters)
    with contentless(), torch.no_grad(), _Numbers():
        model = build(config, dtype).eval()
        original = original_length(model)
        recurrent = recurrent_layers(model)
        reach = None if counted is None else counted - 1
        plan = _Plan(shortened(model), size.attended, on_cpu, tree, len(recurrent), at_load, reach)
        tried = prefixes_tried(model, asked.reached)
        # Layers whose states are known sums, or convolutions, take rows of any length at once; others go
        # step by step.
        quick = tree and all(
            isinstance(one, CachedLayer) and (one.rule or one.convolves) for one in recurrent
        )
        if quick or max(asked.length, tried.end) <= _LONG:
            peak = max(plan.held(asked), plan.tried(asked))
        else:
            rows = partial(plan.held_of, asked)
            peak = _of_long_rows(rows, asked.length, plan.long(asked))
            found = _of_long_rows(lambda length: [plan.checked(tried.of_length(length))], tried.end)
            peak = max(peak, found)
    groups = -(-asked.rows // asked.together(original, reach))
    if not asked.full or groups == 1:
        return peak
    # Of all groups, while they are put together: theirs, in one, and in order.
    kept = config.get_text_config().hidden_size * dtype.itemsize * asked.rows * asked.response
    return max(peak + kept * (groups - 1) // groups, 3 * kept)


def _of_long_rows(held: Callable[[int], list[int]], length: int, long: int = _LONG) -> int:
    """By rows of two lengths, of each phase: what grows with the tokens of a row, and with their square.

    Layers that keep a state may compute token by token, which would take minutes here.
    """
    if length <= long:
        return max(held(length))
    short = long // 2
    return max(
        _grown((short, less), (long, more), length)
        for less, more in zip(held(short), held(long), strict=True)
    )


def _grown(one: tuple[int, int], other: tuple[int, int], length: int) -> int:
    """Bytes of a row of so many tokens, by the tokens and bytes of two shorter ones."""
    (short, least), (long, more) = one, other
    square = (more / long - least / short) / (long - short)
    if square < 0:
        return round(more + max(0.0, (more - least) / (long - short)) * (length - long))
    each = least / short - square * short
    return round(length * (each + square * length))


class _Numbers(TorchDispatchMode):
    """Answers what a tensor without content is looked at for: every number is finite, none is above 0."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        looked = func is torch.ops.aten._local_scalar_dense.default
        if looked and isinstance(args[0], FakeTensor):
            return True if args[0].dtype == torch.bool else args[0].dtype.is_floating_point * 0.0
        return func(*args, **(kwargs or {}))


class _RealRule:
    """Finds by real numbers who sees whom: where tokens stand is known."""

    on_cpu = True

    def _cut(self, rule: MaskFunction, dtype: torch.dtype) -> Any:
        with unset_fake_temporarily():
            return super()._cut(rule, dtype)  # type: ignore[misc]


class _LeafPass(_RealRule, LeafPass): ...


class _LeafPassOfAccelerator(_LeafPass):
    on_cpu = False


class _Continuation(_RealRule, Continuation): ...


class _RecurrentLeaves(RecurrentLeaves):
    """Finds by real numbers where leaves branch off."""

    def _branching(self) -> int:
        with unset_fake_temporarily():
            return super()._branching()

    def _find(self, device: torch.device) -> Any:
        with unset_fake_temporarily():
            return super()._find(device)

    def _cut(self, size: int, device: torch.device) -> Any:
        with unset_fake_temporarily():
            return super()._cut(size, device)


class _SharedPass(_RealRule, SharedPass): ...


def _storages(tensors: list[Tensor]) -> dict[int, int]:
    """Bytes of what holds some tensors, each once."""
    held = [one.untyped_storage() for one in tensors]
    return {one._cdata: one.nbytes() for one in held}


def _opening(parts: list[Chunk], row: int) -> Chunk | None:
    """The first of several pieces of a row that is not the first one."""
    mine = [part for part in parts if part.first_row == row]
    return mine[0] if row and len(mine) > 1 else None


@cache
def _is_hooked(shape: Shape) -> bool:
    """Whether a model's attention can be that of a tree."""
    with contentless(), torch.no_grad(), _Numbers():
        model = shortened(build(shape.config, torch.float32).eval())
        try:
            _Plan(model, 0, on_cpu=True, hooked=True).held(ScoredRows(1, 2, 2, top_k=1))
        except (UnsupportedError, *FAILURES):
            return False
    return True


@dataclass(unsafe_hash=True)
class _Plan:
    """How a model without content is scored.

    Attributes:
        whole: numbers of the keys and values of a token, over all layers; the model may have fewer.
        hooked: whether as a tree, else by whole forwards.
        recurrent: layers that keep a state; the model may have fewer.
        at_load: tokens of a row up to which it is tried before its first scores.
        reach: tokens that a pass may take, at most; None for any number.
        kind: what the model is; another of this kind is equal to it.
    """

    model: PreTrainedModel = field(compare=False)
    whole: int
    on_cpu: bool
    hooked: bool
    recurrent: int = 0
    at_load: int = 0
    reach: int | None = field(default=None, compare=False)
    kind: tuple[Shape, torch.dtype] = field(init=False)

    def __post_init__(self) -> None:
        self.kind = Shape.of(self.model.config), self.model.dtype
        text = self.model.config.get_text_config()
        kind = torch.device("cpu" if self.on_cpu else "cuda")
        self.head_rows, _ = rows_at_a_time(text.vocab_size, kind)
        self.piece = trunk_piece(text.hidden_size) if self.on_cpu else None
        self.leaf_chunk = leaves_at_once(self.on_cpu)
        self.layers, self.width = layers(self.model), text.hidden_size
        of_these = kept_of_a_token(self.model) if self.hooked else 0
        self.missing = max(0, self.whole - of_these)

    def held(self, asked: ScoredRows) -> int:
        """Bytes while rows are scored that are scored together."""
        return max(self._together(asked))

    def _together(self, asked: ScoredRows) -> list[int]:
        with unset_fake_temporarily():
            rollout = asked.rollout(asked.together(original_length(self.model), self.reach))
        return self._held(asked, rollout)

    def long(self, asked: ScoredRows) -> int:
        """Tokens of the longest row that is looked at in place of such rows, which go in as many pieces."""
        if not self.hooked or self.piece is None or asked.length <= self.piece:
            return _LONG
        return -(-asked.length // self.piece) * _LONG_PIECE

    def held_of(self, asked: ScoredRows, length: int) -> list[int]:
        """Bytes while shorter rows are scored, in as many pieces, in each phase."""
        whole = self.piece
        if whole is not None and asked.length > whole:
            self.piece = -(-whole * length // asked.length)
        phases = self._together(asked.of_length(length))
        self.piece = whole
        return phases

    def _held(self, asked: ScoredRows, rollout: Rollout, shares: bool = True) -> list[int]:
        """Bytes in each phase of scoring."""
        missing, early, trunk, count = 0, 0, 0, len(rollout.tokens)
        with Held(self.model) as held:
            others = beside(asked, count)
            changing = any(
                one.dynamic and asked.reached > one.original for one in rotary(self.model)
            )
            counted = self.reach is not None and asked.reached > self.reach
            alone = asked.steps > 1 and (
                self.recurrent > 0 or len(stretches(self.model, asked.reached)) > 1
            )
            if not self.hooked or counted or changing or alone:
                self._whole_forwards(rollout, asked, self.hooked and changing)
            else:
                with hooked(self.model) as own:
                    missing, early, trunk = self._tree(own, rollout, asked, shares, held)
            del others
        return [early, trunk + missing, held.peak + missing]

    def tried(self, asked: ScoredRows) -> int:
        """Bytes while it is tried, once, whether the model can be scored at such lengths."""
        together = max(asked.together(None) * asked.length, self.at_load) if self.hooked else 0
        largest = max(asked.reached, together)
        if asked.top_k:
            asked_in_all = asked.rows * asked.response * asked.top_k
            largest = max(largest, min(asked_in_all, self.leaf_chunk))
        reach, self.reach = self.reach, None
        if reach is not None:
            # Where the tree is found wrong, no later place is tried.
            largest = min(largest, reach + 1)
        # Of whole forwards none is tried: they are what the tree is held against.
        found = thresholds(self.model) if self.hooked else []
        places = [place for place in found if place <= largest]
        longest = max(asked.reached, _LONGEST_TRIED, *(place + 3 for place in places))
        peak = self._tried_at(longest, tuple(places), asked.steps > 1)
        self.reach = reach
        return peak

    @cache  # noqa: B019 - of all runs with one teacher
    def _tried_at(self, longest: int, places: tuple[int, ...], followed: bool) -> int:
        """Bytes while it is tried at rows of such lengths, beyond these places, and along chains."""
        with Held(self.model) as held:
            self._check_prefixes(prefixes_tried(self.model, longest))
            drawn = torch.zeros(max(response for _, response in TRIAL_ROWS))
            row_scores(self.model, self._tokens(1, _LONGEST_TRIED)[0], drawn, "max_prob")
            if places:
                log_probs(self.model, self._tokens(1, max(places) + 3), None)
        peak = max(held.peak, self._held_by_trial(followed))
        if places:
            peak = max(peak, self.held(ScoredRows(1, max(places) + 2, 1, top_k=1)))
        return peak

    def _held_by_trial(self, followed: bool) -> int:
        """Bytes while the trial's own rows are scored: with prompts shared, and in its pieces or whole; and
        along chains.
        """
        if not self.hooked or any(one.original < _LONGEST_TRIED for one in rotary(self.model)):
            return self.held(_OF_TRIAL)
        with unset_fake_temporarily():
            rollout = trial_rollout(self.model.config.get_text_config().vocab_size)
        rows = ScoredRows(len(TRIAL_ROWS), _LONGEST_TRIED - 1, 1, top_k=1)
        size, found = self.piece, self._held(rows, rollout)
        if followed and not self.recurrent:
            found += self._held(replace(rows, steps=TRIAL_STEPS), rollout)
        for self.piece in (TRIAL_PIECE, None):
            try:
                found += self._held(rows, rollout, shares=False)
                break
            except (UnsupportedError, *FAILURES):
                continue
        self.piece = size
        return max(found)

    def checked(self, tried: Tried) -> int:
        """Bytes while forwards of prefixes are held against whole ones."""
        with Held(self.model) as held:
            self._check_prefixes(tried)
        return held.peak

    def _check_prefixes(self, tried: Tried) -> None:
        if tried.prefixes:
            # What is done for each is over before the next.
            prefix_gap(self.model, self._tokens(tried.rows, tried.end), tried.prefixes[-1:])

    def _tokens(self, rows: int, length: int) -> Tensor:
        return torch.zeros(rows, length, dtype=torch.long)

    def _whole_forwards(self, rollout: Rollout, asked: ScoredRows, changing: bool) -> None:
        with unset_fake_temporarily():
            tree = leaves(rollout, rollout.candidates)
            known = draws(rollout, rollout.candidates), tree, response_states(rollout)
            longest = int(tree.column.max()) + 1 if len(tree) else 0
        # Of frequencies that change with every token each state has a forward; those before are kept.
        before = torch.empty(
            len(rollout.token) if changing else 0, self.width, dtype=self.model.dtype
        )
        states = hidden_states(self.model, self._tokens(len(rollout.tokens), asked.length))
        found = states[:, asked.prompt - 1 :].flatten(0, 1).clone()
        del states, before
        self._vocabulary(found)
        if len(tree):
            # Of a chain each token is a forward of its own.
            rows = asked.top_k if asked.steps == 1 else 1
            log_probs(self.model, self._tokens(rows, longest + asked.steps - 1), None, -1)
        del known

    def _tree(
        self, own: Own, rollout: Rollout, asked: ScoredRows, shares: bool, held: Held
    ) -> tuple[int, int, int]:
        """Pass trunk and leaves; bytes of states of layers and pieces that are not here, to be added to
        what is held, all bytes before the last row's later pieces, and those held during the trunk.
        """
        with unset_fake_temporarily():
            drawn = draws(rollout, rollout.candidates)
            questions, followed = Questions(rollout.candidates), asked.steps > 1
            if followed:
                questions = with_sampled(rollout, questions)
            tree = leaves(rollout, questions.candidates, sampled=followed)
            lengths = (rollout.prompt_lengths + rollout.response_lengths).tolist()
            spans = stretches(self.model, asked.length)
            sharing = shares and own.name in ANY_MASK and len(spans) == 1 and not own.recurrent
            states = response_states(rollout, WORTH_SHARING if sharing else 1.0)
            at_once = min(self.leaf_chunk, self.reach or self.leaf_chunk)
            passes = leaf_chunks(tree, [span.last for span in spans], at_once)
        keep, share, early = len(tree) > 0, (1.0, 1.0), 0
        if states.prompt is not None:
            hidden, trunks = self._shared(own, lengths, states, keep)
        elif len(spans) > 1:
            hidden, trunks = self._stretches(own, lengths, spans, keep)
        else:
            hidden, trunks, early = self._pieces(own, lengths, keep, held)
            share = self._other_pieces(trunks[0][0].states, lengths)
        before, held.peak = held.peak, held.now
        rows = hidden[states.index]
        del hidden
        self._vocabulary(rows)
        for (trunk, _), mine in zip(trunks, passes, strict=True):
            for part in costly(mine, tree):
                kept = asked.steps * (part.stop - part.start) * self.whole if followed else 0
                chains = torch.empty(kept, dtype=self.model.dtype)
                self._vocabulary(self._leaf_states(own, trunk, tree, part), entropy=False)
                del chains
        del drawn
        if asked.full:
            said = rows[states.before]
            del said
        if not own.recurrent:
            return 0, early, before
        stores, layers = [store.states for store, _ in trunks], self.recurrent / own.recurrent
        once = _storages([one for store in stores for one in store.once])
        kept = _storages([one for store in stores for one in store.kept])
        rest = sum(size for name, size in kept.items() if name not in once)
        missing, then = (
            round(sum(once.values()) * (layers - 1) + rest * (layers / one - 1)) for one in share
        )
        return missing, early + then if early else 0, before

    def _store(self, rows: int, length: int, keep: bool) -> tuple[KeyStore, Tensor]:
        """Room for keys and values, and in place of that for layers that this model does not have."""
        others = self.missing * rows * length if keep else 0
        return KeyStore(rows, length), torch.empty(others, dtype=self.model.dtype)

    def _pieces(
        self, own: Own, lengths: list[int], keep: bool, held: Held
    ) -> tuple[Float[Tensor, "N H"], list[tuple[KeyStore, Tensor]], int]:
        """Whole rows, or rows of one length in pieces, of which the first and the last; and the bytes of
        the last row's first piece, where that is run, too.
        """
        early, total = 0, sum(lengths)
        parts = chunks(lengths, self.piece or total)
        first = parts[0]
        of_row = [part for part in parts if part.first_row == 0]
        store = self._store(len(lengths), max(lengths), keep or len(of_row) > 1)
        rows = first.last_row
        taken = [first.stop] * rows if len(of_row) > 1 else lengths[:rows]
        with unset_fake_temporarily():
            lines = Lines.of(torch.arange(rows).repeat_interleave(torch.tensor(taken)), rows)
            place = torch.cat([torch.arange(count) for count in taken])
        keeping = store[0] if keep or len(of_row) > 1 else None
        with running(PackedPass(own, lines, keeping)):
            found = [flat_states(self.model, place, place)]
        if len(of_row) > 1:
            # Layers that begin anew with several tokens take most in the first piece of the last row.
            opening = _opening(parts, len(lengths) - 1) if own.recurrent else None
            last = of_row[-1]
            size = last.stop - last.start
            rest = total - len(found[0]) - size
            rest -= 0 if opening is None else opening.stop - opening.start
            found.append(found[0].new_empty(rest, found[0].shape[1]))
            with unset_fake_temporarily():
                lines = Lines.of(torch.zeros(size, dtype=torch.long), 1)
                place = torch.arange(last.start, last.stop)
            pair = store[0].of(slice(0, 1))
            part = _Continuation(own, *pair, lines, place, store=store[0], start=last.start)
            with running(part):
                found.append(flat_states(self.model, place, place))
            if opening is not None:
                with unset_fake_temporarily():
                    place = torch.arange(opening.stop - opening.start)
                    lines = Lines.of(torch.zeros_like(place), 1)
                before, held.peak = held.peak, held.now
                with running(PackedPass(own, lines, store[0], len(lengths) - 1)):
                    found.append(flat_states(self.model, place, place))
                early, held.peak = held.peak, before
        elif len(parts) > 1:
            found.append(found[0].new_empty(total - len(found[0]), found[0].shape[1]))
        return found[0] if len(found) == 1 else torch.cat(found), [store], early

    def _other_pieces(self, states: StateStore, lengths: list[int]) -> tuple[float, float]:
        """Note where segments begin in all pieces of rows; the share of them that have been run, and of
        those before the second piece of the last row.
        """
        if states.length is None:
            return 1.0, 1.0
        parts = chunks(lengths, self.piece or sum(lengths))
        ends = [*accumulate(lengths)]
        states.row, states.column, ran, early = [], [], 0, 0
        last = sum(part.first_row == 0 for part in parts) - 1
        opening = _opening(parts, len(lengths) - 1) if last else None
        for number, part in enumerate(parts):
            rows = range(part.first_row, part.last_row)
            before = part.start - (ends[rows[0]] - lengths[rows[0]])
            width = part.stop - part.start if len(rows) == 1 else max(lengths[row] for row in rows)
            segments = list(slices(width, states.length))
            for segment in segments:
                states.row += rows
                states.column += [before + segment.start] * len(rows)
            if number in {0, last} or part is opening:
                ran += len(segments) * len(rows)
            if part is opening:
                early = len(states.row)
        return ran / len(states.row), ran / (early or len(states.row))

    def _stretches(
        self, own: Own, lengths: list[int], spans: list[Stretch], keep: bool
    ) -> tuple[Float[Tensor, "N H"], list[tuple[KeyStore, Tensor]]]:
        found, stores = [], []
        for span in spans:
            store = self._store(1, span.last, keep)
            with unset_fake_temporarily():
                place = torch.arange(span.last)
                lines = Lines.of(torch.zeros_like(place), 1)
            with running(PackedPass(own, lines, store[0] if keep else None)):
                found.append(flat_states(self.model, place, place)[span.first - 1 :])
            stores.append(store)
        return torch.cat(found), stores

    def _shared(
        self, own: Own, lengths: list[int], states: States, keep: bool
    ) -> tuple[Float[Tensor, "N H"], list[tuple[KeyStore, Tensor]]]:
        """Rows that share prompts."""
        with unset_fake_temporarily():
            shared = shared_pass(own, len(lengths), states, keep, torch.device("cpu"), _SharedPass)
        store = self._store(len(lengths), shared.width, keep)
        with running(shared):
            found = flat_states(self.model, states.token, states.column)
        kept = KeyStore(len(lengths), shared.width, shared.keys, shared.values)
        return found, [(kept, store[1])]

    def _leaf_states(
        self, own: Own, trunk: KeyStore, tree: Leaves, part: Chunk
    ) -> Float[Tensor, "N H"]:
        span, rows = slice(part.start, part.stop), slice(part.first_row, part.last_row)
        with unset_fake_temporarily():
            lines = Lines.of(tree.row[span] - part.first_row, part.last_row - part.first_row)
            column = tree.column[span]
            places = column[lines.token].view(lines.R, lines.C)
            recurrent = _RecurrentLeaves(trunk.states, tree.row[span], column)
        kind = _LeafPass if self.on_cpu else _LeafPassOfAccelerator
        leaf_pass = kind(
            own,
            *trunk.of(rows),
            lines=lines,
            column=column,
            places=places,
            recurrent=recurrent,
        )
        with running(leaf_pass):
            states = flat_states(self.model, tree.token[span], column)
        if self.layers and not own.recurrent and len(leaf_pass.reached) != len(self.layers):
            raise UnsupportedError("its layers do not use transformers' attention interface")
        return states

    def _vocabulary(self, rows: Float[Tensor, "n H"], entropy: bool = True) -> None:
        """Numbers of the first rows that are worked on together, and what is found of all."""
        found = rows.new_empty(4, len(rows), dtype=torch.float32)
        first = rows[: self.head_rows]
        if self.on_cpu:
            vocabulary_statistics(self.model, first, None, entropy=entropy)
        else:
            project(self.model, first)
        del found
