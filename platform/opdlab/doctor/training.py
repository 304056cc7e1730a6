"""Doctor's look at the training itself: what the objective descends, and whether anything moves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from opdlab.configuration import Experiment
from opdlab.doctor.lines import Line, failed, judged, passed, skipped
from opdlab.doctor.objective import setting_of
from opdlab.doctor.probe import Probe
from opdlab.errors import OpdlabError
from opdlab.modelling import chunked_loss, project, vocabulary_statistics
from opdlab.objectives import oracle
from opdlab.plugins import returned
from opdlab.records import Rollout, Supervision
from opdlab.sampling import record, weigh
from opdlab.scoring import states_before_tokens
from opdlab.shapes import Float, Tensor
from opdlab.training import outcomes, reached_by_a_step, token_weights


def objective(name: str, config: Experiment) -> Line:
    """Whether the objective has the gradient that it claims, trained as this run would."""
    what = f"{name}: the objective is what it says"
    setting = setting_of(config)
    try:
        finding = oracle.examine(config.method, setting)
    except OpdlabError as error:
        return failed(what, str(error), "correct the method")
    found = f"{finding} (difference {finding.difference:.0e})"
    if finding.terms == {}:
        return failed(what, str(finding), "choose another objective or other options")
    if finding.declared is None:
        return skipped(what, f"it claims nothing that could be proved; {found}")
    remedy = "correct its contract or its loss"
    if setting.sequence_mean:
        remedy = (
            "training.normalisation: token_mean, or method.support: full; lengths bend the rest"
        )
    return judged(what, finding.declared, found, remedy)


PRECISE = 1e-4
"""Nats that sums in float32 over any vocabulary may be off."""


def float32_sums(name: str, probe: Probe) -> Line:
    """Whether log-probabilities and entropies of training are those of float64 by the same logits."""
    what = f"{name}: log-probabilities are summed in float32"
    rollout, student = probe.rollout, probe.student
    with torch.no_grad(), as_in_training(probe):
        hidden = states_before_tokens(student, rollout)
        nothing = rollout.log_prob.new_zeros(len(rollout.token))
        asked = Supervision(
            rollout.token, nothing, nothing, rollout.candidates[:, :0], nothing[:, None][:, :0]
        )
        found = chunked_loss(
            student, hidden, None, None, asked, _surprise, probe.vocabulary, TRAINED_CHUNK
        )
        said = vocabulary_statistics(student, hidden, rollout.token, probe.vocabulary)
        drawn = record(weigh(_logits(probe, hidden)), rollout.token[:, None], 0)
        exact = _logits(probe, hidden).double().log_softmax(-1)
    truth = exact.gather(-1, rollout.token[:, None])[:, 0]
    entropy = -(exact.exp() * exact).sum(-1)
    gaps = [one + truth for one in (found.loss,)]
    gaps += [one - truth for one in (said.log_prob, drawn.log_prob)]
    gaps += [one - entropy for one in (found.entropy, said.entropy, drawn.entropy)]
    gap = float(torch.stack(gaps).abs().nan_to_num(torch.inf, torch.inf).max())
    return judged(
        what,
        gap < PRECISE,
        f"largest difference to float64 {gap:.1e} nats over {len(truth)} tokens",
        "set training.precision: 32-true, and report it: sums must not be in half precision",
    )


TRAINED_CHUNK = 64


def _surprise(log_p: Tensor, _teacher: Tensor | None, asked: Supervision) -> Tensor:
    return -log_p.gather(-1, asked.token[:, None])[:, 0]


def _logits(probe: Probe, hidden: Float[Tensor, "T H"]) -> Float[Tensor, "T V"]:
    return project(probe.student, hidden)[:, : probe.vocabulary]


@contextmanager
def as_in_training(probe: Probe) -> Iterator[None]:
    """What Lightning's precision sets around a step: numbers of new tensors, and autocast."""
    precision, before = probe.config.training.precision, torch.get_default_dtype()
    half = torch.float16 if precision.startswith("16") else torch.bfloat16
    mixed = torch.autocast(probe.student.device.type, half, enabled=precision.endswith("mixed"))
    torch.set_default_dtype(torch.bfloat16 if precision == "bf16-true" else before)
    try:
        with mixed:
            yield
    finally:
        torch.set_default_dtype(before)


def gradient(name: str, probe: Probe) -> Line:
    """Whether one step would move the student."""
    what = f"{name}: the gradient is not zero"
    try:
        rollout = with_grades(probe)
        norm, moved = gradient_norm(probe, rollout)
    except OpdlabError as error:
        return failed(what, str(error), "see the message")
    finite = norm == norm and norm != float("inf")
    if finite and norm == 0 and rollout.outcome is not None:
        same = len(rollout.outcome.unique()) == 1
        if same:
            return skipped(
                what, "all answers of this small sample got the same grade: nothing to compare"
            )
    found = f"norm {norm:.3g} over {moved} of the student's tensors"
    remedy = (
        "the loss does not reach the weights, or is no number: look at the method, mask and models"
    )
    if finite and norm > 0:
        return passed(what, found)
    return failed(what, found, remedy)


MOST = 0.5
"""Share of the weights that a step should change."""


def updates(name: str, probe: Probe) -> Line:
    """Whether steps of this size change weights of this format, or are lost in their last digit."""
    training = probe.config.training
    share = reached_by_a_step(probe.student, training)
    return judged(
        f"{name}: updates reach the weights",
        share >= MOST,
        f"a step of {training.learning_rate:g} changes {share:.1%} of them",
        "set student.dtype: float32 (training.precision: bf16-mixed computes in bfloat16 all the same), or "
        "a higher training.learning_rate",
    )


def with_grades(probe: Probe) -> Rollout:
    """The probe's rollout with what the method needs to know of it."""
    if not probe.config.method.graded:
        return probe.rollout
    problems = [prompt.problem for prompt in probe.problems]
    grades = outcomes(probe.rollout, problems, probe.prompts, probe.tokenizer)
    first = {prompt.tokens: row for row, prompt in reversed(list(enumerate(probe.problems)))}
    rows = [first[prompt.tokens] for prompt in probe.problems]
    group = torch.tensor(rows, device=probe.rollout.tokens.device)
    return replace(probe.rollout, group=group, outcome=grades)


def gradient_norm(probe: Probe, rollout: Rollout) -> tuple[float, int]:
    """Norm of the gradient of one step's loss, and how many weight tensors it reaches."""
    method, training = probe.config.method, probe.config.training
    scores = probe.score(returned.questions(method, rollout, probe.vocabulary))
    supervision = returned.supervision(method, rollout, scores, probe.vocabulary)
    weights = token_weights(rollout, training.normalisation, training.mask)
    trained = [weight for weight in probe.student.parameters() if weight.requires_grad]
    losses = chunked_loss(
        probe.student,
        states_before_tokens(probe.student, rollout),
        probe.teacher.model,
        scores.hidden,
        supervision,
        returned.TokenLoss(method),
        probe.vocabulary,
        training.head_chunk,
        weights,
    )
    total = (weights * losses.loss).sum()
    if not total.requires_grad:
        return 0.0, 0
    found = torch.autograd.grad(total, trained, allow_unused=True)
    norms = torch.stack([g.norm() for g in found if g is not None]).tolist()
    norm = sum(n * n for n in norms) ** 0.5
    return norm / max(float(weights.sum()), 1e-9), sum(n > 0 for n in norms)
