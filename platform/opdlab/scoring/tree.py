"""The candidate tree: which leaves hang on the trunk of a rollout, and where. Pure bookkeeping."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from itertools import pairwise

import torch

from opdlab.records import Rollout
from opdlab.scoring.packing import slots_fit
from opdlab.shapes import Float, Int, Tensor


@dataclass(frozen=True, eq=False)
class Leaves:
    """Candidates that need a forward of their own, sorted by row, then by column.

    A leaf at column c attends to columns 0 .. c-1 of its row and to itself; its position id is c.

    Attributes:
        row: row of `Rollout.tokens`. `Int[N]`
        column: where in that row the candidate would stand in place of the sampled token. `Int[N]`
        token: the candidate. `Int[N]`
        place, slot: a (t, k) whose answer it is. `Int[N]`
        index: leaf that answers for each candidate, -1 where none does: no candidate was asked, or it
            is the sampled token, whose answer comes from the trunk. `Int[T K]`
    """

    row: Int[Tensor, "N"]
    column: Int[Tensor, "N"]
    token: Int[Tensor, "N"]
    place: Int[Tensor, "N"]
    slot: Int[Tensor, "N"]
    index: Int[Tensor, "T K"]

    def __len__(self) -> int:
        return len(self.token)


def leaves(rollout: Rollout, candidates: Int[Tensor, "T K"], sampled: bool = False) -> Leaves:
    """The leaves of a rollout; equal candidates of a position share one.

    Args:
        sampled: whether sampled tokens get leaves of their own, too.
    """
    wanted = candidates >= 0
    if not sampled:
        wanted &= candidates != rollout.token[:, None]
    first = first_of_equals(candidates)
    slots = torch.arange(candidates.shape[1], device=candidates.device)
    place, slot = (wanted & (first == slots)).nonzero(as_tuple=True)
    index = torch.full_like(candidates, -1)
    index[place, slot] = torch.arange(len(place), device=candidates.device)
    index = torch.where(wanted, index.gather(1, first), -1)
    return Leaves(
        rollout.row[place],
        rollout.column[place],
        candidates[place, slot],
        place,
        slot,
        index,
    )


def first_of_equals(candidates: Int[Tensor, "T K"]) -> Int[Tensor, "T K"]:
    """The smallest k at which the same token stands."""
    first = torch.arange(candidates.shape[1], device=candidates.device).repeat(len(candidates), 1)
    for k in range(candidates.shape[1] - 1, -1, -1):
        first = torch.where(candidates == candidates[:, k, None], k, first)
    return first


@dataclass(frozen=True, eq=False)
class Draws:
    """Uniform numbers for the `sampled_prob` measure.

    Each depends on its row's seed, its position and its slot alone, so that a score is the same whatever
    is scored with it.

    Attributes:
        trunk: one for each response token. `Float[T]`
        candidate: one for each candidate. `Float[T K]`
    """

    trunk: Float[Tensor, "T"]
    candidate: Float[Tensor, "T K"]


def draws(rollout: Rollout, candidates: Int[Tensor, "T K"]) -> Draws:
    """Equal tokens at one position share one draw, so that it does not matter who computes them."""
    slots = 1 + candidates.shape[1]
    numbers = torch.cat(
        [
            torch.rand(slots, length, generator=_generator(seed), dtype=torch.float32)
            for seed, length in zip(
                rollout.seeds.tolist(), rollout.response_lengths.tolist(), strict=True
            )
        ],
        dim=1,
    ).to(rollout.tokens.device)
    trunk = numbers[0]
    candidate = numbers[1:].T.gather(1, first_of_equals(candidates))
    is_sampled = candidates == rollout.token[:, None]
    return Draws(trunk, torch.where(is_sampled, trunk[:, None], candidate))


def _generator(seed: int) -> torch.Generator:
    """Of a row, apart from the one that its answer was drawn by."""
    mixed = hashlib.blake2b(f"draws {seed}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(mixed) >> 1)


@dataclass(frozen=True, eq=False)
class States:
    """The tokens of a rollout laid end to end without filler, and the states its responses pass through.

    A response of L tokens passes through L + 1 states: before each token, and after the last one.

    Attributes:
        token, row, column: tokens to be computed. Whole rows; or, where rows share prompts, each prompt
            once, then the responses. `Int[N]`
        prompts: tokens of shared prompts among them; their `row` is the prompt's. 0 for whole rows.
        prompt: prompt of each row, where they are shared. `Int[B]`
        index: among those tokens, the one that each state follows; its hidden state speaks of the next
            one. `Int[states]`
        following: token that came next; any after the last one. `Int[states]`
        before: state s_t that each response token was sampled in; the one after it is one further. `Int[T]`
    """

    token: Int[Tensor, "N"]
    row: Int[Tensor, "N"]
    column: Int[Tensor, "N"]
    prompts: int
    prompt: Int[Tensor, "B"] | None
    index: Int[Tensor, "states"]
    following: Int[Tensor, "states"]
    before: Int[Tensor, "T"]


def response_states(rollout: Rollout, share_from: float = 1.0) -> States:
    """Where every state of the responses is found.

    Args:
        share_from: share prompts where that saves at least this part of the tokens.
    """
    B = len(rollout.tokens)
    row, step = within(rollout.response_lengths + 1)
    column = rollout.prompt_lengths[row] - 1 + step
    # Filler may be a token that a model does not have, so after the last token comes itself.
    ends = (rollout.prompt_lengths + rollout.response_lengths)[row] - 1
    following = rollout.tokens[row, torch.minimum(column + 1, ends)]
    before = torch.arange(len(row) - B, device=row.device) + rollout.row
    lengths = rollout.prompt_lengths + rollout.response_lengths
    if share_from < 1:
        prompt, first = same_prompts(rollout)
        saved = rollout.prompt_lengths.sum() - rollout.prompt_lengths[first].sum()
        if float(saved) > share_from * float(lengths.sum()):
            return _shared(rollout, prompt, first, step, following, before)
    all_row, all_column = within(lengths)
    return States(
        token=rollout.tokens[all_row, all_column],
        row=all_row,
        column=all_column,
        prompts=0,
        prompt=None,
        index=(lengths.cumsum(0) - lengths)[row] + column,
        following=following,
        before=before,
    )


def _shared(
    rollout: Rollout,
    prompt: Int[Tensor, "B"],
    first: Int[Tensor, "U"],
    step: Int[Tensor, "states"],
    following: Int[Tensor, "states"],
    before: Int[Tensor, "T"],
) -> States:
    lengths = rollout.prompt_lengths[first]
    of, column = within(lengths)
    # A response's first state follows the last token of its prompt.
    index = torch.empty_like(step)
    index[step > 0] = len(of) + torch.arange(len(rollout.row), device=step.device)
    index[step == 0] = (lengths.cumsum(0) - 1)[prompt]
    return States(
        token=torch.cat([rollout.tokens[first[of], column], rollout.token]),
        row=torch.cat([of, rollout.row]),
        column=torch.cat([column, rollout.column]),
        prompts=len(of),
        prompt=prompt,
        index=index,
        following=following,
        before=before,
    )


def same_prompts(rollout: Rollout) -> tuple[Int[Tensor, "B"], Int[Tensor, "U"]]:
    """Number of each row's prompt, and a row that has it for each of the prompts."""
    columns = torch.arange(int(rollout.prompt_lengths.max()), device=rollout.tokens.device)
    filler = columns >= rollout.prompt_lengths[:, None]
    prompts = rollout.tokens[:, : len(columns)].masked_fill(filler, -1)
    _, prompt = torch.unique(prompts, dim=0, return_inverse=True)
    first = torch.zeros(int(prompt.max()) + 1, dtype=torch.long, device=prompt.device)
    first[prompt] = torch.arange(len(prompt), device=prompt.device)
    return prompt, first


