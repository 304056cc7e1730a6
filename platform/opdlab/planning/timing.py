"""How long a step would take on a card, from arithmetic and bandwidth alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from opdlab.configuration import Experiment, Model
from opdlab.modelling import models
from opdlab.planning.cards import Card
from opdlab.planning.footprint import Shape, footprint, operations
from opdlab.planning.hub_shapes import shape_of
from opdlab.planning.phases import Step, written
from opdlab.scoring import TRUNK_TOKENS

# Of the data sheet's rates. On one H200 decoding reached 40 to 61 % of what a copy does, which is 87 % of
# the sheet's; scoring 61 to 71 % of what a product does, which is 75 %. Updates were not measured.
OF_BANDWIDTH = 0.35
OF_PRODUCTS = 0.45
OF_PRODUCTS_UPDATING = 0.40
ACTIVE = 0.15
"""Share of positions whose candidates are asked about (arXiv:2605.30833: 10 to 25 %)."""


@dataclass(frozen=True)
class Seconds:
    """Of one optimizer step on each device.

    Attributes:
        moving: weights between devices, or from the host, where nothing else goes on meanwhile.
    """

    sampling: float
    scoring: float
    updating: float
    moving: float

    @property
    def step(self) -> float:
        """All of it."""
        return self.sampling + self.scoring + self.updating + self.moving


def seconds(experiment: Experiment, longest_prompt: int, card: Card) -> Seconds:
    """Time of a step, every response at its greatest length; the card's rates must be known.

    Args:
        longest_prompt: tokens.
    """
    step = Step.of(experiment, longest_prompt)
    fresh = 1 / experiment.training.epochs
    return Seconds(
        sampling=fresh * _sampling(experiment, step, longest_prompt, card),
        scoring=fresh * _scoring(experiment, step, card),
        updating=_updating(experiment, step, card),
        moving=_moving(experiment, step, card, fresh),
    )


def _sampling(experiment: Experiment, step: Step, prompt: int, card: Card) -> float:
    """Each token reads all weights, and the keys and values of its row."""
    teacher = experiment.method.sampler == "teacher"
    model = experiment.teacher if teacher else experiment.student
    size, dtype = footprint(model), models.DTYPES[model.dtype] if teacher else step.working
    responses = experiment.rollout.max_new_tokens
    read = size.parameters + step.sampled * size.cache * (prompt + responses / 2)
    row = _operations(model, step.length, responses)
    token = step.sampled * row / step.length
    at_a_time = max(
        read * dtype.itemsize / (card.bandwidth * OF_BANDWIDTH),
        token / (card.operations(dtype) * OF_PRODUCTS),
    )
    return responses * step.rows / step.sampled * at_a_time


def _scoring(experiment: Experiment, step: Step, card: Card) -> float:
    """One pass, and a leaf for each candidate of an active position and each token that may follow it; by
    the teacher that takes longest.
    """
    responses, method = experiment.rollout.max_new_tokens, experiment.method
    leaves = ACTIVE * method.group * method.needs.steps * responses / step.length
    each = [
        step.rows
        * (1 + leaves)
        * _operations(one, step.length, responses)
        / (card.operations(models.DTYPES[one.dtype]) * OF_PRODUCTS)
        for one in experiment.taught_here
    ]
    # How long a server takes is not known here.
    return max(each, default=0.0)


def _updating(experiment: Experiment, step: Step, card: Card) -> float:
    """A forward and a backward pass, which costs two, or one where weights are frozen.

    Layers that are computed again cost one more.
    """
    passes = 3 if experiment.student.lora is None else 2
    passes += step.training.activation_checkpointing == "layers"
    row = _operations(experiment.student, step.length, experiment.rollout.max_new_tokens)
    return step.rows * passes * row / (card.operations(step.working) * OF_PRODUCTS_UPDATING)


def _moving(experiment: Experiment, step: Step, card: Card, fresh: float) -> float:
    """Weights and gradients between devices; teachers from the host."""
    world = step.training.world
    student = footprint(experiment.student)
    teachers = [footprint(one).weights for one in experiment.taught_here]
    moved = 0.0
    if experiment.teacher.offload:
        again = teachers[0] if experiment.method.full and teachers else 0
        moved += (fresh * sum(teachers) + again) / card.host
    if world == 1:
        return moved
    # What a ring sends of a tensor to give all devices all of it.
    share = (world - 1) / world / card.link
    whole = student.parameters * step.stored.itemsize
    gradients = whole if experiment.student.lora is None else written(experiment.student)
    if step.parts == 1:
        return moved + 2 * share * gradients
    micro_batches = -(-step.rows // step.updated)
    passes = -(-step.rows * step.length // TRUNK_TOKENS)
    working = student.parameters * step.working.itemsize
    sent = micro_batches * 2 * working + gradients
    return moved + share * (sent + fresh * (working + passes * max(teachers, default=0)))


def _operations(model: Model, length: int, responses: int) -> float:
    """Of a row's forward, with the vocabulary projection of its responses."""
    size = footprint(model)
    body = _body(Shape.of(shape_of(model)), length)
    return body + 2 * size.width * size.vocabulary * responses


@cache
def _body(shape: Shape, length: int) -> int:
    return operations(shape.config, length)
