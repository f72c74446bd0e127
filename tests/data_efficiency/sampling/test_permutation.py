import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_efficiency.hashing import hash_numbers
from data_efficiency.sampling.permutation import permute


def permutation(size, *key_parts):
    keys = np.repeat(hash_numbers(*key_parts), size)
    return permute(np.arange(size), np.full(size, size), keys)


@given(st.integers(1, 3000), st.integers(0, 2**40), st.integers(0, 50))
def test_each_number_comes_once(size, seed, visit):
    assert np.array_equal(np.sort(permutation(size, seed, visit)), np.arange(size))


def test_mixed_permutations_in_one_call_equal_separate_calls():
    sizes = np.array([1, 7, 100, 12345])
    clusters = np.repeat(np.arange(4), 500)
    positions = np.concatenate([np.arange(500) % size for size in sizes])
    together = permute(positions, sizes[clusters], hash_numbers(3, clusters, 0))
    for number, size in enumerate(sizes):
        alone = permutation(size, 3, number, 0)
        assert np.array_equal(together[clusters == number], alone[positions[clusters == number]])


def test_very_large_permutations_stay_inside():
    size = 2**40 + 12345
    positions = np.arange(1000) * (size // 1000)
    places = permute(positions, np.full(1000, size), np.repeat(hash_numbers(1), 1000))
    assert len(set(places.tolist())) == 1000
    assert places.min() >= 0
    assert places.max() < size
    # Spread evenly: the mean of 1000 uniform numbers lies within 5 standard errors of the middle.
    assert abs(places.mean() / size - 0.5) < 5 / math.sqrt(12 * 1000)


@pytest.mark.parametrize("size", [3, 4, 5])
def test_all_orders_of_few_elements_are_equally_likely(size):
    orders = list(itertools.permutations(range(size)))
    trials = 400 * len(orders)
    keys = hash_numbers(7, np.arange(trials))
    columns = [permute(np.full(trials, i), np.full(trials, size), keys) for i in range(size)]
    rows = [tuple(row) for row in np.stack(columns, 1).tolist()]
    counts = np.array([rows.count(order) for order in orders])
    chi_square = ((counts - 400) ** 2 / 400).sum()
    freedom = len(orders) - 1
    assert chi_square < freedom + 5 * math.sqrt(2 * freedom)


def test_neighbouring_keys_give_unrelated_orders():
    first, second = permutation(1000, 1, 0), permutation(1000, 1, 1)
    # Two unrelated orders agree in one place on average.
    assert (first == second).sum() < 10
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.15