def within(counts: Int[Tensor, "B"]) -> tuple[Int[Tensor, "N"], Int[Tensor, "N"]]:
    """For runs of so many elements laid end to end: which run, and which element of it."""
    run = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
    start = counts.cumsum(0) - counts
    return run, torch.arange(len(run), device=counts.device) - start[run]


@dataclass(frozen=True)
class Chunk:
    """Leaves `start` to `stop`, which stand in rows `first_row` to `last_row` (exclusive)."""

    start: int
    stop: int
    first_row: int
    last_row: int


def chunks(leaves_in_row: list[int], size: int, even: bool = False) -> list[Chunk]:
    """Cut leaves into passes of at most `size`: short rows whole and together, long rows in equal parts.

    Args:
        even: only rows with about as many leaves go together, as they stand in lines as long as the
            longest.
    """
    found: list[Chunk] = []
    start = end = first = longest = 0
    for row, count in enumerate(leaves_in_row):
        more = end + count - start
        lines = row + 1 - first, max(longest, count)
        fits = more <= size and (not even or slots_fit(*lines, more))
        if end > start and not fits:
            found.append(Chunk(start, end, first, row))
            start = end
        if end == start:
            first, longest = row, 0
        longest = max(longest, count)
        parts = -(-count // size)
        if parts > 1:
            edges = [end + count * i // parts for i in range(parts + 1)]
            found += [Chunk(i, j, row, row + 1) for i, j in pairwise(edges)]
            start = end + count
        end += count
    if end > start:
        found.append(Chunk(start, end, first, len(leaves_in_row)))
    return found


def leaf_chunks(tree: Leaves, ends: list[int], size: int) -> list[list[Chunk]]:
    """Passes of at most `size` leaves, in order: those of each stretch of prefixes.

    Args:
        ends: tokens of the last prefix of each stretch; of several, the leaves are of one row.
    """
    found, first = [], 0
    for end in ends:
        last = int((tree.column < end).sum())
        passes = chunks(torch.bincount(tree.row[first:last]).tolist(), size, even=True)
        found.append(
            [replace(one, start=one.start + first, stop=one.stop + first) for one in passes]
        )
        first = last
    return found


def part(rollout: Rollout, rows: Int[Tensor, "b"]) -> tuple[Rollout, Int[Tensor, "t"]]:
    """Some rows of a rollout as a rollout, without needless filler, and where its tokens were.

    The rows must be ascending.
    """
    inside = torch.zeros(len(rollout.tokens), dtype=torch.bool, device=rows.device)
    inside[rows] = True
    place = inside[rollout.row].nonzero().squeeze(1)
    lengths = rollout.prompt_lengths[rows] + rollout.response_lengths[rows]
    earlier = rollout.sampled_log_prob
    piece = replace(
        rollout,
        tokens=rollout.tokens[rows, : int(lengths.max())],
        prompt_lengths=rollout.prompt_lengths[rows],
        response_lengths=rollout.response_lengths[rows],
        ended=rollout.ended[rows],
        log_prob=rollout.log_prob[place],
        entropy=rollout.entropy[place],
        candidates=rollout.candidates[place],
        seeds=rollout.seeds[rows],
        candidate_log_prob=None,
        group=None,
        outcome=None,
        sampled_log_prob=None if earlier is None else earlier[place],
    )
    return piece, place
