"""How often the host may wait for the device, as the simulated one counts it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, final

import pytest
import torch
from gpu import simulated
from gpu.decoding import begun
from gpu.simulated import Counts, counted
from gpu.small_runs import experiment, module_of
from small_models import RECURRENT, random_rollout, small_model
from torch.nn.functional import scaled_dot_product_attention
from transformers import PreTrainedModel, modeling_flash_attention_utils
from tree_controls import assert_equal

from opdlab.console.interrupt import StopRequest
from opdlab.console.quiet import quieten
from opdlab.modelling.eval_mode import sampling_mode
from opdlab.modelling.head import hidden_states
from opdlab.modelling.recomputed import checkpointed
from opdlab.records import Questions, Rollout
from opdlab.sampling import manner
from opdlab.sampling.decoder import Decoder, Room
from opdlab.sampling.manner import Manner
from opdlab.sampling.recording import Draw, Records
from opdlab.sampling.rescoring import scored
from opdlab.sampling.rollout import CachedEngine
from opdlab.scoring.teacher import Teacher, naive_scores
from opdlab.training.fit import fit
from opdlab.training.module import Distillation
from opdlab.training.pace import Pace
from opdlab.transfers import to_device, to_host

PROMPTS = [[5], [7, 8, 9], [11] * 4, [9] * 9]


@pytest.fixture(autouse=True)
def counting(device: torch.device) -> None:
    if device.type != simulated.NAME:
        pytest.skip("a card does not count")


@pytest.mark.parametrize(
    ("family", "eos"),
    [
        *(("qwen3", ()), ("qwen3", (2, 7)), ("gemma3", ()), ("llama4", ())),
        ("falcon_h1", ()),
    ],
    ids=["no end", "some end", "windows", "chunks", "states and keys in a layer"],
)
def test_a_decoded_token_waits_an_eighth_of_a_time(
    device: torch.device, family: str, eos: tuple[int, ...]
) -> None:
    model = small_model(family).to(device)

    def sample(tokens: int) -> Rollout:
        engine = CachedEngine(max_new_tokens=tokens)
        return engine.sample(model, PROMPTS, range(4), eos_ids=eos, pad_id=0, top_k=3)

    # How a model is sampled is tried once, and is known here; so are its layers.
    manner._keep(model, "cached", 99, Manner("plain"))
    sample(1)
    with counted() as counts:
        rollout = sample(32)
    assert int(rollout.response_lengths.max()) == 32
    # Of one row: all rows take each step together.
    assert counts.waited <= 32 / 8, counts.lines()


@pytest.mark.filterwarnings("ignore:GPTJForCausalLM is scored by a whole forward")
@pytest.mark.parametrize(
    ("family", "way", "measure", "lengths"),
    [
        ("gemma3", "tree", "max_prob", [4, 9, 13]),
        ("gemma3", "tree", "sampled_prob", [4, 9, 13]),
        # Each forward would ask whether padding is to be kept from states.
        ("lfm2", "tree", "max_prob", [4, 9, 13]),
        ("qwen3_next", "tree", "max_prob", [4, 9, 13]),
        # A forward for each candidate.
        ("gptj", "naive", "max_prob", [1, 2, 3]),
    ],
)
def test_a_scoring_pass_waits_ten_times_whatever_the_rows(
    device: torch.device, family: str, way: str, measure: Any, lengths: list[int]
) -> None:
    teacher = Teacher(small_model(family).to(device), vocabulary=53).probe()
    assert teacher.way == way
    waited = []
    for times in (1, 6):
        # So many candidates that leaves go in several chunks.
        rollout = random_rollout([3, 5, 1] * times, lengths * times, top_k=9).to(device)
        questions = Questions(to_device(rollout.candidates, device), measure, full=True)
        if not waited:  # rows this long are tried when they first come
            teacher.score(rollout, questions)
        with counted() as counts:
            teacher.score(rollout, questions)
        waited.append(counts.waited)
        assert counts.waited <= 10, counts.lines()
    assert waited[0] == waited[1]


@pytest.fixture
def flash(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the library of flash attention, which a card alone has."""

    def attend(query: Any, key: Any, value: Any, scale: float) -> Any:
        heads = (x.transpose(1, 2) for x in (query, key, value))
        found = scaled_dot_product_attention(*heads, is_causal=True, scale=scale, enable_gqa=True)
        return found.transpose(1, 2)

    def options(softmax_scale: float, **_others: Any) -> dict[str, Any]:
        return {"scale": softmax_scale}

    functions = (attend, None, None, None, None), (options, options)
    library = modeling_flash_attention_utils
    monkeypatch.setattr(library, "lazy_import_flash_attention", lambda name: functions)
    # It would look for the library, and for one on the hub.
    settled = "_check_and_adjust_attn_implementation"
    monkeypatch.setattr(PreTrainedModel, settled, lambda model, name, *_, **__: name)


