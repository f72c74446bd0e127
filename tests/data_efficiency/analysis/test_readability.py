"""Counts are those of a sample's text, wherever tokens end."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_efficiency.analysis.metrics import TokenBatch
from data_efficiency.analysis.readability import (
    RUNS,
    FleschDifficulty,
    count_runs,
    readability,
    runs_of_tokens,
    texts_of_tokens,
)

TEXTS = ["", " ", "a", "B", " the", "e", "io", ".", "!?", ". A", "x1y", "né", "_", "I'm", "\n"]


@given(
    st.lists(st.integers(0, len(TEXTS) - 1), max_size=30),
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=5),
)
def test_counts_are_those_of_the_text(tokens, spans):
    starts = np.array([min(start, len(tokens)) for start, _ in spans])
    lengths = np.array([min(n, len(tokens) - s) for (_, n), s in zip(spans, starts, strict=True)])
    # An empty token is no character, so that a run does not go on through it.
    tokens = [token or 1 for token in tokens]
    batch = TokenBatch(np.array(tokens, int), starts, lengths)
    for pattern in RUNS.values():
        found = count_runs(batch, runs_of_tokens(TEXTS, pattern))
        for count, start, length in zip(found, starts, lengths, strict=True):
            text = "".join(TEXTS[token] for token in tokens[start : start + length])
            assert count == len(re.findall(pattern, text.lower()))


def test_a_worked_example():
    texts = ["The", " cat", " sat", ".", " Extra", "ordinarily", " it", " slept", " on"]
    batch = TokenBatch(
        np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 3]), np.array([0, 4, 0]), np.array([4, 6, 0])
    )
    easy, hard, empty = FleschDifficulty(texts)(batch)
    assert easy == pytest.approx(1.015 * 3 + 84.6 * 3 / 3)
    # Extraordinarily, it, slept, on: e-a-o-i-a-i-y has 6 runs of vowels, and the others one each.
    assert hard == pytest.approx(1.015 * 4 + 84.6 * 9 / 4)
    assert empty == 0


def test_words_of_wordpiece_have_a_space_in_front():
    pieces = ["[PAD]", "play", "##ing", "."]
    texts = texts_of_tokens(lambda tokens: pieces[tokens[0]], 4)
    assert texts == [" [PAD]", " play", "ing", " ."]
    batch = TokenBatch(np.array([1, 2, 1, 3]), np.array([0]), np.array([4]))
    assert count_runs(batch, runs_of_tokens(texts, RUNS["words"])).tolist() == [2]


def test_the_metric_knows_its_vocabulary():
    metric = readability(lambda tokens: TEXTS[tokens[0]], len(TEXTS))
    other = readability(lambda tokens: TEXTS[tokens[0]].upper(), len(TEXTS))
    assert other.parameters != metric.parameters
    with pytest.raises(ValueError, match="token 15 is outside the vocabulary of 15 entries"):
        metric.function(TokenBatch(np.array([15]), np.array([0]), np.array([1])))
