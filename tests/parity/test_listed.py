"""Losses by the tokens that a teacher tells, against the same spread over a whole vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest
import torch

from opdlab.doctor.objective import VARIANTS, installed
from opdlab.methods.base import Method
from opdlab.methods.divergences import forward_kl
from opdlab.methods.forward_kl import ForwardKL
from opdlab.methods.jsd import JSD
from opdlab.methods.lgr import LGR
from opdlab.methods.opd import OPD
from opdlab.methods.sft import SFT
from opdlab.modelling.listed import Listed
from opdlab.modelling.precision import FLOOR
from opdlab.objectives.oracle import EXACT, Setting, examine
from opdlab.records import Supervision
from opdlab.scores.spread import counted, dense_draws, dense_top

V, T = 37, 9
TOP = {
    "forward KL": ForwardKL("top_k", 5),
    "JSD": JSD("top_k", 5, 0.3),
    "reverse KL": OPD(support="top_k", top_k=5, top_k_of="teacher"),
}
ALIKE = {
    name: method
    for name, method in installed()
    if method.listed and (method.needs.support == "top-k" or (method.full and method.needs.linear))
}


def none_of(count: int) -> Any:
    empty = torch.zeros(count, 0)
    zero = torch.zeros(count)
    return Supervision(zero.long(), zero, zero, empty.long(), empty)


def logits(seed: int, sure: float = 3.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return sure * torch.randn(T, V, generator=generator, dtype=torch.float64)


def told_top(teacher: torch.Tensor, count: int) -> Listed:
    said = teacher.log_softmax(-1)
    top = said.topk(count, -1)
    rest = said.scatter(-1, top.indices, -torch.inf).logsumexp(-1)
    return Listed(top.indices, top.values, rest)


def spread(told: Listed) -> torch.Tensor:
    assert told.rest is not None
    none = torch.full((T, 1), -1)
    both = torch.cat([told.log_prob, told.rest[:, None]], -1)
    return dense_top(torch.cat([told.ids, none], -1), both, V)


def dense(method: Method, student: torch.Tensor, teacher: torch.Tensor) -> Any:
    leaf = student.clone().requires_grad_()
    loss = method.token_loss(leaf.log_softmax(-1), teacher.log_softmax(-1), none_of(T))
    return loss.detach(), torch.autograd.grad(loss.sum(), leaf)[0]


def listed(method: Method, student: torch.Tensor, told: Listed) -> Any:
    leaf = student.clone().requires_grad_()
    if method.needs.top_k:
        told = told.likeliest(method.needs.top_k)
    mine, theirs, entropy = told.compared(leaf, slice(None))
    loss = method.listed_loss(mine, theirs, none_of(T))
    return loss.detach(), torch.autograd.grad(loss.sum(), leaf)[0], entropy


@pytest.mark.parametrize("kept", [5, 12, V - 1])
@pytest.mark.parametrize("name", TOP)
def test_the_loss_by_the_likeliest_tokens_is_that_over_the_vocabulary(name: str, kept: int) -> None:
    """Also where the store keeps more than the method asks for."""
    student, told = logits(1), told_top(logits(2), kept)
    loss, gradient, entropy = listed(TOP[name], student, told)
    there, wanted = dense(TOP[name], student, spread(told))
    torch.testing.assert_close(loss, there, atol=1e-12, rtol=1e-10)
    torch.testing.assert_close(gradient, wanted, atol=1e-12, rtol=1e-9)
    said = student.log_softmax(-1)
    torch.testing.assert_close(entropy, -(said.exp() * said).sum(-1))


@pytest.mark.parametrize("method", [ForwardKL(), SFT("full")])
def test_the_loss_by_drawn_tokens_is_that_over_the_vocabulary(method: Method) -> None:
    """Tokens that were drawn several times, one of them in all draws, or each once."""
    ids = logits(3).softmax(-1).multinomial(V, replacement=True)
    ids[2], ids[3] = 4, torch.arange(V)
    share = torch.full(ids.shape, 1 / V, dtype=torch.float64).log()
    student = logits(1)
    loss, gradient, entropy = listed(method, student, Listed(*counted(ids)))
    there, wanted = dense(method, student, dense_draws(ids, share, V))
    torch.testing.assert_close(loss, there, atol=1e-9, rtol=1e-5)
    torch.testing.assert_close(gradient, wanted, atol=1e-9, rtol=1e-5)
    said = student.log_softmax(-1)
    torch.testing.assert_close(entropy, -(said.exp() * said).sum(-1))


def test_draws_are_counted() -> None:
    ids, share = counted(torch.tensor([[3, 1, 3, 0], [2, 2, 2, 2]]))
    assert ids.tolist() == [[0, 1, 3, -1], [2, -1, -1, -1]]
    assert share.exp().tolist() == [[0.25, 0.25, 0.5, 0.0], [1.0, 0.0, 0.0, 0.0]]


@pytest.mark.parametrize("name", TOP)
def test_a_tail_below_what_float32_holds_as_a_probability_is_not_lost(name: str) -> None:
    student, told = logits(1).float(), told_top(logits(2).float(), 5)
    student = student.scatter_add(1, told.ids[:, :1], torch.full((T, 1), 140.0))
    loss, gradient, _ = listed(TOP[name], student, told)
    there, wanted = dense(TOP[name], student.double(), spread(told).double())
    torch.testing.assert_close(loss.double(), there, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradient.double(), wanted, atol=1e-6, rtol=1e-5)


def test_a_student_that_rules_the_others_out_has_an_infinite_loss_and_no_nan() -> None:
    told = told_top(logits(2), 5)
    student = torch.full_like(logits(1), FLOOR).scatter(1, told.ids, 0.0)
    loss, gradient, entropy = listed(TOP["forward KL"], student, told)
    assert (loss > 1e9).all()
    assert gradient.isfinite().all()
    torch.testing.assert_close(entropy, torch.full_like(entropy, 5.0).log())


def test_a_listed_token_of_next_to_no_probability_may_be_ruled_out() -> None:
    student, teacher = logits(1).float(), logits(2).float()
    student[:, 3], teacher[:, 3] = FLOOR, -70.0
    said = teacher.log_softmax(-1)
    ids = torch.tensor([[0, 3]]).expand(T, 2)
    rest = said.scatter(-1, ids, -torch.inf).logsumexp(-1)
    told = Listed(ids, said.gather(-1, ids), rest)
    loss, gradient, _ = listed(TOP["forward KL"], student, told)
    assert loss.min() >= 0
    assert loss.max() < 20
    assert gradient.isfinite().all()


def test_methods_that_take_lists_are_found() -> None:
    assert len(ALIKE) == 5, list(ALIKE)
    assert {name.split()[0] for name in ALIKE} <= set(VARIANTS)


@pytest.mark.parametrize("name", ALIKE)
def test_the_expected_gradient_by_lists_is_the_one_that_is_declared(name: str) -> None:
    finding = examine(ALIKE[name], Setting(listed=True))
    assert finding.declared, str(finding)
    assert finding.difference < EXACT


def test_drawn_tokens_give_the_gradient_of_the_forward_kl_on_average() -> None:
    """Over all draws of two tokens of four, each by its probability."""
    torch.manual_seed(0)
    teacher = torch.randn(1, 4, dtype=torch.float64).log_softmax(-1)
    leaf = torch.randn(1, 4, dtype=torch.float64, requires_grad=True)
    (truth,) = torch.autograd.grad(forward_kl(leaf.log_softmax(-1), teacher).sum(), leaf)
    total = torch.zeros(1, 4, dtype=torch.float64)
    for pair in product(range(4), repeat=2):
        told = Listed(*counted(torch.tensor([pair])))
        mine, theirs, _ = told.compared(leaf, slice(None))
        loss = ForwardKL().listed_loss(mine, theirs, none_of(1)).sum()
        total += teacher[0, list(pair)].sum().exp() * torch.autograd.grad(loss, leaf)[0]
    torch.testing.assert_close(total, truth, atol=1e-12, rtol=1e-12)


@dataclass(frozen=True)
class Doubled(ForwardKL):
    """Someone's own loss on top of a shipped method."""

    def token_loss(self, student: Any, teacher: Any, supervision: Supervision) -> Any:
        return 2 * super().token_loss(student, teacher, supervision)


def test_a_loss_of_ones_own_is_not_replaced_by_that_of_the_class_below() -> None:
    assert ForwardKL().listed
    assert JSD().listed
    assert not Doubled().listed
    assert not LGR(base=ForwardKL("top_k", 2)).listed