@pytest.mark.usefixtures("flash")
@pytest.mark.parametrize("activations", ["none", "layers"])
def test_a_single_row_under_flash_attention_waits_for_nothing(
    device: torch.device, activations: Any
) -> None:
    """transformers would look in each layer whether its positions are those of several texts."""
    model: Any = small_model("llama").to(device)  # pyright: ignore[reportArgumentType]
    model.set_attn_implementation("flash_attention_2")
    teacher = Teacher(model, vocabulary=53).probe()
    assert teacher.way == "tree"
    rollout = random_rollout([3], [9]).to(device)
    questions = Questions(rollout.candidates)
    assert_equal(teacher.score(rollout, questions), naive_scores(model, rollout, questions), 1e-5)
    with counted() as counts:
        teacher.score(rollout, questions)
    assert counts.waited <= 10, counts.lines()
    model.requires_grad_(True)
    with counted() as counts, checkpointed(model, activations):
        hidden_states(model, rollout.tokens).sum().backward()
    assert counts.waited == 0, counts.lines()


@pytest.mark.usefixtures("flash")
@pytest.mark.parametrize("family", ["llama", "bamba", "gemma3"])
def test_a_plain_step_under_flash_attention_waits_for_nothing(
    device: torch.device, family: str
) -> None:
    """transformers would ask in each layer how long the rows are."""
    model: Any = small_model(family).to(device)  # pyright: ignore[reportArgumentType]
    draw = Draw(1.0, 1.0, 4, None, 24, ())
    said = []
    for attention in ("sdpa", "flash_attention_2"):
        model.set_attn_implementation(attention)
        with sampling_mode(model), torch.no_grad():
            decoder = Decoder(
                model, PROMPTS[:1] * 2, range(2), draw, Room(2), Records(draw), Manner("plain")
            )
            uniform = begun(decoder, 2, device) * 0
            with decoder.step.stretch(), counted() as counts:
                decoder._step(uniform, 1)
            decoder._draw(uniform, 1, {0, 1}, [1, 1])
        assert counts.waited == 0, counts.lines()
        assert model.config._attn_implementation == attention
        said.append(decoder.last)
    assert torch.equal(*said)


