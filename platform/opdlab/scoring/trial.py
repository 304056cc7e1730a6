"""How a teacher is scored is settled at load: each way is held against whole forwards of a few tokens."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from dataclasses import replace
from typing import Protocol

import torch
from transformers import PreTrainedModel

from opdlab.errors import ModelError, NonFiniteError
from opdlab.modelling import (
    UnsupportedError,
    counts_from,
    hides_faults,
    in_float32,
    recurrent_layers,
    step_by_step,
    thresholds,
)
from opdlab.records import Lookahead, Questions, Rollout, TeacherScores
from opdlab.scoring.naive import naive_scores
from opdlab.shapes import Float, Int, Tensor

# Model code that was not written for the hook can fail in any of these ways.
_FAILURES = (
    RuntimeError,
    TypeError,
    ValueError,
    AttributeError,
    LookupError,
    AssertionError,
)

TRIAL_ROWS = ((6, 2), (2, 5), (6, 3))
"""Tokens of prompt and response of each row that is tried."""
TRIAL_PIECE = 3
"""Tokens of a piece of these rows."""
TRIAL_STEPS = 3
"""How far their candidates are followed, of teachers that shall follow any."""

# What is tried when a model is loaded: so many tokens of a row, and tokens times weights. Beyond,
# it is tried when a rollout is that long, on the device that it is scored on.
_AT_LOAD = 1024
_WORK_AT_LOAD = 10**10


class OnTrial(Protocol):
    """What is tried: a teacher, with the ways that it can be set to."""

    model: PreTrainedModel
    vocabulary: int | None
    trunk_chunk: int
    way: str
    pieces: bool
    shares: bool
    reach: int | None
    unproven: list[int]
    follows: bool | None

    def score(
        self, rollout: Rollout, questions: Questions, finite: bool = True
    ) -> TeacherScores: ...


def settle(teacher: OnTrial) -> None:
    """Keep the first way that is right: the tree in pieces, the tree, both with layers step by step whose
    states are sums, whole forwards; then share prompts where that is right.

    Raises:
        ModelError: not even the last is right, since the model looks ahead or at filler.
        NonFiniteError: what it says is NaN.
    """
    name = type(teacher.model).__name__
    rollout, questions = _trial(teacher)
    truths = _truths(teacher, rollout, questions)
    truth = truths[0]
    if (nowhere := truth.log_prob.isnan().nonzero()).numel():
        first = int(nowhere[0, 0])
        raise NonFiniteError(
            f"the teacher's log-probability is NaN in row {int(rollout.row[first])} at response position "
            f"{int(rollout.position[first])} of a trial; load the teacher in bfloat16 or float32, or check "
            "its weights"
        )
    sampled = questions.candidates == rollout.token[:, None]
    ahead = _gap(truth.confidence[sampled], truth.sampled_confidence)
    if ahead > _tolerance(teacher.model):
        raise ModelError(
            f"{name} cannot be a teacher: what it says at a token depends on later tokens (by "
            f"{ahead:.2g} nats); choose a decoder-only model"
        )
    faults = []
    chunk, teacher.trunk_chunk = teacher.trunk_chunk, TRIAL_PIECE
    for way, pieces in _attempts(teacher.model):
        teacher.way, teacher.pieces, teacher.shares = way, pieces, False
        fault = _fault(teacher, rollout, questions, truths)
        if fault is None:
            break
        faults.append(fault)
    else:
        raise ModelError(
            f"{name} cannot be a teacher: rows of unequal length disturb each other ({faults[-1]}); "
            "choose another model"
        )
    teacher.trunk_chunk = chunk
    teacher.shares = teacher.way == "tree"
    if teacher.shares and _fault(teacher, rollout, questions, truths) is not None:
        teacher.shares = False
    if teacher.way == "tree":
        teacher.unproven = thresholds(teacher.model)
        prove(teacher, tried_at_load(sum(one.numel() for one in teacher.model.parameters())))
    else:
        warnings.warn(
            f"{name} is scored by a whole forward for every candidate, which is exact but slow: "
            f"{faults[-1]}",
            UserWarning,
            stacklevel=3,
        )


def tried_at_load(parameters: int) -> int:
    """Tokens of a row up to which a model with so many weights is tried before its first scores."""
    return min(_AT_LOAD, _WORK_AT_LOAD // parameters)


def _attempts(model: PreTrainedModel) -> Iterator[tuple[str, bool]]:
    """Ways, and whether rows go in pieces, the quickest first."""
    yield from (("tree", True), ("tree", False))
    if step_by_step(model):
        yield from (("tree", True), ("tree", False))
    yield "naive", False


def prove(teacher: OnTrial, tokens: int) -> None:
    """Hold the tree against whole forwards at every place, not yet tried, that passes of so many tokens
    reach; where it is wrong, keep it to passes that end before.

    It costs the time of three rows that are so long, once.
    """
    while teacher.unproven and teacher.unproven[0] <= tokens:
        place = teacher.unproven.pop(0)
        if place == counts_from(teacher.model.config) and teacher.model.dtype != torch.float32:
            fault = "its layers count the tokens before them, which rounding hides"
        else:
            rollout, questions = _trial_at(teacher, place)
            fault = _fault(teacher, rollout, questions, _truths(teacher, rollout, questions))
        if fault is not None:
            teacher.reach, teacher.unproven = place - 1, []
            warnings.warn(
                f"{type(teacher.model).__name__} depends on more than positions from {place} tokens of a "
                f"forward on ({fault}): a pass of the teacher takes fewer, and longer rows are scored by "
                "a whole forward for every candidate, which is exact but slow",
                UserWarning,
                stacklevel=3,
            )


def try_chains(teacher: OnTrial) -> None:
    """Hold chains that grow from leaves against whole forwards; where they are wrong, those are taken."""
    teacher.follows = teacher.way == "tree"
    if not teacher.follows:
        return
    rollout, questions = _trial(teacher)
    questions = replace(questions, lookahead=Lookahead(TRIAL_STEPS))
    fault = "its layers keep a state"
    if not recurrent_layers(teacher.model):
        truths = _truths(teacher, rollout, questions)
        fault = _fault(teacher, rollout, questions, truths, middle=True)
    if fault is not None:
        teacher.follows = False
        warnings.warn(
            f"candidates of {type(teacher.model).__name__} are followed past one step by whole forwards, "
            f"which is exact but slow: {fault}",
            UserWarning,
            stacklevel=3,
        )


def _truths(teacher: OnTrial, rollout: Rollout, questions: Questions) -> list[TeacherScores]:
    """By whole forwards; of a model in half precision also in float32, where rounding hides nothing."""
    asked = teacher.model, rollout, questions, teacher.vocabulary
    truths = [naive_scores(*asked)]
    if hides_faults(teacher.model):
        with suppress(*_FAILURES), in_float32(teacher.model):
            truths.append(naive_scores(*asked))
    return truths


def _fault(
    teacher: OnTrial,
    rollout: Rollout,
    questions: Questions,
    truths: list[TeacherScores],
    middle: bool = False,
) -> str | None:
    """What goes wrong when the teacher scores as it is set now; None if nothing does.

    Args:
        truths: of `_truths`.
        middle: judge by the median: by rounding a chain may take another token of two likeliest ones.
    """
    for exact, truth in enumerate(truths):
        try:
            with in_float32(teacher.model) if exact else nullcontext():
                found = teacher.score(rollout, questions, finite=False)
        except (UnsupportedError, *_FAILURES) as error:
            if exact:
                continue
            known = isinstance(error, UnsupportedError)
            return str(error) if known else f"{type(error).__name__}: {error}"
        gap = max(
            _gap(found.confidence, truth.confidence, middle),
            _gap(found.log_prob.exp(), truth.log_prob.exp()),
        )
        if not gap <= (_exact(teacher.model) if exact else _tolerance(teacher.model)):
            return f"its scores come out wrong by {gap:.2g} nats"
    return None


def _gap(found: Float[Tensor, "*n"], truth: Float[Tensor, "*n"], middle: bool = False) -> float:
    """Mean or median difference of the logarithms; none where both are of a token that is ruled out."""
    difference = (found.log() - truth.log()).masked_fill((found == 0) & (truth == 0), 0.0).abs()
    return float(difference.median() if middle else difference.mean())


def _tolerance(model: PreTrainedModel) -> float:
    """Mean difference, in nats, that rounding can explain."""
    return 1e-4 if model.dtype == torch.float32 else 0.05


def _exact(model: PreTrainedModel) -> float:
    """The same where a model in half precision computes in float32: decays may be kept in half."""
    return 5e-3 if recurrent_layers(model) else 1e-4


def _trial(teacher: OnTrial) -> tuple[Rollout, Questions]:
    size = teacher.vocabulary or teacher.model.config.get_text_config().vocab_size
    rollout = trial_rollout(size).to(teacher.model.device)
    return rollout, Questions(rollout.candidates)


def trial_rollout(size: int) -> Rollout:
    """Unequal rows, two of one prompt; each position has its own token and another as candidates.

    Args:
        size: of the vocabulary.
    """
    tokens = (torch.arange(3 * 9).reshape(3, 9) * 7919 + 11) % size
    tokens[2, :6] = tokens[0, :6]
    prompts, responses = map(list, zip(*TRIAL_ROWS, strict=True))
    rollout = _rollout(tokens, prompts, responses)
    other = (rollout.token * 31 + 17) % size
    return replace(rollout, candidates=torch.stack([rollout.token, other], 1))


def _trial_at(teacher: OnTrial, place: int) -> tuple[Rollout, Questions]:
    """A row that ends beyond a place, and a short one that stands behind it in a pass."""
    size = teacher.vocabulary or teacher.model.config.get_text_config().vocab_size
    width = max(place + 3, 6)
    tokens = (torch.arange(2 * width).reshape(2, -1) * 7919 + 11) % size
    rollout = _rollout(tokens, [width - 1, 3], [1, 3]).to(teacher.model.device)
    return rollout, Questions(((rollout.token * 31 + 17) % size)[:, None])


def _rollout(tokens: Int[Tensor, "B S"], prompts: list[int], responses: list[int]) -> Rollout:
    T = sum(responses)
    return Rollout(
        tokens=tokens,
        prompt_lengths=torch.tensor(prompts),
        response_lengths=torch.tensor(responses),
        ended=torch.zeros(len(prompts), dtype=torch.bool),
        log_prob=torch.zeros(T),
        entropy=torch.zeros(T),
        candidates=torch.zeros(T, 0, dtype=torch.long),
        seeds=torch.zeros(len(prompts), dtype=torch.long),
        eos_ids=(),
    )
