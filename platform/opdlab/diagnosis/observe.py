"""Look at a model: its responses as the teacher sees them, and how the teacher finishes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from opdlab.diagnosis.observation import HandOvers, Tokens
from opdlab.errors import naming_requests
from opdlab.evaluation import judge, sample_seed
from opdlab.modelling import Wording, as_wording, marks_of, reach, text_of, written
from opdlab.plugins import Evaluator, returned
from opdlab.prompts import encode, rendered
from opdlab.records import Generation, Problem, Questions, Rollout, Verdict, is_one_of
from opdlab.sampling import RolloutEngine
from opdlab.scoring import Scorer
from opdlab.shapes import Float, Int, Tensor

WINDOW = 8
"""States averaged on each side of a hand-over."""


@dataclass(frozen=True)
class Bench:
    """All that does not change from one model to the next.

    Attributes:
        engine: samples responses, as training does.
        top_k: candidates that D_ahead compares.
        tokenizer, template: how a prompt is written.
        context: positions that the teacher has; None for any number.
        eos_ids: by which the model that is looked at ends its answers.
        teacher_ends: by which the teacher ends what it goes on with.
        pad_id, vocabulary: as of the pair of student and teacher.
        asked: problems with the benchmark that grades them, each as often as it is answered.
        seed: of all sampling.
    """

    teacher: Scorer
    context: int | None
    engine: RolloutEngine
    top_k: int
    tokenizer: PreTrainedTokenizerBase
    template: Wording | str
    eos_ids: tuple[int, ...]
    teacher_ends: tuple[int, ...]
    pad_id: int
    vocabulary: int | None
    asked: Sequence[Asked]
    seed: int


@dataclass(frozen=True)
class Asked:
    """One problem to be answered once more.

    Attributes:
        number: of the problem, over all benchmarks.
        sample: which answer to it, from 0.
    """

    number: int
    sample: int
    problem: Problem
    benchmark: Evaluator


def respond(bench: Bench, model: torch.nn.Module, rows: range, looked_at: int) -> Tokens:
    """Responses of a model to some of what is asked, scored by the teacher.

    Args:
        looked_at: positions at which D_ahead is measured, at most, drawn at random.
    """
    asked = [bench.asked[row] for row in rows]
    rollout = returned.sample(
        bench.engine,
        model,
        [prompt_of(bench, one) for one in asked],
        [sample_seed(bench.seed, one.problem, one.sample) for one in asked],
        eos_ids=bench.eos_ids,
        pad_id=bench.pad_id,
        top_k=bench.top_k,
        vocabulary=bench.vocabulary,
    )
    draw = np.random.default_rng((bench.seed, rows.start))
    candidates = some_candidates(rollout, looked_at, draw)
    with naming_requests(lambda row: f"the answer to {asked[row].problem.named}"):
        scores = bench.teacher.score(rollout, Questions(candidates))
    row = rollout.row.cpu().numpy()
    return Tokens(
        problem=np.array([one.number for one in asked])[row],
        sample=np.array([one.sample for one in asked])[row],
        position=rollout.position.cpu().numpy(),
        token=rollout.token.cpu().numpy(),
        student=numbers(rollout.log_prob),
        teacher=numbers(scores.log_prob),
        entropy=numbers(scores.entropy),
        fidelity=numbers(scores.fidelity),
        ahead=numbers(spread(scores.confidence)),
    )


def prompt_of(bench: Bench, asked: Asked) -> tuple[int, ...]:
    """Token ids of a prompt."""
    return encode(bench.tokenizer, asked.problem, bench.template)


def numbers(values: Tensor) -> Float[np.ndarray, "..."]:
    """As float32 on the host."""
    return values.detach().float().cpu().numpy()


def some_candidates(rollout: Rollout, count: int, draw: np.random.Generator) -> Int[Tensor, "T K"]:
    """The rollout's candidates at some positions, -1 at all others; an EOS has no next step and is none."""
    total = len(rollout.token)
    taken = draw.choice(total, min(count, total), replace=False)
    chosen = torch.zeros(total, dtype=torch.bool, device=rollout.token.device)
    chosen[torch.as_tensor(taken)] = True
    usable = chosen[:, None] & ~is_one_of(rollout.candidates, rollout.eos_ids) & rollout.possible
    return torch.where(usable, rollout.candidates, -1)


def spread(confidence: Float[Tensor, "T K"]) -> Float[Tensor, "T"]:
    """D_ahead: largest minus smallest confidence of a group of two or more; NaN elsewhere."""
    known = confidence.isfinite()
    high = confidence.where(known, -torch.inf).amax(-1)
    low = confidence.where(known, torch.inf).amin(-1)
    return torch.where(known.sum(-1) >= 2, high - low, torch.nan)


