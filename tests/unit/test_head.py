"""The vocabulary projection of any model, in chunks, with its gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from small_models import VOCABULARY, random_rollout, small_model
from transformers import PreTrainedModel

from opdlab.bench.peak import rise
from opdlab.errors import ModelError, NonFiniteError
from opdlab.methods.divergences import forward_kl, reverse_kl, top_k_with_tail
from opdlab.modelling.head import (
    _probability_of_draw,
    chunked_loss,
    decoder,
    hidden_states,
    likeliest,
    logits_of,
    project,
    rows_at_a_time,
    vocabulary_statistics,
)
from opdlab.modelling.precision import FLOOR, expectation, in_float32
from opdlab.modelling.vocabulary_loss import Rows
from opdlab.plugins import registry as plugins
from opdlab.records import Questions, Supervision
from opdlab.sampling.rescoring import scored
from opdlab.sampling.rollout import CachedEngine
from opdlab.scoring.naive import naive_scores
from opdlab.scoring.teacher import Teacher

# Soft caps, scales, biases, tied weights, and decoders that stand in unusual places.
HEADS = [
    "llama",
    "llama-tied",
    "gemma2",
    "granite",
    "cohere",
    "phi",
    "opt",
    "biogpt",
    "llama4",
    "mamba",
]
HEADS += ["modernbert-decoder"]
TOKENS = torch.tensor([[5, 9, 31, 7, 12], [8, 3, 40, 22, 17]])
T = 23


@pytest.mark.parametrize("family", HEADS)
def test_the_head_of_any_family_gives_the_models_own_logits(family: str) -> None:
    model = small_model(family)
    with torch.no_grad():
        truth = model(input_ids=TOKENS).logits
        found = project(model, hidden_states(model, TOKENS).flatten(0, 1))
    torch.testing.assert_close(found.view_as(truth), truth, atol=2e-6, rtol=1e-5)


def test_a_soft_cap_or_a_scale_is_no_bare_product() -> None:
    for family in ("gemma2", "granite"):
        model = small_model(family)
        hidden = hidden_states(model, TOKENS)[0]
        bare = model.get_output_embeddings()(hidden)
        assert (bare - project(model, hidden)).abs().max() > 0.1


def test_the_decoder_stands_in_its_place_again_after_an_error() -> None:
    model = small_model("llama")
    before = model(input_ids=TOKENS).logits
    with pytest.raises(RuntimeError):
        project(model, torch.zeros(3, 7))
    assert "forward" not in vars(decoder(model))
    assert torch.equal(model(input_ids=TOKENS).logits, before)


def test_statistics_of_a_distribution_worked_out_by_hand() -> None:
    model = small_model("llama", vocab_size=4)
    model.lm_head.weight.data.zero_()
    model.lm_head.weight.data[:, 0] = torch.tensor([0.5, 0.25, 0.125, 0.125]).log()
    hidden = torch.zeros(3, 32)
    hidden[:, 0] = 1.0
    uniform = torch.tensor([0.49, 0.51, 0.9])
    said = vocabulary_statistics(model, hidden, torch.tensor([0, 1, 3]), uniform=uniform)
    torch.testing.assert_close(said.log_prob, torch.tensor([0.5, 0.25, 0.125]).log())
    torch.testing.assert_close(said.max_log_prob.exp(), torch.full((3,), 0.5))
    torch.testing.assert_close(said.entropy, torch.full((3,), 1.75 * math.log(2)))
    torch.testing.assert_close(said.sampled_prob, torch.tensor([0.5, 0.25, 0.125]))
    torch.testing.assert_close(said.confidence("entropy"), -said.entropy)
    torch.testing.assert_close(said.confidence("perplexity"), -said.entropy.exp())
    shared = vocabulary_statistics(model, hidden, torch.tensor([0, 1, 0]), vocabulary=2)
    torch.testing.assert_close(shared.log_prob, torch.tensor([2 / 3, 1 / 3, 2 / 3]).log())


def test_no_number_draws_an_entry_without_probability() -> None:
    """Sums of many entries round in different ways: the largest number must not reach beyond the last."""
    wide = 152_000
    logits = torch.randn(24, wide, generator=torch.Generator().manual_seed(0)) * 3
    logits[:, -200:] = FLOOR
    p = (logits - logits.amax(-1, keepdim=True)).exp()
    largest = torch.full((24,), 1 - 2**-24)
    found = _probability_of_draw(p, p.sum(-1), largest)
    assert (found > 0).all()


def test_draws_follow_the_distribution() -> None:
    model = small_model("llama")
    hidden = hidden_states(model, TOKENS)[0, 3].detach().expand(20_000, -1)
    p = project(model, hidden[:1]).softmax(-1)[0].detach()
    uniform = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    said = vocabulary_statistics(model, hidden, None, uniform=uniform)
    assert abs(float(said.sampled_prob.mean() - (p * p).sum())) < 4 * float(p.std()) / 20_000**0.5


def losses_by(name: str):
    """Token losses of the three kinds that methods have."""

    def token_loss(log_p, log_q, supervision):
        if name == "reverse_kl":
            return (log_p.exp() * (log_p - log_q)).sum(-1)
        own = log_p.gather(1, supervision.token[:, None])[:, 0]
        loss = -supervision.advantage * own
        if name == "candidates":
            group = log_p.gather(1, supervision.candidates)
            loss = loss - (supervision.candidate_advantage * group).sum(-1)
        return loss

    return token_loss


def case(family: str, name: str, chunk: int | None, weights: str, vocabulary: int | None = None):
    """Loss, gradients of all weights and logged numbers; `chunk` None is one plain product."""
    student, teacher = small_model(family), small_model("qwen2", seed=1)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(3, 40, (3, 9), generator=generator)
    hidden = hidden_states(student, rows).flatten(0, 1)[:T]
    seen = hidden_states(teacher, rows).flatten(0, 1)[:T].detach()
    supervision = Supervision(
        torch.randint(3, 40, (T,), generator=generator),
        torch.zeros(T),
        torch.randn(T, generator=generator),
        torch.randint(3, 40, (T, 4), generator=generator),
        torch.randn(T, 4, generator=generator),
    )
    told = torch.rand(T, generator=generator) + 0.1 if weights != "even" else None
    full = name == "reverse_kl"
    found = chunked_loss(
        student,
        hidden,
        logits_of(teacher, seen) if full else None,
        supervision,
        losses_by(name),
        vocabulary,
        chunk or 1000,
        weights=told if weights == "told" else None,
    )
    (found.loss * (1.0 if told is None else told)).mean().backward()
    gradients = {n: w.grad for n, w in student.named_parameters() if w.grad is not None}
    return found, gradients


@pytest.mark.parametrize("weights", ["even", "told", "untold"])
@pytest.mark.parametrize("name", ["sampled", "candidates", "reverse_kl"])
def test_chunks_change_neither_losses_nor_gradients(name: str, weights: str) -> None:
    whole, truth = case("llama-tied", name, None, weights, vocabulary=47)
    found, gradients = case("llama-tied", name, 5, weights, vocabulary=47)
    torch.testing.assert_close(found.loss, whole.loss, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(found.entropy, whole.entropy, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(found.reverse_kl, whole.reverse_kl, atol=1e-6, rtol=1e-5)
    assert gradients.keys() == truth.keys()
    for weight in truth:
        torch.testing.assert_close(gradients[weight], truth[weight], atol=1e-6, rtol=1e-4)


def test_a_second_backward_pass_gives_the_gradient_again() -> None:
    model = small_model("llama")
    hidden = torch.randn(T, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    nothing = torch.zeros(T)
    asked = Supervision(
        torch.full((T,), 7), nothing, nothing + 1, torch.zeros(T, 0).long(), torch.zeros(T, 0)
    )
    found = chunked_loss(model, hidden, None, asked, losses_by("sampled"), chunk=5)
    loss = found.loss.sum()
    loss.backward(retain_graph=True)
    once = hidden.grad.clone()  # type: ignore[union-attr]
    loss.backward()
    torch.testing.assert_close(hidden.grad, 2 * once)
    with pytest.raises(ModelError, match="were freed"):
        loss.backward()


@pytest.mark.parametrize("family", HEADS)
def test_every_weight_of_any_head_gets_its_gradient_from_chunks(family: str) -> None:
    _, truth = case(family, "reverse_kl", None, "even")
    _, gradients = case(family, "reverse_kl", 5, "even")
    assert gradients.keys() == truth.keys()
    for weight in truth:
        torch.testing.assert_close(gradients[weight], truth[weight], atol=2e-6, rtol=1e-4)


def test_what_is_logged_is_entropy_and_reverse_kl() -> None:
    found, _ = case("llama", "reverse_kl", 5, "even")
    torch.testing.assert_close(found.reverse_kl, found.loss.detach(), atol=1e-6, rtol=1e-5)
    student = small_model("llama")
    rows = torch.randint(3, 40, (3, 9), generator=torch.Generator().manual_seed(0))
    truth = vocabulary_statistics(student, hidden_states(student, rows).flatten(0, 1)[:T], None)
    torch.testing.assert_close(found.entropy, truth.entropy, atol=1e-5, rtol=1e-5)
    assert not found.entropy.requires_grad
    assert case("llama", "sampled", 5, "even")[0].reverse_kl is None


def test_no_tokens_give_no_losses() -> None:
    model = small_model("llama")
    none = torch.zeros(0, dtype=torch.long)
    supervision = Supervision(
        none, none.float(), none.float(), none[:, None], none[:, None].float()
    )
    hidden = torch.zeros(0, 32, requires_grad=True)
    found = chunked_loss(model, hidden, None, supervision, losses_by("sampled"))
    assert found.loss.shape == (0,)


class _Largest(torch.utils._python_dispatch.TorchDispatchMode):
    """Remembers the largest result of any operation."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, torch.Tensor):
                self.numel = max(self.numel, value.numel())
        return result


