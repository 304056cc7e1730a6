"""Leaves run by hand, rightly or off by one, and the table of how far each comes from whole forwards.

`python tests/tree_controls.py` prints the table.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from small_models import FAMILIES, RECURRENT, random_rollout, small_model
from transformers import PreTrainedModel

from opdlab.modelling.attention_hook import KeyStore, Lines, PackedPass, hooked, running
from opdlab.modelling.head import flat_states, vocabulary_statistics
from opdlab.records import Questions, Rollout, TeacherScores
from opdlab.scoring import leaf_attention
from opdlab.scoring.leaf_attention import LeafPass
from opdlab.scoring.naive import naive_scores
from opdlab.scoring.recurrent_leaves import RecurrentLeaves
from opdlab.scoring.teacher import Teacher
from opdlab.scoring.tree import leaves, response_states
from opdlab.shapes import Float, Tensor

RAGGED = ([3, 5, 1, 9], [17, 9, 14, 1])
CONTROLS: dict[str, dict[str, Any]] = {
    "position + 1": {"position_shift": 1},
    "mask + 1": {"mask_shift": 1},
    "mask - 1": {"mask_shift": -1},
    "no own key": {"own_key": False},
}


@torch.no_grad()
def leaf_log_c(
    model: PreTrainedModel,
    rollout: Rollout,
    position_shift: int = 0,
    mask_shift: int = 0,
    own_key: bool = True,
) -> Float[Tensor, "T K"]:
    """log c of every candidate by leaves with a shifted position or mask, or blind to themselves."""
    tree, states = leaves(rollout, rollout.candidates), response_states(rollout)
    rows = len(rollout.tokens)
    with hooked(model) as own:
        trunk = KeyStore(rows, int(states.column.max()) + 1)
        with running(PackedPass(own, Lines.of(states.row, rows), trunk)):
            flat_states(model, states.token, states.column)
        lines = Lines.of(tree.row, rows)
        column = tree.column + mask_shift
        recurrent = RecurrentLeaves(trunk.states, tree.row, column)
        leaf = LeafPass(own, trunk.keys, trunk.values, lines, column, recurrent=recurrent)
        with running(leaf), contextlib.nullcontext() if own_key else _own_key_unseen():
            hidden = flat_states(model, tree.token, tree.column + position_shift)
    log_c = vocabulary_statistics(model, hidden, None).max_log_prob
    return torch.where(tree.index >= 0, log_c[tree.index], torch.nan)


@contextlib.contextmanager
def _own_key_unseen() -> Iterator[None]:
    share = leaf_attention.share
    leaf_attention.share = lambda lead, like: torch.zeros_like(lead[..., None])
    try:
        yield
    finally:
        leaf_attention.share = share


def differences(model: PreTrainedModel, rollout: Rollout) -> list[float]:
    """Largest difference in log c from whole forwards: of the leaves, then of each control."""
    truth = naive_scores(model, rollout, Questions(rollout.candidates)).confidence.log()
    found = [leaf_log_c(model, rollout, **shift) for shift in ({}, *CONTROLS.values())]
    return [float((log_c - truth)[~log_c.isnan()].abs().max()) for log_c in found]


NUMBERS = ("log_prob", "entropy", "fidelity", "sampled_confidence", "confidence")


def assert_equal(found: TeacherScores, truth: TeacherScores, atol: float = 1e-5) -> None:
    """Every number the same, and the logarithm of every confidence."""
    for name in NUMBERS:
        torch.testing.assert_close(
            getattr(found, name),
            getattr(truth, name),
            atol=atol,
            rtol=0,
            equal_nan=True,
            msg=lambda text, name=name: f"{name}: {text}",
        )
    torch.testing.assert_close(
        found.confidence.abs().log(),
        truth.confidence.abs().log(),
        atol=atol,
        rtol=0,
        equal_nan=True,
    )


def main() -> None:
    """Print the table of parity for a document."""
    print("| family | way | largest difference in log c |", " | ".join(CONTROLS), "|")
    print("| --- " * (3 + len(CONTROLS)) + "|")
    for family in FAMILIES | RECURRENT:
        model, rollout = small_model(family), random_rollout(*RAGGED)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            way = Teacher(model).probe().way
        cells = ["-"] * (1 + len(CONTROLS))
        if way == "tree":
            exact, *wrong = differences(model, rollout)
            cells = [f"{exact:.1e}", *(f"{number:.2f}" for number in wrong)]
        print(f"| {family} | {way} |", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
