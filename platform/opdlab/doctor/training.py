"""Doctor's look at the training itself: what the objective descends, and whether anything moves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedModel

from opdlab.configuration import Experiment
from opdlab.doctor.lines import Line, failed, judged, skipped
from opdlab.doctor.objective import setting_of
from opdlab.doctor.probe import Probe
from opdlab.errors import OpdlabError
from opdlab.modelling import chunked_loss, head_parameters, project, vocabulary_statistics
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
            student, hidden, None, asked, _surprise, probe.vocabulary, TRAINED_CHUNK
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


ROUNDING = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 3e-2}
"""Share of the gradient of the answers' own log-probability that a difference of rounding can have."""


@dataclass(frozen=True)
class Gradient:
    """Of one step's loss.

    Attributes:
        norm: for a token.
        moved: weight tensors that it reaches.
        inner: whether some of these are in the student's layers, or none there is trained.
        usual: norm of the gradient of the answers' log-probability.
    """

    norm: float
    moved: int
    inner: bool
    usual: float


def gradient(name: str, probe: Probe) -> Line:
    """Whether one step would move the student, in its layers too, and by more than rounding."""
    what = f"{name}: the gradient is not zero"
    try:
        rollout = with_grades(probe)
        found = gradient_of(probe, rollout)
    except OpdlabError as error:
        return failed(what, str(error), "see the message")
    norm = found.norm
    finite = norm == norm and norm != float("inf")
    if finite and norm == 0 and rollout.outcome is not None:
        same = len(rollout.outcome.unique()) == 1
        if same:
            return skipped(
                what, "all answers of this small sample got the same grade: nothing to compare"
            )
    told = f"norm {norm:.3g} over {found.moved} of the student's tensors"
    formats = [probe.student.dtype, probe.teacher.dtype]
    formats += [one.teacher.dtype for one in probe.specialists]
    if finite and 0 < norm <= max(ROUNDING[one] for one in formats) * found.usual:
        return failed(
            what,
            f"{told}, as rounding gives: that of their own log-probability has {found.usual:.3g}",
            "teacher and student give these answers equal probabilities: name another teacher, or "
            "another method",
        )
    if finite and norm > 0 and not found.inner:
        return failed(
            what,
            f"{told}, none of them in its layers",
            "the hidden states carry no gradient: look at what was frozen or replaced in the student",
        )
    remedy = "the loss does not reach the weights, or is not a number: look at the method, mask and models"
    return judged(what, finite and norm > 0, told, remedy)


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


def gradient_of(probe: Probe, rollout: Rollout) -> Gradient:
    """The gradient of one step's loss."""
    method, training = probe.config.method, probe.config.training
    scores = probe.score(returned.questions(method, rollout, probe.vocabulary))
    supervision = returned.supervision(method, rollout, scores, probe.vocabulary)
    weights = token_weights(rollout, training.normalisation, training.mask)
    states = states_before_tokens(probe.student, rollout)
    share = max(float(weights.sum()), 1e-9)
    norms = []
    for loss, said in (
        (returned.TokenLoss(method), scores.distributions),
        (_surprise, None),
    ):
        losses = chunked_loss(
            probe.student,
            states,
            None if said is None else probe.teacher.logits(said),
            supervision,
            loss,
            probe.vocabulary,
            training.head_chunk,
            weights,
        )
        norms.append(_norms(probe.student, (weights * losses.loss).sum()))
    found, usual = norms
    head = {id(weight) for weight in head_parameters(probe.student)}
    inner = [weight for weight in found if id(weight) not in head]
    return Gradient(
        _together(found.values()) / share,
        sum(norm > 0 for norm in found.values()),
        not inner or any(found[weight] > 0 for weight in inner),
        _together(usual.values()) / share,
    )


def _norms(student: PreTrainedModel, total: Tensor) -> dict[Tensor, float]:
    """Norm of the gradient of each weight that is trained."""
    trained = [weight for weight in student.parameters() if weight.requires_grad]
    if not total.requires_grad:
        return dict.fromkeys(trained, 0.0)
    found = torch.autograd.grad(total, trained, allow_unused=True, retain_graph=True)
    norms = torch.stack([total.new_zeros(()) if g is None else g.norm().to(total) for g in found])
    return dict(zip(trained, norms.tolist(), strict=True))


def _together(norms: Iterable[float]) -> float:
    return sum(norm * norm for norm in norms) ** 0.5