def hand_over(bench: Bench, responses: Sequence[Tokens], rows: range, cut: int) -> HandOvers:
    """Let the teacher finish responses from a cut on, and grade the whole.

    Only responses longer than the cut have something to finish. The teacher's part may be as long as a
    whole response, so that a late cut is not a tighter limit.

    Args:
        responses: of the rows.
    """
    pairs = [
        (bench.asked[row], one) for row, one in zip(rows, responses, strict=True) if len(one) > cut
    ]
    if not pairs:
        return HandOvers(*[np.zeros(0, int)] * 3, *[np.zeros(0)] * 4)
    prompts = [(*prompt_of(bench, asked), *one.token[:cut].tolist()) for asked, one in pairs]
    longest = room(bench, max(map(len, prompts)))
    with bench.teacher.answering() as model:
        rollout = returned.sample(
            replace(bench.engine, max_new_tokens=longest),
            model,
            prompts,
            [sample_seed(bench.seed + 1, asked.problem, asked.sample) for asked, _ in pairs],
            eos_ids=bench.teacher_ends,
            pad_id=bench.pad_id,
            top_k=1,
            vocabulary=bench.vocabulary and reach(bench.teacher_ends, bench.vocabulary),
        )
    verdicts = graded(bench, pairs, rollout, cut)
    before = [
        float(np.mean(one.fidelity[cut - WINDOW : cut])) if cut >= WINDOW else np.nan
        for _, one in pairs
    ]
    return HandOvers(
        problem=np.array([asked.number for asked, _ in pairs]),
        sample=np.array([asked.sample for asked, _ in pairs]),
        cut=np.full(len(pairs), cut),
        correct=np.array(
            [np.nan if v.status in Verdict.FAULTS else v.status == "correct" for v in verdicts],
            float,
        ),
        truncated=1.0 - rollout.ended.cpu().numpy(),
        before=np.array(before),
        after=confidence_after(rollout),
    )


def room(bench: Bench, prompt: int) -> int:
    """Tokens that the teacher may write: those of a whole response, or what its context leaves."""
    longest = bench.engine.max_new_tokens
    return longest if bench.context is None else max(1, min(longest, bench.context - prompt))


def confidence_after(rollout: Rollout) -> Float[np.ndarray, "N"]:
    """Mean of the sampling model's largest probability at the states after its first token."""
    assert rollout.candidate_log_prob is not None
    largest = numbers(rollout.candidate_log_prob[:, 0].exp())
    row, position = rollout.row.cpu().numpy(), rollout.position.cpu().numpy()
    inside = (position >= 1) & (position <= WINDOW)
    count = np.bincount(row[inside], minlength=len(rollout.tokens))
    total = np.bincount(row[inside], largest[inside], minlength=len(rollout.tokens))
    return np.where(count == WINDOW, total / np.maximum(count, 1), np.nan)


def graded(
    bench: Bench, pairs: Sequence[tuple[Asked, Tokens]], rollout: Rollout, cut: int
) -> list[Verdict]:
    """Verdicts on the whole answers: what was kept, and what the teacher wrote."""
    tokenizer, found = bench.tokenizer, [Verdict("no_answer")] * len(pairs)
    prefill = as_wording(bench.template).prefill
    by_benchmark: dict[str, list[int]] = {}
    for place, (asked, _) in enumerate(pairs):
        by_benchmark.setdefault(asked.benchmark.benchmark, []).append(place)
    for places in by_benchmark.values():
        answers = []
        for place in places:
            asked, one = pairs[place]
            start = int(rollout.prompt_lengths[place])
            new = rollout.tokens[place, start : start + int(rollout.response_lengths[place])]
            ids = [*one.token[:cut].tolist(), *new.tolist()]
            answers.append(
                (
                    asked.problem,
                    Generation(
                        problem=asked.problem.id,
                        index=asked.sample,
                        seed=0,
                        prompt=rendered(tokenizer, asked.problem, bench.template).removesuffix(
                            prefill
                        ),
                        completion=prefill + text_of(tokenizer, ids),
                        tokens=len(ids),
                        stop="eos" if bool(rollout.ended[place]) else "length",
                        seconds=0.0,
                        thinking=written(marks_of(tokenizer)),
                    ),
                )
            )
        verdicts = judge(pairs[places[0]][0].benchmark, answers)
        for place, verdict in zip(places, verdicts, strict=True):
            found[place] = verdict
    return found
