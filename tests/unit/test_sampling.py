"""Uniforms, draws and records of the rollout engines, by numbers and by frequencies."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, strategies as st
from scipy.stats import chi2, kstest

from opdlab.errors import DataError
from opdlab.sampling.draws import choose, record, uniforms, weigh

SEEDS = torch.arange(400)[:, None]
POSITIONS = torch.arange(300)


def chi_square_p(counts: torch.Tensor, probabilities: torch.Tensor) -> float:
    expected = probabilities.double() * counts.sum()
    kept = expected > 0
    assert counts[~kept].sum() == 0
    statistic = ((counts[kept] - expected[kept]) ** 2 / expected[kept]).sum()
    return float(chi2.sf(float(statistic), int(kept.sum()) - 1))


def drawn(
    logits: torch.Tensor, count: int, temperature: float = 1.0, top_p: float = 1.0
) -> torch.Tensor:
    """How often each token is drawn from one distribution, over `count` seeds."""
    uniform = uniforms(torch.arange(count)[:, None], torch.zeros(1, 1, dtype=torch.long))
    tokens = choose(weigh(logits.repeat(count, 1)), uniform, temperature, top_p)
    return torch.bincount(tokens[:, 0], minlength=logits.shape[-1])


def splitmix64(state: int) -> int:
    """One output of the generator as published, in unbounded integers."""
    z = (state + 0x9E3779B97F4A7C15) % 2**64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
    return z ^ (z >> 31)


def test_uniforms_are_those_of_splitmix64_seeded_by_a_mixed_seed() -> None:
    golden = 0x9E3779B97F4A7C15
    assert splitmix64(0) == 0xE220A8397B1DCDAF
    assert splitmix64(golden) == 0x6E789E6AA1B965F4
    for seed in (0, 1, 1234, 2**63 - 1, -1, -(2**63)):
        for position in (0, 1, 79, 16_000):
            bits = splitmix64((splitmix64(seed % 2**64) + position * golden) % 2**64)
            uniform = uniforms(torch.tensor([seed]), torch.tensor([position])).item()
            assert uniform == (bits >> 11) / 2**53


def test_uniforms_are_uniform() -> None:
    numbers = uniforms(SEEDS, POSITIONS)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert kstest(numbers.flatten().numpy(), "uniform").pvalue > 0.01
    assert numbers.unique().numel() == numbers.numel()


@pytest.mark.parametrize(("seed_step", "position_step"), [(1, 0), (0, 1), (1, 1), (1, -1), (2, 0)])
def test_neighbouring_seeds_and_positions_are_uncorrelated(
    seed_step: int, position_step: int
) -> None:
    here = uniforms(SEEDS, POSITIONS + 1).flatten()
    there = uniforms(SEEDS + seed_step, POSITIONS + 1 + position_step).flatten()
    for f in (lambda u: u, lambda u: (u - 0.5).abs(), lambda u: (u * 2**20) % 1):
        correlation = torch.corrcoef(torch.stack([f(here), f(there)]))[0, 1]
        assert abs(correlation) < 4 / math.sqrt(here.numel())


def test_seeds_of_any_size_give_different_numbers() -> None:
    seeds = torch.tensor([0, 1, -1, 2**31, 2**32, 2**62, 2**63 - 1, -(2**63)])
    numbers = uniforms(seeds[:, None], torch.arange(4))
    assert numbers.unique().numel() == 32


def test_a_uniform_falls_on_the_token_whose_share_holds_it() -> None:
    logits = torch.tensor([0.2, 0.0, 0.5, 0.3]).log()
    at = torch.tensor([0.0, 0.19, 0.21, 0.69, 0.71, 1 - 2**-53], dtype=torch.float64)[:, None]
    tokens = choose(weigh(logits.repeat(6, 1)), at, 1.0, 1.0)
    assert tokens[:, 0].tolist() == [0, 0, 2, 2, 3, 3]


@pytest.mark.parametrize("vocabulary", [7, 5000, 4096 + 128])
@pytest.mark.parametrize("last", [0.0, 1 - 2**-53])
def test_a_token_of_probability_zero_is_never_drawn(vocabulary: int, last: float) -> None:
    """At either end of the unit interval, and in a block that has one possible token."""
    logits = torch.full((1, vocabulary), -torch.inf)
    logits[0, vocabulary // 2] = -3.0
    token = choose(weigh(logits), torch.tensor([[last]], dtype=torch.float64), 1.0, 1.0)
    assert token.item() == vocabulary // 2


@pytest.mark.parametrize("vocabulary", [4097, 5000, 32000])
def test_searching_a_wide_vocabulary_by_blocks_finds_the_same_token(vocabulary: int) -> None:
    torch.manual_seed(0)
    logits = 4 * torch.randn(64, vocabulary)
    logits[torch.rand_like(logits) < 0.1] = -torch.inf
    uniform = uniforms(torch.arange(64)[:, None], torch.zeros(1, 1, dtype=torch.long))
    tokens = choose(weigh(logits.clone()), uniform, 1.0, 1.0)
    cumulative = logits.double().softmax(-1).cumsum(-1)
    assert torch.equal(tokens, torch.searchsorted(cumulative, uniform, right=True))


def test_frequencies_are_the_probabilities() -> None:
    torch.manual_seed(1)
    logits = 2 * torch.randn(1, 12)
    counts = drawn(logits, 60_000)
    assert chi_square_p(counts, logits[0].softmax(-1)) > 0.01
    assert chi_square_p(counts, (1.02 * logits[0]).softmax(-1)) < 0.001, "the test has no power"


def test_temperature_sharpens_before_the_draw() -> None:
    torch.manual_seed(2)
    logits = 2 * torch.randn(1, 12)
    counts = drawn(logits, 60_000, temperature=0.7)
    powers = logits[0].softmax(-1) ** (1 / 0.7)
    assert chi_square_p(counts, powers / powers.sum()) > 0.01


def nucleus(probabilities: list[float], top_p: float) -> list[float]:
    """By the definition: most likely first, until their sum reaches top_p (Holtzman et al., 2020)."""
    kept, total = [0.0] * len(probabilities), 0.0
    for token in sorted(range(len(probabilities)), key=lambda t: -probabilities[t]):
        if total < top_p:
            kept[token] = probabilities[token]
            total += probabilities[token]
    return [p / sum(kept) for p in kept]


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 0.8), (0.7, 0.8), (1.0, 0.3)])
def test_frequencies_are_those_of_the_nucleus(temperature: float, top_p: float) -> None:
    torch.manual_seed(3)
    logits = 1.5 * torch.randn(1, 12)
    probabilities = (logits[0].double() / temperature).softmax(-1).tolist()
    counts = drawn(logits, 60_000, temperature, top_p)
    assert chi_square_p(counts, torch.tensor(nucleus(probabilities, top_p))) > 0.01


def test_temperature_zero_takes_the_most_likely_token() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0], [5.0, -1.0, 4.9]])
    uniform = torch.full((2, 1), 0.999, dtype=torch.float64)
    assert choose(weigh(logits), uniform, 0.0, 0.5)[:, 0].tolist() == [1, 0]


@given(
    st.lists(st.floats(-60, 60, width=32), min_size=2, max_size=9),
    st.integers(0, 2**62),
)
def test_records_are_those_of_the_normalised_distribution(values: list[float], seed: int) -> None:
    logits = torch.tensor([values])
    uniform = uniforms(torch.tensor([[seed]]), torch.tensor([[0]]))
    weighed = weigh(logits.clone())
    token = choose(weighed, uniform, 1.0, 1.0)
    recorded = record(weighed, token, 2)
    p = [math.exp(v - max(values)) for v in values]
    p = [x / sum(p) for x in p]
    assert recorded.log_prob.item() == pytest.approx(math.log(p[token.item()]), abs=1e-5)
    entropy = -sum(x * math.log(x) for x in p if x > 0)
    assert recorded.entropy.item() == pytest.approx(entropy, abs=1e-5)
    best = sorted(values, reverse=True)[:2]
    # Values closer than float32 tells apart once shifted are ties.
    assert [values[t] for t in recorded.candidates[0].tolist()] == pytest.approx(best, abs=1e-5)


def test_impossible_tokens_leave_the_entropy_finite() -> None:
    logits = torch.tensor([[0.0, -torch.inf, 0.0, -torch.inf]])
    recorded = record(weigh(logits), torch.tensor([[2]]), 2)
    assert recorded.entropy.item() == pytest.approx(math.log(2))
    assert recorded.log_prob.item() == pytest.approx(-math.log(2))
    assert sorted(recorded.candidates[0].tolist()) == [0, 2]


@pytest.mark.parametrize("vocabulary", [4097, 5000, 32000])
@pytest.mark.parametrize("top_k", [0, 1, 8, 40])
def test_candidates_of_a_wide_vocabulary_are_its_most_likely(vocabulary: int, top_k: int) -> None:
    torch.manual_seed(4)
    logits = torch.randn(5, vocabulary)
    logits[0, -9:] += 9.0
    recorded = record(weigh(logits.clone()), torch.zeros(5, 1, dtype=torch.long), top_k)
    assert torch.equal(recorded.candidates, logits.topk(top_k).indices)


def by_whole_sort(logits: torch.Tensor, uniform: torch.Tensor, top_p: float) -> torch.Tensor:
    """The slow way: all entries sorted, every sum in float64."""
    weights, order = weigh(logits.clone()).weights.sort(stable=True, descending=True)
    total = weights.cumsum(-1, dtype=torch.float64)
    kept = weights.double().masked_fill(total - weights >= top_p * weights.sum(-1, True), 0)
    target = uniform * kept.sum(-1, True)
    return order.gather(-1, torch.searchsorted(kept.cumsum(-1), target, right=True))


@pytest.mark.parametrize("vocabulary", [1024, 1025, 5000, 32_000])
@pytest.mark.parametrize("top_p", [0.1, 0.95, 0.9999])
def test_a_nucleus_among_the_largest_entries_is_that_of_all(vocabulary: int, top_p: float) -> None:
    """Rows from flat, whose nucleus is wider than what is sorted first, to peaked; ties everywhere."""
    torch.manual_seed(4)
    spread = torch.tensor([0.0, 0.01, 1.0, 3.0, 6.0]).repeat_interleave(12)[:, None]
    logits = spread * torch.randn(60, vocabulary)
    logits[1::3] = logits[1::3].round()
    logits[2::3, ::7] = -torch.inf
    uniform = uniforms(torch.arange(60)[:, None], torch.zeros(1, 1, dtype=torch.long))
    expected = by_whole_sort(logits, uniform, top_p)
    assert torch.equal(choose(weigh(logits.clone()), uniform, 1.0, top_p), expected)


def test_ties_at_the_edge_of_what_is_sorted_first_keep_their_order() -> None:
    logits = torch.zeros(1, 5000)
    logits[0, 4000:4500] = 1.0
    for at in (0.0, 0.5, 0.999):
        uniform = torch.tensor([[at]], dtype=torch.float64)
        expected = by_whole_sort(logits, uniform, 0.5)
        assert torch.equal(choose(weigh(logits.clone()), uniform, 1.0, 0.5), expected)


def test_more_candidates_than_tokens_are_refused_in_words() -> None:
    with pytest.raises(DataError, match=r"6 candidates \(top_k\) .* there are 5 tokens"):
        record(weigh(torch.zeros(1, 5)), torch.zeros(1, 1, dtype=torch.long), 6)
