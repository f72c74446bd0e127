import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_efficiency.hashing import below, happens, hash_numbers

INTEGERS = st.integers(-(2**63), 2**63 - 1)


@given(st.lists(INTEGERS, min_size=1, max_size=20), INTEGERS)
def test_a_number_depends_on_its_own_parts_alone(counters, seed):
    together = hash_numbers(seed, 7, np.array(counters))
    alone = [hash_numbers(seed, 7, np.array([counter]))[0] for counter in counters]
    assert together.tolist() == alone
    grid = hash_numbers(seed, np.arange(3)[:, None], np.array(counters))
    assert grid.shape == (3, len(counters))
    assert grid[2].tolist() == hash_numbers(seed, 2, np.array(counters)).tolist()


def test_numbers_are_distinct_and_spread_evenly():
    hashes = hash_numbers(5, np.arange(300)[:, None], np.arange(300))
    assert len(np.unique(hashes)) == 90_000
    for part in (hashes, hashes.T, hash_numbers(np.arange(90_000), 1)):
        counts = np.bincount(below(part.ravel(), 10), minlength=10)
        # Nine degrees of freedom: above 30 once in 2,000 times.
        assert ((counts - 9000) ** 2 / 9000).sum() < 30
    bits = (hashes.ravel()[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
    assert np.abs(bits.mean(0) - 0.5).max() < 0.01
    assert np.abs(np.corrcoef(hashes[:, 0] / 2**64, hashes[:, 1] / 2**64)[0, 1]) < 0.2


@given(st.integers(0, 2**64 - 1), st.integers(1, 2**32))
def test_below_stays_below(number, limit):
    assert 0 <= below(np.array([number], np.uint64), limit)[0] < limit


@pytest.mark.parametrize("probability", [0.0, 0.1, 0.5, 1.0])
def test_events_are_as_probable_as_said(probability):
    share = happens(hash_numbers(3, np.arange(100_000)), probability).mean()
    assert abs(share - probability) <= (0.005 if 0 < probability < 1 else 0)
