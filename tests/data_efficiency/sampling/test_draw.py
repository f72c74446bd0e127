import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_efficiency.sampling.draw import draw_places

sizes_of_clusters = st.lists(st.integers(1, 40), min_size=1, max_size=6)


def boundaries(sizes):
    return np.concatenate([[0], np.cumsum(sizes)])


@given(sizes_of_clusters, st.integers(1, 60), st.integers(1, 30), st.integers(0, 2**32))
def test_each_pass_of_a_cluster_is_a_permutation_of_it(sizes, num_rows, num_steps, seed):
    starts, positions = boundaries(sizes), np.zeros(0, np.int64)
    places, visits = [], []
    for step in range(1, num_steps + 1):
        draw = draw_places(seed, step, starts, positions, num_rows)
        assert draw.positions.sum() == step * num_rows
        positions = draw.positions
        places.append(draw.places)
        visits.append(draw.visits)
    place, visit = np.concatenate(places), np.concatenate(visits)
    for number, size in enumerate(sizes):
        inside = (place >= starts[number]) & (place < starts[number + 1])
        assert inside.sum() == positions[number]
        for one_pass in range(int(positions[number]) // size + 1):
            seen = np.sort(place[inside & (visit == one_pass)])
            whole = np.arange(starts[number], starts[number + 1])
            if one_pass < positions[number] // size:
                assert np.array_equal(seen, whole)
            else:
                assert len(set(seen.tolist())) == len(seen) == positions[number] % size


@given(sizes_of_clusters, st.integers(0, 2**32))
def test_new_clusters_start_at_their_beginning(sizes, seed):
    starts = boundaries(sizes)
    before = np.full(len(sizes) - 1, 5)
    draw = draw_places(seed, 3, starts, before, 20)
    grown = draw.positions - np.append(before, 0)
    assert (grown >= 0).all()
    assert grown.sum() == 20


def test_every_sample_of_the_pool_is_equally_likely():
    starts = boundaries([3, 50, 200, 747])
    positions = np.array([2, 17, 30, 700])
    num_steps, num_rows = 4000, 4
    counts = np.zeros(1000)
    for step in range(1, num_steps + 1):
        # Always from the same positions: what is counted is one draw, not the evenness of a pass.
        places = draw_places(9, step, starts, positions + step * 1009, num_rows).places
        np.add.at(counts, places, 1)
    expected = num_steps * num_rows / 1000
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert abs(chi_square - 999) < 5 * math.sqrt(2 * 999)


def test_the_same_numbers_on_every_machine():
    draw = draw_places(1234, 7, np.array([0, 5, 100]), np.array([4, 90]), 8)
    assert draw.places.tolist() == [36, 24, 28, 15, 2, 76, 69, 41]
    assert draw.visits.tolist() == [0, 0, 0, 0, 0, 0, 1, 1]
