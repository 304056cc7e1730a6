"""The law of a row: its numbers are those of forwards of its own prefixes, in a model that has computed
nothing before. Its company, the order of the rows, and what the model did earlier have no part in them.
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from small_models import (
    FAMILIES,
    INDEXED,
    OWN_WAYS,
    RECURRENT,
    STRETCHED,
    VOCABULARY,
    random_rollout,
    small_model,
)
from transformers import AutoConfig, PreTrainedModel

from opdlab.errors import ModelError, NonFiniteError
from opdlab.modelling.head import log_distribution
from opdlab.modelling.length_dependence import thresholds
from opdlab.modelling.models import positions
from opdlab.modelling.prefix_law import check_prefixes
from opdlab.records import Questions, Rollout, TeacherScores
from opdlab.sampling.draws import choose, uniforms, weigh
from opdlab.sampling.manner import Manner, company, manner
from opdlab.sampling.rescoring import scored
from opdlab.sampling.rollout import CachedEngine, GenerateEngine, RolloutEngine
from opdlab.scoring.length_groups import states_before_tokens
from opdlab.scoring.naive import naive_scores
from opdlab.scoring.teacher import Teacher
from opdlab.scoring.tree import part
from opdlab.shapes import Tensor

LISTED = ("llama", "qwen3", "gemma3", "deepseek_v3", "mixtral", "gpt_oss")
# A kind of recurrent layer each.
KINDS = ("qwen3_5", "lfm2-conv", "nemotron_h", "minimax", "mamba", "recurrent_gemma")
LAWS = (*LISTED, *KINDS, *STRETCHED, *OWN_WAYS, "deepseek_v32")
CACHED = (*LISTED, *KINDS, "llama4-floor")
# Beyond it the frequencies of STRETCHED change, and Llama 4's attention its temperature.
THRESHOLD = 16
EXACT = 3e-5
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*(whole forward|counts the tokens|depends on more than positions):UserWarning",
    "ignore::FutureWarning",
)


@cache
def model_of(family: str) -> PreTrainedModel:
    assert family in FAMILIES | RECURRENT | STRETCHED | OWN_WAYS | INDEXED
    return small_model(family)


@cache
def rollout_of() -> Rollout:
    """Short rows and rows beyond the threshold; one of these has its whole answer there."""
    return random_rollout([3, 12, 17], [3, 6, 1], top_k=2)


@torch.no_grad()
def said(model: PreTrainedModel, rollout: Rollout) -> Tensor:
    """Log-probabilities before every response token: a forward of each prefix alone."""
    found = []
    for row, column in zip(rollout.row.tolist(), rollout.column.tolist(), strict=True):
        _forget(model)
        logits = model(input_ids=rollout.tokens[row : row + 1, :column], use_cache=False).logits
        found.append(logits[0, -1].log_softmax(-1))
    return torch.stack(found)


@torch.no_grad()
def _forget(model: PreTrainedModel) -> None:
    """A dynamic model forgets the longest forward at one that is shorter than its original length."""
    model(input_ids=torch.ones(1, 1, dtype=torch.long), use_cache=False)


@torch.no_grad()
def remember(model: PreTrainedModel) -> None:
    """A forward that a dynamic model remembers."""
    model(input_ids=torch.arange(3, 43)[None], use_cache=False)


@cache
def truth(family: str) -> Tensor:
    rollout = rollout_of()
    return said(model_of(family), rollout).gather(1, rollout.token[:, None])[:, 0]


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, atol=EXACT, rtol=0, equal_nan=True)


def turned(rollout: Rollout) -> tuple[Rollout, Tensor]:
    """The rows in the reverse order, and where each of their tokens was."""
    rows = torch.arange(len(rollout.tokens)).flip(0)
    place = torch.cat([(rollout.row == row).nonzero()[:, 0] for row in rows])
    return replace(
        rollout,
        tokens=rollout.tokens[rows],
        prompt_lengths=rollout.prompt_lengths[rows],
        response_lengths=rollout.response_lengths[rows],
        ended=rollout.ended[rows],
        candidates=rollout.candidates[place],
        seeds=rollout.seeds[rows],
    ), place


@pytest.mark.parametrize("family", LAWS)
def test_the_losss_states_are_those_of_each_prefix_alone(family: str) -> None:
    model, rollout = model_of(family), rollout_of()

    def log_prob(rollout: Rollout) -> Tensor:
        remember(model)
        with torch.no_grad():
            states = states_before_tokens(model, rollout)
            said = log_distribution(model, states, None)
        return said.gather(1, rollout.token[:, None])[:, 0]

    close(log_prob(rollout), truth(family))
    other, place = turned(rollout)
    close(log_prob(other), truth(family)[place])
    for row in (0, 1):
        alone, mine = part(rollout, torch.tensor([row]))
        close(log_prob(alone), truth(family)[mine])


@pytest.mark.parametrize("family", LAWS)
def test_a_teachers_scores_are_those_of_each_prefix_and_candidate_alone(family: str) -> None:
    model, rollout = model_of(family), rollout_of()
    teacher = Teacher(model).probe()

    def scores(rollout: Rollout) -> TeacherScores:
        remember(model)
        return teacher.score(rollout, Questions(rollout.candidates))

    found, (other, place) = scores(rollout), turned(rollout)
    close(found.log_prob, truth(family))
    again = scores(other)
    remember(model)
    reference = naive_scores(model, rollout, Questions(rollout.candidates))
    for name in ("log_prob", "entropy", "fidelity", "sampled_confidence", "confidence"):
        close(getattr(found, name), getattr(reference, name))
        close(getattr(again, name), getattr(found, name)[place])
    if found.hidden is not None:
        close(found.hidden[place], again.hidden)  # type: ignore[arg-type]
    close(found.confidence[:, 1], after_candidates(model, rollout))


@torch.no_grad()
def after_candidates(model: PreTrainedModel, rollout: Rollout) -> Tensor:
    """Confidence after each second candidate, by a forward of its own."""
    found = []
    for t, (row, column) in enumerate(zip(rollout.row, rollout.column, strict=True)):
        _forget(model)
        tokens = torch.cat([rollout.tokens[row, :column], rollout.candidates[t, 1:2]])
        logits = model(input_ids=tokens[None], use_cache=False).logits[0, -1]
        found.append(logits.softmax(-1).amax())
    return torch.stack(found)


@pytest.mark.parametrize(
    ("engine", "family"),
    [*((CachedEngine, one) for one in CACHED), *((GenerateEngine, one) for one in LAWS)],
    ids=lambda one: one if isinstance(one, str) else one.__name__,
)
def test_tokens_are_drawn_from_what_is_recorded_of_each_prefix_alone(
    engine: type[RolloutEngine], family: str
) -> None:
    model, count = model_of(family), 5
    prompts = [[5, 6, 7], [*range(3, 17)], [8, 9, 10], [5, 6, 7]]

    def sampled(rows: list[int]) -> Rollout:
        remember(model)
        return engine(max_new_tokens=count).sample(
            model, [prompts[row] for row in rows], rows, eos_ids=(), pad_id=0, top_k=1
        )

    together = sampled([0, 1, 2, 3])
    log_p = said(model, together)
    numbers = uniforms(together.seeds[together.row][:, None], together.position[:, None])
    assert torch.equal(choose(weigh(log_p.clone()), numbers, 1.0, 1.0)[:, 0], together.token)
    close(together.log_prob, log_p.gather(1, together.token[:, None])[:, 0])
    assert torch.equal(together.candidates[:, 0], log_p.argmax(-1))
    for alone, rows in ((sampled([2]), [2]), (sampled([3, 1]), [3, 1])):
        mine = torch.cat([(together.row == row).nonzero()[:, 0] for row in rows])
        assert torch.equal(alone.token, together.token[mine])
        close(alone.log_prob, together.log_prob[mine])


@pytest.mark.parametrize("family", STRETCHED)
def test_a_model_trains_by_the_distribution_that_it_was_sampled_from(family: str) -> None:
    model = model_of(family)
    rollout = GenerateEngine(max_new_tokens=15).sample(
        model, [[5, 6, 7, 8]] * 3, [1, 2, 3], eos_ids=(2, 9, 11), pad_id=0
    )
    assert int(rollout.response_lengths.max()) + 4 > THRESHOLD
    remember(model)
    with torch.no_grad():
        states = states_before_tokens(model, rollout)
        now = log_distribution(model, states, None).gather(1, rollout.token[:, None])[:, 0]
    close(now, rollout.log_prob)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_prompt_that_goes_on_from_the_state_of_a_shorter_one_is_read_whole(
    dtype: torch.dtype,
) -> None:
    """Layers that begin anew with several tokens, which rounding or too few tokens may hide."""
    model: Any = small_model("mamba")
    model = model.to(dtype)
    prompts = [[3 + (i * 7 + n) % 50 for i in range(n)] for n in (4, 6, 24)]
    with warnings.catch_warnings():
        # Rows of unequal length go together, also with weights that the processor packs.
        warnings.filterwarnings("error", ".*counts the tokens")
        engine = CachedEngine(max_new_tokens=6)
        rollout = engine.sample(model, prompts, range(3), eos_ids=(), pad_id=0)
    whole = said(model, rollout).gather(1, rollout.token[:, None])[:, 0]
    gap = (whole - rollout.log_prob).abs().mean()
    assert gap < (1e-5 if dtype == torch.float32 else 0.05)


@pytest.mark.parametrize(
    ("family", "dtype"),
    # Mamba's convolutions have a bias, whose format torch looks at before it computes.
    [("llama", torch.bfloat16), ("llama", torch.float16), ("mamba", torch.bfloat16)],
)
def test_a_wrong_row_does_not_hide_behind_right_ones_and_rounding(
    family: str, dtype: torch.dtype
) -> None:
    """Nor one that is off by less than what another order of sums changes."""
    model: Any = small_model(family)
    model = model.to(dtype)

    def trial(way: Manner, prompts: list[list[int]]) -> tuple[list[list[int]], Tensor]:
        rows = [[*prompt, 5, 6, 7] for prompt in prompts]
        logits = [model(input_ids=torch.tensor([row])).logits[0, -4:-1] for row in rows]
        log_p = [one.float().log_softmax(-1)[[0, 1, 2], [5, 6, 7]] for one in logits]
        if not way.alike:
            log_p[1] = log_p[1] - 0.03
        return rows, torch.cat(log_p)

    with torch.no_grad(), pytest.warns(UserWarning, match=r"equal length .*off by 0\.03 nats"):
        assert manner(model, 9, (), trial).alike


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_goes_wrong_only_beyond_a_place_does_not_hide_behind_the_tokens_before(
    dtype: torch.dtype,
) -> None:
    """Whether a way is said to be operations of torch or not."""
    model: Any = small_model("mistral")
    model = model.to(dtype)
    window = model.config.sliding_window

    def trial(way: Manner, prompts: list[list[int]]) -> tuple[list[list[int]], Tensor]:
        rows, log_p = [[*prompt, 5, 6, 7] for prompt in prompts], []
        for row in rows:
            logits = model(input_ids=torch.tensor([row])).logits[0, -4:-1].float()
            said = logits.log_softmax(-1)[[0, 1, 2], [5, 6, 7]]
            before = torch.arange(len(row) - 3, len(row))
            log_p.append(said - 0.5 * (before > window) * (not way.alike))
        return rows, torch.cat(log_p)

    with torch.no_grad(), pytest.warns(UserWarning, match=r"equal length .*off by 0\.5 nats"):
        assert manner(model, 12, (), trial).alike
    other = copy.copy(model)
    with torch.no_grad():
        quicker = [Manner("written")]
        found = manner(
            other, 12, quicker, lambda way, few: trial(replace(way, alike=way.step == "plain"), few)
        )
    assert found == Manner("plain")


def test_a_way_that_gives_no_numbers_where_the_model_has_some_is_not_taken() -> None:
    model = small_model("llama")

    def trial(way: Manner, prompts: list[list[int]]) -> tuple[list[list[int]], Tensor]:
        if way.step != "plain":
            raise NonFiniteError("a log-probability is NaN")
        rows = [[*prompt, 5, 6, 7] for prompt in prompts]
        logits = [model(input_ids=torch.tensor([row])).logits[0, -4:-1] for row in rows]
        return rows, torch.cat([one.log_softmax(-1)[[0, 1, 2], [5, 6, 7]] for one in logits])

    with torch.no_grad():
        assert manner(model, 9, [Manner("written")], trial) == Manner("plain")


def test_state_that_the_cache_does_not_hold_is_refused_with_what_to_do() -> None:
    with pytest.raises(ModelError, match=r"keys and values alone.*set rollout\.type to `generate`"):
        CachedEngine(max_new_tokens=4).sample(
            model_of("rwkv"), [[5, 6, 7]], [0], eos_ids=(), pad_id=0
        )


@pytest.mark.parametrize(
    ("dtype", "known"), [(torch.float32, True), (torch.bfloat16, True), (torch.bfloat16, False)]
)
def test_a_counter_of_its_own_keeps_the_tree_to_shorter_passes_and_is_said(
    dtype: torch.dtype, known: bool
) -> None:
    """Also where rounding hides what it does in a few tokens, and where nothing tells that it counts."""
    model: Any = small_model("llama4-floor")
    model = model.to(dtype)
    model.config.attn_temperature_tuning = known
    with pytest.warns(UserWarning, match="depends on more than positions from 16 tokens"):
        teacher = Teacher(model).probe()
    assert (teacher.way, teacher.reach) == ("tree", THRESHOLD - 1)
    with pytest.warns(UserWarning, match="only rows of equal length are decoded together"):
        CachedEngine(max_new_tokens=20).sample(model, [[5, 6]], [0], eos_ids=(), pad_id=0)
    assert not company(model, 22).padded


@pytest.mark.parametrize("family", ["deepseek_v32-ties", "glm_moe_dsa-ties"])
@pytest.mark.parametrize("tied", [False, True])
def test_rows_are_refused_beyond_where_ties_make_a_prefix_depend_on_a_forwards_length(
    family: str, tied: bool
) -> None:
    model = small_model(family, tie_word_embeddings=tied)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0, 0.3)
    short, long = random_rollout([3, 5], [4, 2], top_k=1), rollout_of()
    teacher = Teacher(model).probe()
    found = teacher.score(short, Questions(short.candidates[:, :0]))
    close(found.log_prob, said(model, short).gather(1, short.token[:, None])[:, 0])
    refusal = "more than 8 tokens depends on how long a forward is.*rollout.max_new_tokens"
    with pytest.raises(ModelError, match=refusal):
        teacher.score(long, Questions(long.candidates))
    asked = {"eos_ids": (), "pad_id": 0}
    GenerateEngine(max_new_tokens=4).sample(model, [[5, 6, 7, 8]], [0], **asked)
    for engine, also in (
        (CachedEngine, "|cannot be decoded from cached keys"),
        (GenerateEngine, ""),
    ):
        with pytest.raises(ModelError, match=refusal + also):
            engine(max_new_tokens=8).sample(model, [[5, 6, 7]], [0], **asked)
    with pytest.raises(ModelError, match=refusal):
        scored(model, [[5, 6, 7]], [torch.arange(8, 16)], None, 0)


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_a_student_that_looks_ahead_is_refused_however_it_was_sampled(family: str) -> None:
    changes = {"is_causal": False} if family == "llama" else {"use_bidirectional_attention": True}
    model = small_model(family, **changes)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0, 0.3)
    for count in (2, 20):
        # As of answers that another model wrote.
        with pytest.raises(ModelError, match=r"later tokens|looks ahead"):
            states_before_tokens(model, random_rollout([3, 2], [count, 1], top_k=0))
        with pytest.raises(ModelError, match=r"later tokens|looks ahead"):
            scored(model, [[5, 6, 7]], [torch.arange(8, 8 + count)], None, 0)
        with pytest.raises(ModelError, match=r"later tokens|looks ahead"):
            CachedEngine(max_new_tokens=count).sample(model, [[5, 6]], [0], eos_ids=(), pad_id=0)


LEARNED = {
    "opt": "max_position_embeddings",
    "biogpt": "max_position_embeddings",
    "mpt": "max_seq_len",
}
LEARNED |= dict.fromkeys(("gpt2", "gpt_bigcode", "gptj"), "n_positions")


@pytest.mark.filterwarnings("ignore:(GPTJ|Mpt)ForCausalLM is scored by a whole forward")
@pytest.mark.parametrize("family", LEARNED)
def test_rows_beyond_the_positions_that_a_model_has_numbers_for_are_refused_in_words(
    family: str,
) -> None:
    model = small_model(family, **{LEARNED[family]: 24})
    said = "has numbers for 24 positions"
    full, over = (random_rollout([5, 9], [10, last], top_k=0) for last in (15, 16))
    assert positions(model) == 24
    teacher = Teacher(model).probe()
    assert teacher.score(full, Questions(full.candidates)).log_prob.isfinite().all()
    for engine in (CachedEngine(max_new_tokens=3), GenerateEngine(max_new_tokens=3)):
        given = {"eos_ids": (), "pad_id": 0}
        assert engine.sample(model, [[3] * 21, [4]], [0, 1], **given).tokens.shape[1] == 24
        with pytest.raises(ModelError, match=said):
            engine.sample(model, [[3] * 22, [4]], [0, 1], **given)
    for read in (
        lambda: teacher.score(over, Questions(over.candidates)),
        lambda: states_before_tokens(model, over),
        lambda: scored(model, [[3] * 9], [torch.arange(3, 19)], None, 0),
    ):
        with pytest.raises(ModelError, match=said):
            read()


def test_room_beyond_a_models_positions_is_not_tried() -> None:
    model = small_model("mistral", max_position_embeddings=32)
    check_prefixes(model, 10**9)
    assert CachedEngine(max_new_tokens=40).sample(
        model, [[5, 6]], [0], eos_ids=tuple(range(VOCABULARY)), pad_id=0
    ).response_lengths.tolist() == [1]


def test_places_too_far_to_try_at_load_are_tried_when_a_rollout_reaches_them() -> None:
    model = small_model("llama4-floor", floor_scale=1100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        teacher = Teacher(model).probe()
        rollout = random_rollout([3], [4], top_k=1)
        teacher.score(rollout, Questions(rollout.candidates))
    assert teacher.unproven == [1100]
    long = random_rollout([1104, 3], [1, 2], top_k=1)
    with pytest.warns(UserWarning, match="from 1100 tokens"):
        found = teacher.score(long, Questions(long.candidates[:, :0]))
    close(found.log_prob, said(model, long).gather(1, long.token[:, None])[:, 0])


def test_a_window_of_two_tokens_is_shorter_than_a_row_of_the_trial() -> None:
    model, rollout = small_model("mistral", sliding_window=2), rollout_of()
    teacher = Teacher(model).probe()
    assert (teacher.way, teacher.reach, teacher.unproven) == ("tree", None, [])
    found = teacher.score(rollout, Questions(rollout.candidates))
    close(found.log_prob, said(model, rollout).gather(1, rollout.token[:, None])[:, 0])
    close(found.confidence[:, 1], after_candidates(model, rollout))


def test_places_are_read_from_whatever_a_configuration_calls_them() -> None:
    """By the names that families of transformers have for them."""
    model = copy.copy(model_of("llama"))
    model.config = AutoConfig.for_model(
        "llama",
        index_topk=31,
        rel_extent=37,
        position_bias_max_distance=41,
        compress_rates={"compressed_sparse_attention": 4, "heavily_compressed_attention": 43},
        lsh_attn_chunk_length=47,
        attention_chunk_size=53,
        floor_scale=59,
        sliding_window_pattern=6,
        max_window_layers=7,
        num_experts_per_tok=8,
    )
    assert thresholds(model) == [4, 31, 37, 41, 43, 47, 53, 59]


def test_rows_of_unequal_length_cannot_be_one_forward_of_devices_that_share_a_model() -> None:
    with pytest.raises(ModelError, match="devices that share a model"):
        states_before_tokens(model_of("phi3-longrope"), rollout_of(), grouped=False)
