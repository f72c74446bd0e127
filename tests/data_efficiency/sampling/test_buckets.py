"""Every kind of order has each rank in one bucket, and plays buckets as its name says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_efficiency.config import Order
from data_efficiency.sampling.buckets import make_buckets

FOLDING = ("folded", "saw", "interleaved")
ORDERS = st.builds(
    lambda kind, buckets, folds, stages: Order(
        kind=kind,
        num_buckets=buckets,
        num_folds=folds if kind in FOLDING else None,
        stages=tuple(stages) if kind == "stages" else None,
    ),
    st.sampled_from(["ascending", "descending", *FOLDING, "stages"]),
    st.integers(1, 9),
    st.integers(2, 9),
    st.lists(
        st.tuples(st.sampled_from(["shuffled", "ascending", "descending"]), st.integers(1, 40)),
        min_size=1,
        max_size=4,
    ),
)


def played(order, num_ranks, groups=None):
    """The ranks of each bucket, in the order in which they are played."""
    buckets = make_buckets(order, num_ranks, groups)
    return [
        buckets.ranks(np.full(count, number), np.arange(count)).tolist()
        for number, count in enumerate(buckets.sizes.tolist())
    ]


@given(ORDERS, st.integers(1, 200))
def test_each_rank_is_in_one_bucket(order, num_ranks):
    found = played(order, num_ranks)
    assert all(found)
    assert sorted(rank for bucket in found for rank in bucket) == [*range(num_ranks)]


@pytest.mark.parametrize(
    ("order", "buckets"),
    [
        ({"kind": "ascending", "num_buckets": 3}, [[0, 1], [2, 3, 4], [5, 6, 7]]),
        ({"kind": "descending", "num_buckets": 3}, [[5, 6, 7], [2, 3, 4], [0, 1]]),
        ({"kind": "folded", "num_folds": 2, "num_buckets": 2}, [[0, 2], [4, 6], [1, 3], [5, 7]]),
        ({"kind": "saw", "num_folds": 2, "num_buckets": 2}, [[0, 2], [4, 6], [5, 7], [1, 3]]),
        ({"kind": "interleaved", "num_folds": 3, "num_buckets": 9}, [[0, 2, 4], [1, 3, 5], [6, 7]]),
        (
            {"kind": "stages", "stages": (("shuffled", 1), ("ascending", 1)), "num_buckets": 2},
            [[0, 2, 4, 6], [1, 3], [5, 7]],
        ),
        (
            {"kind": "stages", "stages": (("descending", 1), ("shuffled", 1)), "num_buckets": 9},
            [[6], [4], [2], [0], [1, 3, 5, 7]],
        ),
    ],
)
def test_what_each_kind_plays(order, buckets):
    assert played(Order(**order), 8) == buckets


def test_stages_of_unequal_shares_and_ranks_that_fill_no_run():
    order = Order(kind="stages", stages=(("ascending", 2), ("descending", 1)), num_buckets=2)
    assert played(order, 11) == [[0, 1], [3, 6, 4, 7], [9, 10], [5, 8], [2]]


@given(st.lists(st.integers(60, 300), min_size=2, max_size=3), st.integers(10_000, 10**6))
def test_a_stage_has_its_share_of_all_ranks(shares, num_ranks):
    order = Order(kind="stages", stages=tuple(("ascending", share) for share in shares))
    buckets = make_buckets(order, num_ranks)
    firsts = np.append(np.flatnonzero(np.diff(buckets.first) < 0) + 1, len(buckets.first))
    sizes = np.diff(np.append(0, np.cumsum(buckets.sizes)[firsts - 1]))
    # Shares are kept to a part of about the root of the ranks.
    assert len(sizes) == len(shares)
    wanted = num_ranks * np.array(shares) / sum(shares)
    assert np.abs(sizes - wanted).max() <= num_ranks / 99 + sum(shares)


def test_as_many_buckets_as_ranks_sort_strictly():
    assert played(Order(num_buckets=1000), 7) == [[rank] for rank in range(7)]


def test_groups_are_the_buckets_and_empty_ones_are_none():
    groups = np.array([2, 0, 1, 3])
    assert played(Order(), 6, groups) == [[0, 1], [2], [3, 4, 5]]
    assert played(Order(kind="descending"), 6, groups) == [[3, 4, 5], [2], [0, 1]]
    sequence = Order(kind="sequence", sequence=(2, 3, 1, 0))
    assert played(sequence, 6, groups) == [[2], [3, 4, 5], [0, 1]]


@given(ORDERS, st.integers(200, 2000))
def test_the_middle_rank_is_about_the_mean_of_the_bucket(order, num_ranks):
    buckets = make_buckets(order, num_ranks)
    means = [np.mean(ranks) for ranks in played(order, num_ranks)]
    middle = buckets.middle_ranks(np.arange(len(means)))
    # Within half a step of what is spread over the bucket.
    assert (np.abs(middle - means) <= np.maximum(1, buckets.stride / 2 + 1)).all()
