"""Scoring by a teacher, with candidates and without, against the products that it consists of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from opdlab.bench.gpu.ceilings import attention_products, head_products, linear_products
from opdlab.bench.gpu.figures import Card, Case, Figure
from opdlab.bench.rivals import prefill_each
from opdlab.bench.scoring import evenly
from opdlab.bench.shapes import Shape, ask, nothing, random_rollout, work
from opdlab.scoring import Teacher, leaves

K, ACTIVE = 8, 0.15
PREFILLS = 3
PAPER = 900.0
"""What arXiv:2605.30833 says that its tree gains over a prefill for each candidate."""


def cases(name: str, shape: Shape, lengths: Sequence[int], seconds: int) -> Iterator[Case]:
    """One for each length of an answer, the shortest first."""
    for length in lengths:
        title = f"{name}, L {length:,}, K {K}, {ACTIVE:.0%} active"
        longest = max(lengths) + 2
        run = partial(_case, shape, length, longest)
        yield Case("scoring", title, seconds, run, holds=shape.weights())


def _case(shape: Shape, length: int, longest: int, card: Card) -> list[Figure]:
    model = card.model(shape, longest)
    teacher = Teacher(model).probe()
    rollout = random_rollout(shape, [1], [length], K, card.device)
    questions, none = ask(rollout, ACTIVE), nothing(rollout)
    opd = card.seconds(lambda: teacher.score(rollout, none), 3)
    lgr = card.seconds(lambda: teacher.score(rollout, questions), 3)
    todo, tree = work(shape, rollout, questions), leaves(rollout, questions.candidates)
    trunk_products = (
        linear_products(card, shape, length + 1)
        + attention_products(card, shape, length + 1, length + 1, causal=True)
        + head_products(card, shape, length + 1)
    )
    size = min(teacher.leaf_chunk, len(tree))
    passes = len(tree) / size
    leaf_products = passes * (
        linear_products(card, shape, size)
        + attention_products(card, shape, size, int(tree.column.float().mean()), causal=False)
        + head_products(card, shape, size)
    )
    few = evenly(len(tree), PREFILLS).to(card.device)
    each = card.seconds(lambda: prefill_each(model, rollout, tree, few), 1) / PREFILLS
    return [
        Figure("OPD's pass", opd * 1e3, "ms"),
        Figure("LGR over OPD", lgr / opd, "x"),
        Figure("its arithmetic", todo.ratio, "x"),
        Figure("OPD over its products", opd / trunk_products, "x", 1.1, at_most=True),
        Figure(
            "LGR over its products", lgr / (trunk_products + leaf_products), "x", 1.1, at_most=True
        ),
        Figure("trunk of the ceiling", todo.trunk / opd / card.product, "share", 0.6),
        Figure("leaves of the ceiling", todo.leaves / (lgr - opd) / card.product, "share", 0.4),
        Figure("a prefill per candidate over LGR", each * len(tree) / lgr, "x", PAPER),
    ]
