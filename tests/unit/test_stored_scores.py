"""Scores on disk: what is trained from them is what the live teacher would have taught."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import stores
import torch

from opdlab.configuration.config import Experiment
from opdlab.errors import ConfigError, DataError, ModelError
from opdlab.methods.divergences import forward_kl, reverse_kl
from opdlab.records import Lookahead, Questions
from opdlab.scores.kinds import Kind
from opdlab.scores.packing import drawn_from
from opdlab.scores.reader import Scores
from opdlab.scores.spread import dense_draws, dense_top

FULL = [
    {"type": "forward_kl"},
    {"type": "opd", "support": "full"},
    {"type": "opd", "support": "top_k", "top_k": 5},
    {"type": "jsd", "beta": 0.3},
    {"type": "sft", "support": "full"},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models, and stores of given answers."""
    found = tmp_path_factory.mktemp("stores")
    stores.models(found)
    for kind in ("hidden:float32", "hidden:bfloat16", "top_k:6", "drawn:4", "sampled"):
        stores.made(found, kind)
    return found


@pytest.fixture(scope="module")
def exact(folder: Path) -> Path:
    return folder / "hidden-float32-given"


def ids(method: Any) -> str:
    return "-".join(str(value) for value in method.values())


@pytest.mark.parametrize("method", FULL, ids=ids)
def test_the_gradient_from_hidden_states_on_disk_is_the_live_teachers(
    folder: Path, exact: Path, method: dict[str, Any]
) -> None:
    live, _ = stores.first_step(stores.with_live_teacher(folder, exact, method))
    stored, _ = stores.first_step(stores.from_store(folder, exact, method))
    assert live.abs().max() > 1e-3
    torch.testing.assert_close(stored, live, atol=1e-6, rtol=1e-6)
    rounded = folder / "hidden-bfloat16-given"
    half, _ = stores.first_step(stores.from_store(folder, rounded, method))
    apart = (half - live).norm() / live.norm()
    assert 0 < apart < 2**-7  # half a unit in the last place of a state is 2^-9


def test_the_gradient_from_the_likeliest_tokens_on_disk_is_that_of_the_live_teachers(
    folder: Path,
) -> None:
    method, store = {"type": "forward_kl", "support": "top_k", "top_k": 6}, folder / "top_k-6-given"
    live, _ = stores.first_step(stores.with_live_teacher(folder, store, method))
    stored, _ = stores.first_step(stores.from_store(folder, store, method))
    torch.testing.assert_close(stored, live, atol=1e-6, rtol=1e-5)


def test_the_sampled_number_on_disk_is_the_teachers_log_probability(folder: Path) -> None:
    live = stores.module_of(stores.with_live_teacher(folder, folder / "sampled-given"))
    stored = stores.module_of(stores.from_store(folder, folder / "sampled-given", "sft"))
    one, other = live.collector.collect(stores.HERE), stored.collector.collect(stores.HERE)
    assert one.rollout.tokens.tolist() == other.rollout.tokens.tolist()
    torch.testing.assert_close(one.scores.log_prob, other.scores.log_prob, atol=1e-6, rtol=1e-6)


def test_drawn_tokens_give_the_gradient_of_the_forward_kl_on_average_and_of_no_other() -> None:
    """Over all draws of two tokens of four, each by its probability."""
    torch.manual_seed(0)
    teacher = torch.randn(1, 4, dtype=torch.float64).log_softmax(-1)
    scores = torch.randn(1, 4, dtype=torch.float64, requires_grad=True)
    share = torch.full((1, 2), 0.5, dtype=torch.float64).log()

    def gradient(divergence: Any, said: torch.Tensor) -> torch.Tensor:
        loss = divergence(scores.log_softmax(-1), said).sum()
        return torch.autograd.grad(loss, scores)[0]

    def expected(divergence: Any) -> torch.Tensor:
        total = torch.zeros(1, 4, dtype=torch.float64)
        for pair in product(range(4), repeat=2):
            probability = teacher[0, list(pair)].sum().exp()
            said = dense_draws(torch.tensor([pair]), share, 4)
            total += probability * gradient(divergence, said)
        return total

    truth = gradient(forward_kl, teacher)
    torch.testing.assert_close(expected(forward_kl), truth, atol=1e-7, rtol=1e-6)
    assert (expected(reverse_kl) - gradient(reverse_kl, teacher)).abs().max() > 1


def test_a_token_is_drawn_by_its_probability_and_never_one_that_has_none() -> None:
    below = torch.tensor([[0.25, 0.25, 0.75, 1.0], [0.0, 1.0, 1.0, 1.0]], dtype=torch.float64)
    grid = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    found = drawn_from(below, grid.expand(2, -1))
    counts = [torch.bincount(row, minlength=4).tolist() for row in found]
    assert counts == [[250, 0, 500, 250], [0, 1000, 0, 0]]
    ends = torch.tensor([[0.0, 1 - 2**-53]], dtype=torch.float64).expand(2, -1)
    assert drawn_from(below, ends).tolist() == [[0, 3], [1, 1]]


