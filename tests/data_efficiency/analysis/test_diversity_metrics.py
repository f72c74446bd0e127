"""MTLD and compressed bytes against loops over single samples."""

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_efficiency.analysis.diversity_metrics import (
    compressed_shares,
    compression_ratio,
    lexical_diversity,
    mtld,
)
from data_efficiency.analysis.metrics import TokenBatch
from tests.data_efficiency.analysis.token_batches import batches, samples_of


def factors(tokens):
    """As published, token by token, in whole numbers."""
    number, types, count = 0, set(), 0
    for token in tokens:
        types.add(token)
        count += 1
        if 100 * len(types) <= 72 * count:
            number, types, count = number + 1, set(), 0
    return number + ((1 - len(types) / count) / (1 - 0.72) if count else 0)


def mtld_of(tokens):
    if len(set(tokens)) == len(tokens):
        return len(tokens)
    means = [len(tokens) / factors(order) for order in (tokens, tokens[::-1])]
    return sum(means) / 2


@settings(max_examples=300, deadline=None)
@given(batches(st.integers(1, 60)))
def test_mtld_equals_a_loop(batch):
    expected = [mtld_of(sample) for sample in samples_of(batch)]
    assert np.allclose(mtld(batch), expected, rtol=1e-12, atol=0)


def test_mtld_of_long_samples():
    """Skewed tokens as in text, 2,000 in a sample, with padding between the rows."""
    generator = np.random.default_rng(0)
    tokens = np.minimum(generator.zipf(1.3, 9000) - 1, 9999).astype(np.uint16)
    batch = TokenBatch(tokens, np.array([0, 2000, 3000]), np.array([2000, 1000, 6000]))
    assert np.allclose(mtld(batch), [mtld_of(sample) for sample in samples_of(batch)])


def test_repetition_is_easy_and_variety_hard():
    tokens = np.concatenate([np.tile([1, 2], 50), np.arange(100) % 40, np.arange(100)])
    batch = TokenBatch(tokens.astype(np.uint16), np.arange(3) * 100, np.full(3, 100))
    for function in (mtld, compressed_shares):
        values = function(batch)
        assert values[0] < values[1] < values[2]
    assert mtld(batch)[2] == 100


@settings(max_examples=100, deadline=None)
@given(batches(st.integers(1, 60)))
def test_compression_equals_a_loop(batch):
    dtype = "<u2" if batch.tokens.dtype.itemsize < 4 else "<u4"
    expected = []
    for sample in samples_of(batch):
        content = np.array(sample, dtype).tobytes()
        expected.append(len(zlib.compress(content, 6)) / len(content) if content else 0.0)
    assert compressed_shares(batch).tolist() == expected


@pytest.mark.parametrize("metric", [compression_ratio(), lexical_diversity()])
def test_metrics_are_real_valued(metric):
    assert (metric.kind, metric.dtype) == ("single_value_per_sample", "float32")
    assert metric.function(TokenBatch(np.array([1, 1]), np.array([0]), np.array([2])))[0] > 0
