"""Claims about sampling: Meta's top-p rule, the right frequencies, and nothing but (seed, index) behind the choice."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llama.sampler import sample, uniform
from llama.sampling_params import SamplingParams
from tests.volumes import examples

SEEDS = range(3000)


def probabilities(logits: list[float], temperature: float) -> list[float]:
    """Softmax by Python's own floats."""
    largest = max(logits)
    weights = [math.exp((x - largest) / temperature) for x in logits]
    return [w / math.fsum(weights) for w in weights]


def kept_by_meta(probs: list[float], top_p: float) -> set[int]:
    """Meta's rule read aloud: go down the sorted list, and drop a token when the mass before it exceeds p."""
    kept, before = set(), 0.0
    for i in sorted(range(len(probs)), key=lambda i: -probs[i]):
        if before > top_p:
            break
        kept.add(i)
        before += probs[i]
    return kept


def counts(logits: list[float], temperature: float, top_p: float) -> Counter[int]:
    """How often each id comes out over many seeds."""
    tensor = torch.tensor(logits)
    return Counter(sample(tensor, SamplingParams(temperature, top_p, seed), 0) for seed in SEEDS)


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [
        (0.0, {0}), (0.45, {0}), (0.55, {0, 1}), (0.75, {0, 1}), (0.85, {0, 1, 2}), (0.96, {0, 1, 2, 3}),
        (1.0, {0, 1, 2, 3}),
    ],
)  # fmt: skip
def test_top_p_keeps_what_metas_rule_keeps_on_its_own_example(top_p: float, kept: set[int]) -> None:
    """Probabilities .5 .3 .15 .05: every kept token comes out over many seeds, and no other ever does."""
    probs = [0.5, 0.3, 0.15, 0.05]
    assert kept_by_meta(probs, top_p) == kept
    assert set(counts([math.log(p) for p in probs], 1.0, top_p)) == kept


def test_a_token_whose_preceding_mass_equals_p_exactly_is_kept() -> None:
    """Two tokens of one half and p = 0.5: the mass before the second is not above p."""
    assert set(counts([0.0, 0.0, -math.inf], 1.0, 0.5)) == {0, 1}


@given(
    st.lists(st.floats(-4, 4, width=32), min_size=1, max_size=8),
    st.floats(0.2, 2.0),
    st.floats(0, 1),
)
@examples(0.25)
def test_only_tokens_that_metas_rule_keeps_are_sampled(logits: list[float], temperature: float, top_p: float) -> None:
    """Random logits, temperatures and p, against slow code that was written from the rule."""
    probs = probabilities(logits, temperature)
    kept = kept_by_meta(probs, top_p + 1e-9)  # where a sum falls on p exactly, rounding decides
    tensor = torch.tensor(logits)
    chosen = {sample(tensor, SamplingParams(temperature, top_p, seed), 0) for seed in range(200)}
    assert {probs[i] for i in chosen} <= {probs[i] for i in kept}  # equal probabilities may be swapped


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.6, 0.9), (2.0, 0.7), (0.3, 1.0)])
def test_frequencies_over_many_seeds_are_the_renormalised_probabilities(temperature: float, top_p: float) -> None:
    """Pearson's chi-square over 3000 seeds stays below 30 for at most 7 degrees of freedom (p-value 1e-4)."""
    logits = [1.2, -0.3, 0.8, 2.0, 0.0, -1.0, 0.5, 1.9]
    probs = probabilities(logits, temperature)
    kept = kept_by_meta(probs, top_p)
    mass = math.fsum(probs[i] for i in kept)
    found = counts(logits, temperature, top_p)
    expected = {i: len(SEEDS) * probs[i] / mass for i in kept}
    assert set(found) <= kept
    assert sum((found[i] - e) ** 2 / e for i, e in expected.items()) < 30


def test_the_ids_along_one_reply_are_as_well_spread_as_over_seeds() -> None:
    """One seed, 3000 output indices, four equal tokens: chi-square below 22 for 3 degrees of freedom."""
    logits = torch.zeros(4)
    found = Counter(sample(logits, SamplingParams(1.0, 1.0, 42), i) for i in range(3000))
    assert sum((found[i] - 750) ** 2 / 750 for i in range(4)) < 22


def test_the_same_seed_and_index_give_the_same_id_and_others_do_not_matter() -> None:
    """No hidden state: any order, any number of calls in between, torch's generator at any point."""
    logits = torch.randn(1000, generator=torch.Generator().manual_seed(1))
    sampling = SamplingParams(1.0, 0.95, seed=9)
    forwards = [sample(logits, sampling, i) for i in range(50)]
    torch.manual_seed(0)
    backwards = [sample(logits.clone(), SamplingParams(1.0, 0.95, seed=9), i) for i in reversed(range(50))]
    assert forwards == backwards[::-1]
    assert len(set(forwards)) > 10
    assert forwards != [sample(logits, SamplingParams(1.0, 0.95, seed=10), i) for i in range(50)]


def test_the_uniform_numbers_are_pinned() -> None:
    """BLAKE2b of seed and index as little-endian 64-bit numbers: a change would change every seeded reply."""
    import hashlib

    raw = hashlib.blake2b(bytes([1, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0]), digest_size=8).digest()
    assert uniform(1, 258) == (int.from_bytes(raw, "little") >> 11) * 2.0**-53
    assert all(0 <= uniform(seed, index) < 1 for seed in (0, 1, 2**63 - 1) for index in (0, 1, 2**31))


def test_temperature_0_takes_the_likeliest_and_the_first_of_equals() -> None:
    """Whatever seed and top_p say."""
    logits = torch.tensor([0.0, 3.0, 3.0, 1.0])
    assert {sample(logits, SamplingParams(0.0, p, seed), 5) for p in (0.0, 0.5, 1.0) for seed in range(20)} == {1}


@pytest.mark.parametrize("temperature", [5e-324, 1e-310, 1e-300, 1e-30, 1e-6])
def test_the_smallest_temperatures_do_not_overflow_but_are_greedy(temperature: float) -> None:
    """Large logits divided by nearly nothing."""
    logits = torch.tensor([-100.0, 99.0, 100.0, -3e38])
    assert {sample(logits, SamplingParams(temperature, 0.9, seed), 0) for seed in range(50)} == {2}


def test_large_vocabularies_give_the_ids_of_a_full_sort() -> None:
    """Flat and peaked logits over 5000 ids, where only some cases can be decided among the first 1024."""
    generator = torch.Generator().manual_seed(3)
    for scale in (0.0, 0.5, 4.0):
        logits = torch.randn(5000, generator=generator) * scale + torch.arange(5000) * 1e-5
        probs = torch.softmax(logits.double() / 0.8, -1)
        ranked, ids = probs.sort(descending=True)
        for top_p in (0.1, 0.9, 0.999, 1.0):
            kept = kept_by_meta(ranked.tolist(), top_p)
            total = math.fsum(ranked[i].item() for i in kept)
            for seed in range(20):
                threshold, sum_so_far, expected = uniform(seed, 0) * total, 0.0, max(kept)
                for i in range(len(kept)):
                    sum_so_far += ranked[i].item()
                    if sum_so_far > threshold:
                        expected = i
                        break
                assert sample(logits, SamplingParams(0.8, top_p, seed), 0) == int(ids[expected])