def test_no_tensor_of_all_tokens_by_the_vocabulary_ever_exists() -> None:
    V, tokens, chunk = 5000, 200, 16
    model = small_model("llama", vocab_size=V)
    hidden = torch.randn(tokens, 32, requires_grad=True)
    token = torch.randint(V, (tokens,))
    none = token[:, None][:, :0]
    supervision = Supervision(token, torch.zeros(tokens), torch.ones(tokens), none, none.float())
    with _Largest() as seen:
        found = chunked_loss(model, hidden, None, supervision, losses_by("sampled"), None, chunk)
        found.loss.mean().backward()
        vocabulary_statistics(model, hidden, token, chunk=chunk)
    # The head's own weights and their gradient are the largest that may be.
    assert seen.numel <= V * 32 < V * tokens


class _Products(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts new tensors as large as the head."""

    def __init__(self, numel: int) -> None:
        super().__init__()
        self.numel, self.storages = numel, set[int]()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.numel() == self.numel:
            self.storages.add(result.untyped_storage().data_ptr())
        return result


def test_chunks_add_to_one_gradient_of_the_head_instead_of_making_one_each() -> None:
    V, tokens = 5000, 200
    model = small_model("llama", vocab_size=V)
    hidden = torch.randn(tokens, 32, requires_grad=True)
    token = torch.randint(V, (tokens,))
    none = token[:, None][:, :0]
    supervision = Supervision(token, torch.zeros(tokens), torch.ones(tokens), none, none.float())
    head = model.get_output_embeddings()
    with _Products(V * 32) as seen:
        chunked_loss(
            model, hidden, None, supervision, losses_by("sampled"), None, 16
        ).loss.mean().backward()
    assert head.weight.grad is not None
    assert seen.storages - {head.weight.data_ptr()} == {head.weight.grad.data_ptr()}


def test_chunks_are_sized_by_the_vocabulary_and_the_wish() -> None:
    cpu = torch.device("cpu")
    assert rows_at_a_time(32_000, cpu)[0] == 262
    assert rows_at_a_time(151_936, cpu) == (55, 3)
    assert rows_at_a_time(VOCABULARY, cpu, 7) == (7, 7)


def ruling_out(seed: int) -> PreTrainedModel:
    """A model that gives two tokens a logit of minus infinity."""
    model = small_model("phi", seed)
    head: Any = model.get_output_embeddings()
    head.bias.data[[5, 17]] = -torch.inf
    return model


@pytest.mark.parametrize("options", [{}, {"support": "full"}])
def test_a_token_that_the_student_rules_out_counts_nothing(options: dict[str, Any]) -> None:
    student, teacher = ruling_out(0), small_model("phi", 1)
    rollout = CachedEngine(max_new_tokens=12).sample(
        student, [[7, 8], [9, 10, 11]], [1, 2], eos_ids=(2,), pad_id=0, top_k=4
    )
    method = plugins.load(plugins.METHODS, "opd")(**options)
    scores = Teacher(teacher).score(rollout, method.questions(rollout))
    for chunk in (3, None):
        hidden = hidden_states(student, rollout.tokens)[rollout.row, rollout.column - 1]
        hidden = hidden.detach().requires_grad_()
        losses = chunked_loss(
            student,
            hidden,
            None if scores.hidden is None else logits_of(teacher, scores.hidden),
            method.supervise(rollout, scores),
            method.token_loss,
            chunk=chunk,
        )
        losses.loss.sum().backward()
        torch.testing.assert_close(losses.entropy, rollout.entropy, rtol=1e-4, atol=1e-5)
        assert losses.loss.isfinite().all()
        assert hidden.grad is not None
        assert hidden.grad.isfinite().all()


def test_a_teacher_that_rules_out_tokens_scores_all_others() -> None:
    teacher = Teacher(ruling_out(1)).probe()
    assert teacher.way == "tree"
    rollout = CachedEngine(max_new_tokens=12).sample(
        teacher.model, [[7, 8], [9, 10, 11]], [1, 2], eos_ids=(2,), pad_id=0, top_k=4
    )
    found, truth = (
        score(rollout, Questions(rollout.candidates))
        for score in (teacher.score, partial(naive_scores, teacher.model))
    )
    torch.testing.assert_close(found.entropy, truth.entropy, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.log_prob, truth.log_prob, rtol=1e-4, atol=1e-4)
    assert found.entropy.isfinite().all()


def test_a_token_of_an_answer_that_a_model_rules_out_is_recorded_and_refused_as_that() -> None:
    model = ruling_out(1)
    said = scored(model, [[7, 8]], [torch.tensor([9, 5, 2])], None, 2)
    assert said.log_prob.isneginf().tolist() == [False, True, False]
    assert said.entropy.isfinite().all()
    rollout = random_rollout([3], [4])
    rollout.tokens[0, 4] = 5
    with pytest.raises(NonFiniteError, match=r"log_prob is -inf in row 0 .* no probability at all"):
        Teacher(model).score(rollout, Questions(rollout.candidates))
    # A loss over whole distributions does not read that number, and may be finite.
    asked = Questions(rollout.candidates[:, :0], full=True)
    assert Teacher(model).score(rollout, asked).log_prob.isneginf().sum() == 1


def losses_of(student: PreTrainedModel, teacher: PreTrainedModel, name: str, **options: Any) -> Any:
    """Losses of a method on random answers, by chunks."""
    rollout = random_rollout([2, 3], [6, 5])
    method = plugins.load(plugins.METHODS, name)(**options)
    scores = Teacher(teacher).score(rollout, method.questions(rollout), finite=False)
    hidden = hidden_states(student, rollout.tokens)[rollout.row, rollout.column - 1]
    asked = method.supervise(rollout, scores)
    assert scores.hidden is not None
    said = logits_of(teacher, scores.hidden)
    found = chunked_loss(student, hidden, said, asked, method.token_loss, chunk=3)
    return found, hidden


@pytest.mark.parametrize(
    ("name", "options", "infinite"),
    [
        ("opd", {"support": "full"}, "teacher"),
        ("opd", {"support": "top_k", "top_k": 52}, "teacher"),
        ("forward_kl", {}, "student"),
        ("jsd", {}, "neither"),
    ],
)
def test_a_divergence_is_infinite_where_one_model_alone_rules_out_a_token(
    name: str, options: dict[str, Any], infinite: str
) -> None:
    models = small_model("phi", 0), small_model("phi", 1)
    for who, pair in {
        "student": (ruling_out(0), models[1]),
        "teacher": (models[0], ruling_out(1)),
        "both": (ruling_out(0), ruling_out(1)),
    }.items():
        losses, _ = losses_of(*pair, name, **options)
        finite = losses.loss.isfinite()
        assert (not finite.any()) if who == infinite else bool(finite.all()), who
        assert bool(losses.reverse_kl.isfinite().all()) == (who != "teacher")


LOSSES: dict[str, Callable[..., torch.Tensor]] = {
    "student": reverse_kl,
    "teacher": forward_kl,
    "tail": lambda student, teacher: reverse_kl(*top_k_with_tail(student, teacher, 15)),
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("gap", [10, 60, 64, 66, 70, 80, 90, 110])
def test_a_divergence_from_what_is_ruled_out_is_infinite_or_none(loss: str, gap: int) -> None:
    torch.manual_seed(0)
    says, rules_out = torch.randn(2, 1, 16)
    says[0, 3], rules_out[0, 3] = says.amax() - gap, -torch.inf
    without = torch.arange(16) != 3
    pair = (rules_out, says) if loss == "teacher" else (says, rules_out)
    student, teacher = (in_float32(logits).requires_grad_() for logits in pair)
    none, pairs = torch.zeros(1), torch.zeros(1, 0)
    supervision = Supervision(none.long(), none, none, pairs.long(), pairs, {})
    rows = Rows(
        student=lambda hidden: hidden,
        teacher=lambda _: teacher.detach(),
        supervision=supervision,
        token_loss=lambda log_p, log_q, _: LOSSES[loss](log_p, log_q),
        weights=torch.ones(1),
        at_a_time=(1, 1),
        listed=None,
    )
    found, _, kl = rows.losses(student, teacher.detach(), slice(0, 1))
    if gap < 63:
        assert found.isinf().all()
        return
    log_p, log_q = (x[:, without].detach().log_softmax(-1) for x in (student, teacher))
    torch.testing.assert_close(found.detach(), LOSSES[loss](log_p, log_q))
    torch.testing.assert_close(kl, reverse_kl(log_p, log_q))
    (gradient,) = torch.autograd.grad(found.sum(), student)
    assert float(gradient.abs().max()) < 2


def test_a_row_that_rules_out_everything_is_no_distribution() -> None:
    logits = torch.full((2, 4), -torch.inf)
    logits[0, 1] = 0.5
    log_p = in_float32(logits).log_softmax(-1)
    assert log_p[0].isfinite().all()
    assert log_p[1].isnan().all()


def test_a_second_derivative_is_refused_in_words() -> None:
    losses, hidden = losses_of(small_model("phi", 0), small_model("phi", 1), "jsd")
    with pytest.raises(ModelError, match="create_graph"):
        torch.autograd.grad(losses.loss.sum(), hidden, create_graph=True)


def test_going_backward_again_after_a_change_is_refused_in_words() -> None:
    student, teacher = small_model("phi", 0), small_model("phi", 1)
    head: Any = student.get_output_embeddings()

    def again(change: Callable[[Any], None]) -> None:
        losses, hidden = losses_of(student, teacher, "jsd")
        (first,) = torch.autograd.grad(losses.loss.sum(), hidden, retain_graph=True)
        (second,) = torch.autograd.grad(losses.loss.sum(), hidden, retain_graph=True)
        torch.testing.assert_close(second, first)
        with torch.no_grad():
            change(hidden)
        torch.autograd.grad(losses.loss.sum(), hidden)

    again(lambda _: None)
    with pytest.raises(ModelError, match="weights of the head were changed"):
        again(lambda _: head.weight.mul_(0.9))
    with pytest.raises(ModelError, match="freed, or changed in place"):
        again(lambda hidden: hidden.mul_(0.9))


@pytest.mark.parametrize("transform", [torch.func.grad, torch.func.vmap])
def test_transforms_of_the_loss_are_refused_in_words(transform: Any) -> None:
    student = small_model("phi", 0)
    states = torch.randn(1, 6, student.config.hidden_size)

    def loss(hidden: Any) -> Any:
        nothing, none = hidden.new_zeros(6), torch.zeros(6, 0)
        asked = Supervision(torch.arange(6), nothing, nothing, none.long(), none)
        return chunked_loss(student, hidden, None, asked, surprise, chunk=3).loss.sum()

    with pytest.raises(ModelError, match=r"torch\.func"):
        transform(loss)(states if transform is torch.func.vmap else states[0])


def surprise(log_p: Any, _: Any, asked: Supervision) -> Any:
    return -log_p.gather(-1, asked.token[:, None])[:, 0]


def test_a_row_of_nan_leaves_other_rows_what_they_rule_out() -> None:
    logits = torch.tensor([[1.0, -torch.inf], [torch.nan, 0.0]], requires_grad=True)
    log_p = in_float32(logits).log_softmax(-1)
    p = log_p.exp()
    entropy = -expectation(p, log_p)
    assert entropy.tolist()[0] == 0.0
    assert entropy[1].isnan()
    (gradient,) = torch.autograd.grad(entropy[0], logits)
    assert gradient[0].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_leaves_sums_over_the_vocabulary_in_float32(dtype: torch.dtype) -> None:
    log_p = (5 * torch.randn(8, 5000)).log_softmax(-1)
    exact = (log_p.double().exp() * log_p.double()).sum(-1)
    with torch.autocast("cpu", dtype=dtype):
        found = expectation(log_p.exp(), log_p)
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)


def test_tokens_that_weigh_little_keep_their_gradient_in_float16() -> None:
    student, teacher = small_model("llama", 0), small_model("llama", 1)
    hidden, other = torch.randn(2, 70, 32)
    weights = torch.cat([torch.full((20,), 1.0), torch.full((50,), 1e-5)])
    nothing = torch.zeros(70)
    method = plugins.load(plugins.METHODS, "jsd")()
    asked = Supervision(
        nothing.long(), nothing, nothing, nothing.long()[:, None][:, :0], nothing[:, None][:, :0]
    )

    def gradients(half: bool) -> tuple[torch.Tensor, torch.Tensor]:
        rows = hidden.to(torch.float16 if half else torch.float32, copy=True).requires_grad_()
        with torch.autocast("cpu", torch.float16, enabled=half):
            found = chunked_loss(
                student,
                rows,
                logits_of(teacher, other),
                asked,
                method.token_loss,
                chunk=10,
                weights=weights,
            )
        (found.loss * weights * 65536).sum().backward()
        head: Any = student.get_output_embeddings().weight
        gradient, head.grad = head.grad, None
        assert rows.grad is not None
        return rows.grad.float(), gradient

    for exact, found in zip(gradients(half=False), gradients(half=True), strict=True):
        torch.testing.assert_close(
            found[20:], exact[20:], rtol=0.02, atol=0.003 * float(exact[20:].abs().max())
        )


def test_the_likeliest_tokens_take_no_more_memory_than_their_logits() -> None:
    model = small_model("llama", vocab_size=60000)
    took = rise(lambda: likeliest(model, torch.randn(139, 32)), "cpu")
    assert took < 1.5 * 139 * 60000 * 4
