"""The bookkeeping of the candidate tree, worked out by hand and by hypothesis."""

from __future__ import annotations

import torch
from hypothesis import given, strategies as st
from small_models import random_rollout

from opdlab.scoring.tree import chunks, draws, leaves, part, response_states, same_prompts


def test_leaves_drop_the_sampled_token_the_missing_and_the_repeated() -> None:
    rollout = random_rollout([2, 3], [2, 2], top_k=4)
    sampled = rollout.token.tolist()
    candidates = torch.tensor(
        [
            [sampled[0], 9, 8, 9],
            [-1, -1, -1, -1],
            [8, 8, sampled[2], -1],
            [7, sampled[3], 9, 8],
        ]
    )
    assert not {7, 8, 9} & set(sampled)
    tree = leaves(rollout, candidates)
    assert tree.token.tolist() == [9, 8, 8, 7, 9, 8]
    assert tree.row.tolist() == [0, 0, 1, 1, 1, 1]
    assert tree.column.tolist() == [2, 2, 3, 4, 4, 4]
    assert tree.index.tolist() == [[-1, 0, 1, 0], [-1] * 4, [2, 2, -1, -1], [3, -1, 4, 5]]
    assert torch.equal(candidates[tree.place, tree.slot], tree.token)


def test_no_candidates_give_no_leaves() -> None:
    rollout = random_rollout([2, 3], [2, 2], top_k=0)
    assert len(leaves(rollout, rollout.candidates)) == 0
    rollout = random_rollout([2, 3], [2, 2], top_k=3)
    assert len(leaves(rollout, torch.full_like(rollout.candidates, -1))) == 0


def test_equal_tokens_of_a_position_share_one_draw() -> None:
    rollout = random_rollout([2, 3], [2, 2], top_k=4)
    candidates = rollout.candidates.clone()
    candidates[1, 3] = candidates[1, 1]
    candidates[2, 2] = rollout.token[2]
    drawn = draws(rollout, candidates)
    assert drawn.candidate[1, 3] == drawn.candidate[1, 1]
    assert drawn.candidate[2, 2] == drawn.trunk[2]
    assert torch.equal(drawn.trunk, draws(rollout, candidates).trunk)


def test_a_draw_depends_on_its_row_position_and_slot_alone() -> None:
    rollout = random_rollout([2, 3, 4], [5, 2, 3], top_k=4)
    # No two candidates alike, none the sampled token: those share a draw.
    candidates = 10_000 + torch.arange(rollout.candidates.numel()).view(rollout.candidates.shape)
    whole = draws(rollout, candidates)
    assert len(set(whole.candidate.flatten().tolist()) | set(whole.trunk.tolist())) == 10 * 5
    for rows in ([0], [1], [2], [0, 2]):
        piece, place = part(rollout, torch.tensor(rows))
        found = draws(piece, candidates[place, :2])
        assert torch.equal(found.trunk, whole.trunk[place])
        assert torch.equal(found.candidate, whole.candidate[place, :2])


@given(st.lists(st.integers(0, 12), max_size=12), st.integers(1, 9))
def test_chunks_cover_every_leaf_once_within_their_size_and_rows(
    in_row: list[int], size: int
) -> None:
    found = chunks(in_row, size)
    row_of = [row for row, count in enumerate(in_row) for _ in range(count)]
    assert [i for c in found for i in range(c.start, c.stop)] == list(range(sum(in_row)))
    for chunk in found:
        rows = row_of[chunk.start : chunk.stop]
        assert 1 <= len(rows) <= size
        assert chunk.first_row == rows[0]
        assert rows[-1] < chunk.last_row
        # A row is cut only where it does not fit by itself.
        if in_row[rows[0]] <= size:
            assert rows.count(rows[0]) == in_row[rows[0]]


def test_states_find_what_precedes_and_what_follows_each_token() -> None:
    rollout = random_rollout([[4, 5], [6], [4, 5]], [2, 3, 1])
    for share_from in (1.0, 0.0):
        states = response_states(rollout, share_from)
        before = states.index[states.before]
        assert torch.equal(states.following[states.before], rollout.token)
        assert states.token[before[[0, 2, 5]]].tolist() == [5, 6, 5]
        assert torch.equal(states.column[before] + 1, rollout.column)
        after = states.index[states.before + 1]
        assert torch.equal(states.token[after], rollout.token)
        assert torch.equal(states.column[after], rollout.column)
    assert states.prompts == 3
    assert len(states.token) == 3 + 6
    assert len(response_states(rollout).token) == 5 + 6


def test_prompts_are_the_same_only_whole() -> None:
    rollout = random_rollout([[4, 5], [4], [4, 5, 5], [4, 5]], [2, 3, 1, 1])
    prompt, first = same_prompts(rollout)
    assert prompt[0] == prompt[3]
    assert len(set(prompt.tolist())) == 3
    assert torch.equal(prompt[first], torch.arange(3))


def test_a_part_of_a_rollout_is_those_rows_without_needless_filler() -> None:
    rollout = random_rollout([2, 9, 1], [3, 4, 2])
    piece, place = part(rollout, torch.tensor([0, 2]))
    assert piece.tokens.shape == (2, 5)
    assert torch.equal(piece.token, rollout.token[place])
    assert torch.equal(piece.candidates, rollout.candidates[place])
    assert place.tolist() == [0, 1, 2, 7, 8]