def test_the_likeliest_tokens_and_their_tail_are_a_distribution() -> None:
    said = torch.tensor([[0.5, 0.3, 0.2]]).log()
    dense = dense_top(torch.tensor([[4, 1, -1]]), said, 5)
    assert dense.exp().tolist()[0] == pytest.approx([0.2 / 3, 0.3, 0.2 / 3, 0.2 / 3, 0.5])


def test_draws_are_a_function_of_the_answer_and_follow_the_teacher(folder: Path) -> None:
    again = stores.made(folder, "drawn:4", "again")
    one, other = Scores(folder / "drawn-4-given"), Scores(again)
    pairs = zip(one, other, strict=True)
    assert all(a.numbers["drawn"].equal(b.numbers["drawn"]) for a, b in pairs)
    many = Scores(stores.made(folder, "drawn:400", "many"))
    live = stores.module_of(stores.with_live_teacher(folder, again, FULL[0]))
    collected = live.collector.collect(stores.HERE)
    said = collected.scores.distributions
    assert said is not None
    truth = live.teacher.logits(said)(slice(0, 3)).softmax(-1)
    row = live.prompts.row(0)  # pyright: ignore[reportAttributeAccessIssue]
    found = many[row].numbers["drawn"][:3]
    shares = torch.stack([torch.bincount(one, minlength=truth.shape[1]) / 400 for one in found])
    deviation = (truth * (1 - truth) / 400).sqrt()
    assert ((shares - truth).abs() <= 5 * deviation + 1e-3).all()


def test_answers_come_in_the_order_of_the_seed_and_go_on_where_they_were(
    folder: Path, exact: Path
) -> None:
    config = stores.from_store(folder, exact)
    through = stores.module_of(config).collector
    steps = []
    for _ in range(4):
        steps.append(through.collect(stores.HERE).rollout.tokens.tolist())
        through.go_on(stores.HERE)
    resumed = stores.module_of(config).collector
    resumed.drawn = 8
    assert resumed.collect(stores.HERE).rollout.tokens.tolist() == steps[2]
    first = [tuple(row) for step in steps[:3] for row in step]
    assert len(set(first)) == len(stores.ROWS)  # each once in a pass
    other = config.model_copy(update={"seed": 5})
    assert (
        stores.module_of(other).collector.collect(stores.HERE).rollout.tokens.tolist() != steps[0]
    )


def test_an_answer_that_is_not_in_the_store_has_no_scores(folder: Path, exact: Path) -> None:
    module = stores.module_of(stores.from_store(folder, exact))
    rollout = module.collector.collect(stores.HERE).rollout
    none = rollout.candidates[:, :0]
    with pytest.raises(ModelError, match="set lookahead: 1"):
        module.teacher.score(rollout, Questions(none, lookahead=Lookahead(2)))
    tokens = rollout.tokens.clone()
    tokens[1, int(rollout.prompt_lengths[1])] += 1
    other = replace(rollout, tokens=tokens)
    with pytest.raises(ModelError, match="holds no scores of the answer in row 1"):
        module.teacher.score(other, Questions(rollout.candidates[:, :0]))


def test_no_teacher_is_loaded(folder: Path, exact: Path) -> None:
    pair = stores.load_pair(stores.from_store(folder, exact))
    assert all(weight.is_meta for weight in pair.teacher.parameters())


STUDENTS = {"answers": "student", "prompts": 12}
LGR = {"type": "lgr", "ratio_cap": 2.0, "top_k": 4, "entropy_threshold": 0.5}


@pytest.fixture(scope="module")
def sampled(folder: Path) -> Path:
    """Answers that the student wrote, with its candidates."""
    method = LGR | {"variant": "topk"}  # which asks at ends, too
    return stores.made(folder, "sampled", "own", method=method, **STUDENTS)


