"""Memory and time of each phase of a training step, beside what `opdlab plan` says of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch

from opdlab.bench.gpu.figures import Card, Case, Figure
from opdlab.bench.gpu.step import opened
from opdlab.bench.peak import begin, highest
from opdlab.bench.shapes import Shape
from opdlab.bench.step import Contender, part
from opdlab.errors import watching
from opdlab.planning import PHASES, Card as KnownCard, known_card, memory, seconds

_GIB = 2**30
_CLOSE = 0.1
# Of a step's records: what its plan counts together.
_PARTS = {"sampling": ("rollout",), "scoring": ("teacher",), "updating": ("update",)}


def options(length: int) -> dict[str, list[str]]:
    """Settings that change what a step holds, by what they do; rows are of so many tokens."""
    return {
        "as it is": [],
        "teacher on the host": ["teacher.offload=true"],
        "layers computed again, a row at a time": [
            "training.activation_checkpointing=layers",
            f"training.update_tokens={length}",
        ],
        "with an average of weights": ["training.average=ema"],
        "weights in bfloat16": [
            "student.dtype=bfloat16",
            "training.precision=bf16-true",
            "training.learning_rate=1e-4",
        ],
        "FSDP2": ["training.strategy=fsdp"],
    }


def cases(
    name: str, student: Shape, teacher: Shape, seconds: int, rows: int, tokens: int
) -> Iterator[Case]:
    """One for each of the options, with the method that needs most."""
    for what, settings in options(tokens + 64).items():
        run = partial(_case, student, teacher, rows, tokens, settings)
        yield Case("memory", f"{name}, {rows} answers of {tokens:,} tokens, {what}", seconds, run)


def _case(
    student: Shape, teacher: Shape, rows: int, tokens: int, settings: Sequence[str], card: Card
) -> list[Figure]:
    card.drop()
    before = begin(card.device)
    with (
        opened(student, teacher, rows, tokens, card, ["lgr"], settings) as (one,),
        phases(card.device) as held,
    ):
        one.block(1)
        return [*_bytes(one, held, before), *_seconds(one, card)]


@contextmanager
def phases(device: torch.device) -> Iterator[dict[str, int]]:
    """The most bytes that each phase of the last step within held."""
    held: dict[str, int] = {}

    @contextmanager
    def watch(phase: str) -> Iterator[None]:
        begin(device)
        yield
        held[phase] = highest(device)

    watching.append(watch)
    try:
        yield held
    finally:
        watching.remove(watch)


def _bytes(one: Contender, held: dict[str, int], before: int) -> Iterator[Figure]:
    """Only what this process held before is left out: on a card nothing."""
    (planned,) = memory(one.config, longest_prompt(one)).values()
    always = sum(planned.held.values())
    for phase, most in held.items():
        # A CPU's plan knows no time in which all weights are stepped at once.
        counted = planned.passing.get(PHASES[phase])
        yield Figure(f"{phase}: memory", most / _GIB, "GiB")
        if counted is not None:
            ratio = (always + counted) / max(1, most - before)
            yield Figure(f"{phase}: `plan` over it", ratio, "x", 1.0, within=_CLOSE)
    ratio = planned.peak / max(1, max(held.values()) - before)
    yield Figure("the step: `plan` over it", ratio, "x", 1.0, within=_CLOSE)


def _seconds(one: Contender, card: Card) -> Iterator[Figure]:
    plan = seconds(one.config, longest_prompt(one), data_sheet(card))
    planned = {
        "sampling": plan.sampling,
        # Teachers come from the host when they score.
        "scoring": plan.scoring + plan.moving,
        "updating": plan.updating,
    }
    found = part(one.pace.records[-1])
    for phase, names in _PARTS.items():
        taken = sum(value for name, value in found.items() if name.startswith(names))
        yield Figure(f"{phase}: time", taken, "s")
        yield Figure(f"{phase}: `plan`'s time over it", planned[phase] / taken, "x")


def longest_prompt(one: Contender) -> int:
    """Tokens of the longest prompt that was answered last."""
    assert one.module.rollout is not None
    return int(one.module.rollout.prompt_lengths.max())


def data_sheet(card: Card) -> KnownCard:
    """The card as plans know it; one that they do not know by what was measured of it."""
    known: Callable[[str, int], KnownCard | None] = known_card
    name = torch.cuda.get_device_name(card.device) if card.device.type == "cuda" else ""
    return known(name, card.total) or KnownCard(
        name or card.device.type,
        card.total,
        half=card.product,
        single=card.product,
        bandwidth=card.bandwidth,
        link=card.host,
        host=card.host,
    )
