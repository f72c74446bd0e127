"""Token counts and rarities against loops over single samples."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_efficiency.analysis.metrics import (
    TokenBatch,
    count_tokens,
    negative_log_probabilities,
    rarities,
    seqlen,
    seqlen_vocab_rarity,
    sum_over_spans,
    total_vocab_freq,
    vocab_rarity,
)
from tests.data_efficiency.analysis.token_batches import batches, samples_of

VOCAB_SIZE = 12


@settings(max_examples=300, deadline=None)
@given(batches(st.just(VOCAB_SIZE)))
def test_counts_equal_a_loop(batch):
    expected = [0] * (VOCAB_SIZE + 1)
    for sample in samples_of(batch):
        for token in sample:
            expected[token] += 1
    counts = count_tokens(batch, VOCAB_SIZE)
    assert counts.dtype == np.int64
    assert counts.tolist() == expected


@settings(max_examples=300, deadline=None)
@given(batches(st.just(VOCAB_SIZE)), st.lists(st.integers(0, 1000), min_size=13, max_size=13))
def test_rarities_equal_a_loop(batch, frequency):
    total = sum(max(1, count) for count in frequency)
    sums = [
        math.fsum(-math.log(max(1, frequency[token]) / total) for token in sample)
        for sample in samples_of(batch)
    ]
    table = negative_log_probabilities(np.array(frequency))
    found = sum_over_spans(batch, table)
    assert np.allclose(found, sums, rtol=1e-12, atol=1e-12)
    values = rarities(batch, table)
    assert values.dtype == np.int64
    for value, expected in zip(values.tolist(), sums, strict=True):
        is_near_integer = abs(expected - round(expected)) < 1e-9
        assert value == math.floor(expected) or (
            is_near_integer and abs(value - expected) < 1.0 + 1e-9
        )


def test_precision_over_long_samples():
    """A million tokens: single precision would be off by several units."""
    tokens = np.random.default_rng(1).integers(0, 1000, 2_000_000).astype(np.uint16)
    batch = TokenBatch(tokens, np.array([0, 500_000]), np.array([1_500_000, 1_500_000]))
    table = negative_log_probabilities(np.arange(1001))
    expected = [math.fsum(table[tokens[s : s + 1_500_000]]) for s in (0, 500_000)]
    assert np.allclose(sum_over_spans(batch, table), expected, rtol=0, atol=1e-5)


def test_unseen_tokens_count_as_seen_once():
    table = negative_log_probabilities(np.array([0, 7, 2]))
    assert np.allclose(table, -np.log(np.array([1, 7, 2]) / 10))


@pytest.mark.parametrize(("token", "dtype"), [(9, "uint16"), (-1, "int32")])
def test_tokens_outside_the_vocabulary_are_refused(token, dtype):
    batch = TokenBatch(np.array([1, token], dtype=dtype), np.array([0]), np.array([2]))
    message = rf"token {token} is outside the vocabulary of 8 entries; give the size"
    with pytest.raises(ValueError, match=message):
        count_tokens(batch, 8)
    with pytest.raises(ValueError, match=message):
        rarities(batch, np.zeros(9))


def test_metrics_as_published():
    batch = TokenBatch(np.array([1, 2, 2, 0]), np.array([0, 2]), np.array([2, 2]))
    frequency = total_vocab_freq(4)
    assert frequency.kind == "accumulate_value_over_samples"
    counts = frequency.function(batch)
    assert counts.tolist() == [1, 1, 2, 0, 0]
    rarity = vocab_rarity(counts, {"origin": "x"})
    assert (rarity.kind, rarity.reads) == ("single_value_per_sample", "token_spans")
    assert rarity.parameters == {"origin": "x"}
    # p = 1/6, 1/6, 2/6, 1/6, 1/6
    assert rarity.function(batch).tolist() == [
        math.floor(math.log(6) + math.log(3)),
        math.floor(math.log(3) + math.log(6)),
    ]


def test_length_is_what_a_sample_holds():
    batch = TokenBatch(np.arange(9), np.array([0, 4, 4]), np.array([3, 0, 5]))
    assert seqlen().function(batch).tolist() == [3, 0, 5]


def test_length_comes_before_rarity():
    """C = 10^(ceil(log10(5 * ln 12)) + 1): 5 * 2.48 is 12.4, so C is 1000."""
    frequency = np.array([1, 10, 1])
    metric = seqlen_vocab_rarity(frequency, max_length=5, parameters={"origin": "x"})
    batch = TokenBatch(np.array([1, 1, 0, 2, 2]), np.array([0, 2, 2]), np.array([2, 1, 2]))
    rarities_expected = [
        math.floor(2 * math.log(12 / 10)),
        math.floor(math.log(12)),
        math.floor(2 * math.log(12)),
    ]
    expected = [1000 * length + r for length, r in zip([2, 1, 2], rarities_expected, strict=True)]
    assert metric.function(batch).tolist() == expected
    assert metric.parameters == {"origin": "x", "max_length": 5}
    with pytest.raises(ValueError, match="max_length is 0: at least 1"):
        seqlen_vocab_rarity(frequency, max_length=0)
    with pytest.raises(ValueError, match="samples of up to 10000000000 tokens does not fit 64"):
        seqlen_vocab_rarity(frequency, max_length=10**10)


def test_largest_rarity_never_reaches_the_next_length():
    frequency = np.array([0, 10**9])
    metric = seqlen_vocab_rarity(frequency, max_length=100)
    batch = TokenBatch(np.zeros(100, int), np.array([0, 0]), np.array([99, 100]))
    longer = metric.function(batch)
    common = metric.function(TokenBatch(np.ones(100, int), np.array([0]), np.array([100])))
    assert longer[0] < common[0] < longer[1]