@pytest.mark.parametrize(
    ("family", "waits"), [("qwen3", 0), ("gemma3", 0), ("gpt_oss", 0), ("llama4", 1)]
)
def test_a_leaf_pass_waits_for_nothing(
    device: torch.device, family: str, waits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What leaves see of causal rows and windows is known on the host; of chunks the device is asked."""
    teacher = Teacher(small_model(family).to(device), vocabulary=53).probe()
    rollout = random_rollout([3, 5, 1], [4, 9, 13]).to(device)
    questions = Questions(to_device(rollout.candidates, device))
    waited: list[Counts] = []
    states = Teacher._leaf_states

    def watched(*arguments: Any) -> Any:
        with counted() as counts:
            found = states(*arguments)
        waited.append(counts)
        return found

    teacher.score(rollout, questions)
    monkeypatch.setattr(Teacher, "_leaf_states", watched)
    teacher.score(rollout, questions)
    assert waited
    for counts in waited:
        assert counts.waited == waits, counts.lines()


RECORDED = ("llama", "qwen2", "qwen3", "gemma3", "gpt_oss", "deepseek_v3", "qwen3_moe", "llama4")
WAYS = [("static", family) for family in (*RECORDED, *RECURRENT)]
WAYS += [("lean", one) for one in RECORDED[:3]]


@pytest.mark.parametrize(("way", "family"), [("plain", "qwen3"), *WAYS])
def test_a_decode_step_waits_for_nothing_and_launches_little_beside_the_model(
    device: torch.device, way: Any, family: str
) -> None:
    """A card replays `static` and `lean` by one launch; what lies around them is launched each time."""
    model: Any = small_model(family).to(device)  # pyright: ignore[reportArgumentType]
    draw = Draw(1.0, 1.0, 4, None, 24, ())
    records = Records(draw)
    with sampling_mode(model), torch.no_grad():
        decoder = Decoder(model, PROMPTS[:2], range(2), draw, Room(2), records, Manner(way))
        uniform = begun(decoder, 2, device)
        name = "logits" if way == "plain" else "replay"
        recorded, inner = getattr(decoder.step, name), Counts()

        def launched(*arguments: Any) -> Any:
            with counted() as counts:
                found = recorded(*arguments)
            inner.launches.update(counts.launches)
            return found

        setattr(decoder.step, name, launched)
        with counted() as whole:
            decoder._step(uniform, 1)
    assert whole.waited == 0, whole.lines()
    # Views launch nothing.
    beside = whole.launches - inner.launches - Counter(slice=9, alias=9)
    layers = model.config.num_hidden_layers
    assert inner.launches.total() > layers
    assert beside.total() <= 3 * layers, beside


@final
class Waits(Pace):
    """What was waited for by the end of each step."""

    def __init__(self, folder: Path, stop: StopRequest, counts: Counts) -> None:
        super().__init__(folder, stop)
        self.counts, self.steps = counts, [Counter[str]()]

    def record(self, module: Distillation, metrics: dict[str, float]) -> None:
        self.steps.append(self.counts.waits.copy())


@pytest.mark.parametrize(
    "settings",
    [{}, {"mask": {"entropy_above": 0.3}, "rollout_parts": 2}],
    ids=["all", "unsure, in two parts"],
)
@pytest.mark.parametrize(
    "method",
    [
        {"type": "opd", "support": "full"},
        {"type": "lgr", "support": "full", "top_k": 4},
        {"type": "lgr", "variant": "topk", "top_k": 4, "entropy_threshold": 0.5},
    ],
    ids=["opd", "lgr", "lgr candidates"],
)
def test_a_training_step_waits_twenty_times(
    device: torch.device, method: dict[str, Any], settings: dict[str, Any], tmp_path: Path
) -> None:
    """Sampling and scoring included."""
    quieten()
    config = experiment(method, steps=2, **settings)
    module = module_of(config)
    with StopRequest() as stop, counted() as counts:
        seen = Waits(tmp_path, stop, counts)
        fit(module, config.training, seen)
    second = seen.steps[2] - seen.steps[1]
    assert second.total() <= 20, Counts(waits=second).lines()


def test_sixteen_micro_batches_wait_no_more_than_one(device: torch.device, tmp_path: Path) -> None:
    """transformers would look at the positions of each forward (`opdlab.modelling.unasked`)."""
    quieten()
    method = {"type": "opd", "support": "full"}
    config = experiment(method, steps=2, prompts_per_step=8, update_tokens=1)
    assert config.training.prompts_per_step * config.rollout.group_size == 16
    module = module_of(config)
    with StopRequest() as stop, counted() as counts:
        seen = Waits(tmp_path, stop, counts)
        fit(module, config.training, seen)
    second = seen.steps[2] - seen.steps[1]
    assert second.total() <= 20, Counts(waits=second).lines()


def test_answers_from_elsewhere_are_read_as_often_whatever_the_rows(device: torch.device) -> None:
    model: Any = small_model("qwen3").to(device)  # pyright: ignore[reportArgumentType]
    waited: list[Counts] = []
    for times in (1, 1, 4):
        answers = [to_device(torch.tensor(prompt), device) for prompt in PROMPTS * times]
        with counted() as counts:
            scored(model, PROMPTS * times, answers, None, 3)
        waited.append(counts)
    # The first tries how the model reads prefixes.
    for counts in waited[1:]:
        assert counts.waited <= 5, counts.lines()
    assert waited[1].waited == waited[2].waited


def test_many_tensors_are_read_in_one_copy(device: torch.device) -> None:
    there = [
        torch.arange(5),
        torch.tensor(True),
        torch.zeros(0, 3),
        torch.randn(2, 3, dtype=torch.float64).T,
        torch.tensor([1.5, -torch.inf], dtype=torch.bfloat16),
        torch.tensor([True, False, True]),
    ]
    with counted() as counts:
        read = to_host([to_device(one, device) for one in there])
    assert counts.waited == 1
    for one, other in zip(read, there, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


def test_tensors_of_both_sides_do_not_meet(device: torch.device) -> None:
    here, there = torch.ones(3), torch.ones(3).to(device)
    for mix in (
        lambda: here + there,
        lambda: here[there.long()],
        lambda: torch.cat([here, there]),
        lambda: torch.where(here > 0, there, there),
        lambda: there.numpy(),
        lambda: torch.rand(3, generator=torch.Generator(), device=device),
    ):
        with pytest.raises((RuntimeError, TypeError)):
            mix()
