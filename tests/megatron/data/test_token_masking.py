import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_efficiency import IGNORED_LABEL
from data_efficiency.hashing import hash_numbers
from megatron.data.token_masking import mask_tokens

MASK, VOCAB_SIZE = 4, 1000


def masked(tokens, may_be_masked, mask_prob=0.15, seed=0, continuations=None):
    keys = hash_numbers(seed, np.arange(len(tokens)))
    return mask_tokens(
        tokens,
        may_be_masked,
        keys,
        mask_prob=mask_prob,
        mask_token=MASK,
        vocab_size=VOCAB_SIZE,
        continuations=continuations,
    )


@given(st.integers(0, 2**31), st.lists(st.integers(0, 40), min_size=1, max_size=8), st.floats(0, 1))
def test_a_rounded_share_of_each_row_is_chosen(seed, num_allowed, mask_prob):
    length = 40
    tokens = np.random.default_rng(seed).integers(5, VOCAB_SIZE, (len(num_allowed), length))
    may_be_masked = np.arange(length) < np.array(num_allowed)[:, None]
    hidden, labels = masked(tokens, may_be_masked, mask_prob, seed)
    chosen = labels != IGNORED_LABEL
    assert np.array_equal(labels[chosen], tokens[chosen])
    assert np.array_equal(np.where(chosen, labels, hidden), tokens)
    assert not (chosen & ~may_be_masked).any()
    for allowed, num_chosen in zip(num_allowed, chosen.sum(1).tolist(), strict=True):
        least = 1 if allowed and mask_prob > 0 else 0
        assert num_chosen == max(least, int(np.rint(allowed * mask_prob)))


def test_eight_in_ten_are_hidden_and_one_in_ten_is_any_token():
    tokens = np.random.default_rng(0).integers(5, VOCAB_SIZE, (400, 512))
    hidden, labels = masked(tokens, np.ones_like(tokens, bool))
    chosen = labels != IGNORED_LABEL
    assert chosen.sum() == 400 * 77
    becomes, was = hidden[chosen], labels[chosen]
    assert abs((becomes == MASK).mean() - 0.8) < 0.01
    assert abs((becomes == was).mean() - 0.1) < 0.01
    others = becomes[(becomes != MASK) & (becomes != was)]
    assert abs(len(others) / len(was) - 0.1) < 0.01
    assert others.min() < 20
    assert others.max() > VOCAB_SIZE - 20
    # Every position is as likely as any other.
    assert abs(chosen.mean(0) - 0.15).max() < 0.09


@pytest.mark.parametrize("mask_prob", [0.1, 0.5, 1.0])
def test_whole_words_are_chosen_together_and_not_too_many(mask_prob):
    rng = np.random.default_rng(1)
    continuations = np.arange(VOCAB_SIZE) % 3 == 0
    tokens = rng.integers(5, VOCAB_SIZE, (200, 30))
    may_be_masked = np.ones_like(tokens, bool)
    may_be_masked[:, [0, 14, 29]] = False
    tokens[:, [0, 14, 29]] = 1
    _, labels = masked(tokens, may_be_masked, mask_prob, continuations=continuations)
    chosen = labels != IGNORED_LABEL
    goes_on = continuations[tokens[:, 1:]] & may_be_masked[:, 1:] & may_be_masked[:, :-1]
    assert np.array_equal(chosen[:, 1:][goes_on], chosen[:, :-1][goes_on])
    assert chosen.sum(1).max() <= round(27 * mask_prob)
    assert chosen.sum(1).mean() > 27 * mask_prob * 0.75
