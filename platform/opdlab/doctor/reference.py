"""Doctor's look at a teacher's numbers, held against whole forwards of the model's own."""

from __future__ import annotations

from collections.abc import Iterator
from operator import itemgetter
from time import perf_counter

import torch

from opdlab.doctor.lines import Line, judged, passed, skipped
from opdlab.doctor.probe import CANDIDATES, Probe
from opdlab.doctor.rounding import Tolerance, apart
from opdlab.records import ONE_STEP, Lookahead, Questions, Rollout, TeacherScores
from opdlab.scoring import Teacher
from opdlab.shapes import Float, Int, Tensor

REPEATED = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 3e-2}
"""Mean difference, and a row's median, in nats, between repetitions by kernels without a fixed order."""
ROWS = 2
"""The reference is asked about as many candidates as so many rows with `CANDIDATES` each have."""


def reference_is_met(probe: Probe) -> Line:
    """Whether a teacher's scores are what a whole forward for each candidate gives, and how much faster."""
    what = "tree scoring equals the naive way"
    teacher, rollout = probe.teacher, probe.rollout
    if not isinstance(teacher, Teacher):
        server = getattr(teacher, "access", None)
        where = f"behind {server.url}" if server else "on disk"
        return skipped(what, f"this teacher is {where}, and scores in its own way")
    tree = teacher.way == "tree"
    if not tree:
        what = "teacher scores equal whole forwards"
    allowed = probe.teacher_tolerance
    gaps: dict[str, float] = {}
    ratio, leaves = 0.0, 0
    for measure, ahead in sorted(probe.confidences, key=str):
        asked = Questions(of_a_few(rollout), measure, full=True, lookahead=ahead)
        teacher.score(rollout, asked)  # what a first call sets up is no part of its speed
        started = perf_counter()
        fast = teacher.score(rollout, asked)
        middle = perf_counter()
        slow = teacher.reference(rollout, asked)
        ratio, leaves = (perf_counter() - middle) / (middle - started), fast.leaves
        # Sizes at which rows, leaves and vocabulary rows are all cut.
        small = teacher.in_pieces(trunk=5, leaf=7, head=3)
        for scores in (fast, small.score(rollout, asked)) if tree else (fast,):
            found = differences(teacher, rollout, scores, slow, measure, allowed, ahead)
            gaps |= {name: max(gap, gaps.get(name, 0.0)) for name, gap in found}
    worst, gap = max(gaps.items(), key=itemgetter(1))
    speed = f"{ratio:.0f} times faster on {leaves} leaves" if tree else "scored by such forwards"
    told = f"{allowed.by} difference {gap:.1e} ({worst}); {speed}"
    remedy = "report the model family: its attention does something the tree does not know"
    return judged(what, gap <= allowed.nats, told, remedy)


def differences(
    teacher: Teacher,
    rollout: Rollout,
    found: TeacherScores,
    truth: TeacherScores,
    measure: str,
    allowed: Tolerance,
    ahead: Lookahead = ONE_STEP,
) -> Iterator[tuple[str, float]]:
    """How far each of a teacher's numbers is from the reference, in nats.

    Args:
        measure, ahead: of the confidences; see `Questions`.
        allowed: says which difference counts.
    """
    row, how = rollout.row, measure if ahead.steps == 1 else f"{measure} {ahead}"
    for name in ("log_prob", "entropy"):
        yield name, allowed.gap(getattr(found, name), getattr(truth, name), row)
    yield "fidelity", allowed.gap(found.fidelity.log(), truth.fidelity.log(), row)
    for name in ("sampled_confidence", "confidence"):
        one, other = (_in_nats(getattr(scores, name), measure) for scores in (found, truth))
        yield f"{name} by {how}", allowed.gap(one, other, row)
    if found.hidden is not None:
        with torch.no_grad():
            said = teacher.log_probs(found.hidden)
        own = said.gather(-1, rollout.token[:, None])[:, 0]
        yield "states", allowed.gap(own, truth.log_prob, row)
        gaps = torch.cat([*of_distributions(teacher, rollout, found)])
        yield "distributions", allowed.gap(gaps, torch.zeros_like(gaps), row)


@torch.no_grad()
def of_distributions(teacher: Teacher, rollout: Rollout, found: TeacherScores) -> Iterator[Tensor]:
    """How far the distributions that losses read are from the model's own, in nats, by row; see `apart`."""
    assert found.distributions is not None
    with teacher.head():
        logits, start = teacher.logits(found.distributions), 0
        for row in range(len(rollout.tokens)):
            truth = teacher.reference_log_probs(rollout, row)
            here = slice(start, start := start + len(truth))
            yield apart(logits(here).float().log_softmax(-1), truth)


def _in_nats(confidence: Float[Tensor, "*n"], measure: str) -> Float[Tensor, "*n"]:
    if measure == "entropy":
        return confidence
    return (-confidence if measure == "perplexity" else confidence).log()


def of_a_few(rollout: Rollout) -> Int[Tensor, "T K"]:
    """Candidates at every few positions of every row: each costs the reference a forward."""
    candidates = rollout.candidates
    apart = max(1, len(rollout.tokens) * candidates.shape[1] // (ROWS * CANDIDATES))
    return candidates.masked_fill(
        (torch.arange(len(candidates)) % apart != 0)[:, None].to(candidates.device), -1
    )


def repeatable(probe: Probe) -> Line:
    """Whether scoring the same answers again gives the same numbers."""
    asked = Questions(probe.rollout.candidates)
    one, two = (probe.teacher.score(probe.rollout, asked) for _ in range(2))
    gap, typical = (
        max(
            by.gap(getattr(one, name), getattr(two, name), probe.rollout.row)
            for name in ("log_prob", "entropy", "fidelity", "sampled_confidence", "confidence")
        )
        for by in (Tolerance(0.0), Tolerance(1.0, 1.0))
    )
    what = "scoring again gives the same"
    remedy = (
        "dropout or nondeterministic kernels are at work: torch.use_deterministic_algorithms(True)"
    )
    found = "bit for bit" if gap == 0 else f"largest difference {gap:.1e}"
    accelerated = probe.teacher.device.type != "cpu" or probe.teacher.way in ("server", "service")
    if gap and typical < REPEATED[probe.teacher.dtype] and accelerated:
        return passed(what, f"{found}, within rounding")
    return judged(what, gap == 0, found, remedy)