@pytest.mark.parametrize("more", [{}, {"variant": "topk", "top_k": 3}, {"entropy_threshold": 2.0}])
def test_the_lookahead_reward_from_disk_is_the_live_teachers(
    folder: Path, sampled: Path, more: dict[str, Any]
) -> None:
    method = LGR | more
    stored, one = stores.first_step(stores.from_store(folder, sampled, method))
    live, other = stores.first_step(stores.with_live_teacher(folder, sampled, method))
    assert one.token.tolist() == other.token.tolist()
    torch.testing.assert_close(one.advantage, other.advantage, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(stored, live, atol=1e-5, rtol=1e-4)
    assert live.abs().max() > 1e-3


def test_candidates_that_were_not_scored_are_refused(folder: Path, sampled: Path) -> None:
    with pytest.raises(ValueError, match=r"method\.top_k: it asks for 5 candidates at a position"):
        stores.from_store(folder, sampled, LGR | {"top_k": 5})
    with pytest.raises(ValueError, match=r"entropy was\s+above 0\.5 nats; set that or more"):
        stores.from_store(folder, sampled, LGR | {"entropy_threshold": 0.1})
    with pytest.raises(ValueError, match="by max_prob alone; set confidence to that"):
        stores.from_store(folder, sampled, LGR | {"confidence": "entropy"})


GRPO = {"type": "grpo", "distillation_weight": 1.0}


@pytest.mark.parametrize(
    ("store", "method", "why"),
    [
        ("hidden-float32-given", {"type": "opd"}, "trains on samples of the student's own, with their"),
        ("own", {"type": "opd"}, "set method.ratio_cap or method.ratio_clip, which weigh them"),
        ("own", {"type": "sft"}, "the method imitates answers, and those of"),
        ("own", GRPO, "compares fresh graded answers with each other"),
        ("sampled-given", {"type": "forward_kl"}, "needs the teacher's whole distribution"),
        ("top_k-6-given", {"type": "jsd"}, "needs the teacher's whole distribution"),
        ("top_k-6-given", FULL[2], "needs the teacher's whole distribution"),
        ("drawn-4-given", {"type": "jsd"}, "for which tokens drawn from them are enough"),
        ("drawn-4-given", {"type": "forward_kl", "support": "top_k", "top_k": 2}, "likeliest tokens"),
        (
            "top_k-6-given",
            {"type": "forward_kl", "support": "top_k", "top_k": 7},
            "asks for 7 of the teacher's likeliest tokens, and the store holds 6",
        ),
        ("sampled-given", LGR, "holds no confidences after candidates"),
    ],
)  # fmt: skip
def test_what_a_store_cannot_tell_is_refused_with_the_reason(
    folder: Path, sampled: Path, store: str, method: dict[str, Any], why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        stores.from_store(folder, folder / store, method)


@pytest.mark.parametrize(
    ("store", "method"),
    [
        ("drawn-4-given", {"type": "forward_kl"}),
        ("drawn-4-given", {"type": "sft", "support": "full"}),
        ("sampled-given", {"type": "sft"}),
        ("own", {"type": "opd", "ratio_clip": 0.2}),
    ],
)
def test_what_a_store_can_tell_trains_the_student(
    folder: Path, sampled: Path, store: str, method: dict[str, Any]
) -> None:
    gradient, _ = stores.first_step(stores.from_store(folder, folder / store, method))
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 1e-3


def test_a_mixture_takes_its_share_from_the_store_and_the_rest_from_the_student(
    folder: Path, exact: Path
) -> None:
    mixed = {"type": "scored", "path": str(exact), "given": 0.5}
    config = stores.experiment(folder, FULL[1], prompts=mixed)
    module = stores.module_of(config)
    answers = module.collector.sample(range(4), stores.HERE)
    assert answers.drawn == 2
    store = Scores(exact)
    for row in (2, 3):
        stored = store[answers.problems[row].extra["stored"]]
        assert answers.rollout.token[answers.rollout.row == row].tolist() == stored.response
    collected = module.collector.collect(stores.HERE)
    assert float(collected.weights.sum()) == pytest.approx(1)
    assert len(set(collected.weights.tolist())) == 1  # one mean over all tokens, whoever wrote them
    with pytest.raises(ValueError, match=r"prompts\.given: fresh answers need a teacher"):
        Experiment.model_validate(
            config.model_dump() | {"teacher": {"scores": str(exact)}, "prompts": mixed}
        )


def test_a_store_of_another_wording_or_vocabulary_is_refused_by_name(
    folder: Path, exact: Path, tmp_path: Path
) -> None:
    config = stores.from_store(folder, exact)
    other = config.prompts.model_copy(update={"template": "none"})
    with pytest.raises(DataError, match=r"put as prompts\.template 'auto' says"):
        stores.module_of(config.model_copy(update={"prompts": other}))
    student = tmp_path / "student"
    stores.tiny_chat.save(student, 128, "{{ messages[0].content }}")
    moved = config.student.model_copy(update={"path": str(student)})
    with (
        pytest.warns(UserWarning, match="chat templates differ"),
        pytest.raises(DataError, match="another chat template"),
    ):
        stores.module_of(config.model_copy(update={"student": moved}))


@pytest.mark.parametrize(
    "text", ["hidden", "hidden:float32", "hidden:bfloat16", "top_k:64", "drawn:12", "sampled"]
)
def test_a_kind_is_read_as_it_is_written(text: str) -> None:
    assert str(Kind.read(text)) in (text, f"{text}:bfloat16")


@pytest.mark.parametrize("text", ["top_k", "drawn:0", "hidden:float16", "all", "sampled:3"])
def test_another_kind_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="there is no such kind of store"):
        Kind.read(text)


def test_bytes_a_token_are_what_a_shard_takes(folder: Path) -> None:
    width = Scores(folder / "hidden-float32-given").tensor("hidden", 0).shape[-1]
    for kind in ("sampled", "top_k:6", "drawn:4", "hidden:float32", "hidden:bfloat16"):
        scores = Scores(folder / f"{kind.replace(':', '-')}-given")
        told = scores.manifest
        each = Kind.read(kind).bytes_a_token(told.vocabulary, width)
        shard, _ = scores.at(0)
        taken = sum(shard.values[name].nbytes for name in scores.columns if name != "prompt")
        assert taken == each * scores.tokens
