"""The table of a pass: shares to the step, odds as said in each cycle, the same for the same seed alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_efficiency import ConfigError
from data_efficiency.config import LengthBuckets
from data_efficiency.sampling.length_buckets import bucket_table, steps_of_buckets

LENGTHS = (2, 4, 8, 16)


def buckets_of(sizes=(400, 100, 60, 40), **keys):
    return LengthBuckets(lengths=LENGTHS[: len(sizes)], sizes=tuple(sizes), **keys)


@given(
    st.lists(st.integers(0, 500), min_size=2, max_size=4).filter(any),
    st.integers(1, 4),
    st.sampled_from(["natural", "uniform"]),
    st.integers(50, 300) | st.none(),
)
def test_a_pass_has_each_bucket_as_often_as_its_share(sizes, base, token_shares, pass_steps):
    buckets = buckets_of(sizes, token_shares=token_shares, pass_steps=pass_steps)
    steps = steps_of_buckets(buckets, base)
    table = bucket_table(buckets, base, seed=1)
    assert np.bincount(table, minlength=len(sizes)).tolist() == steps.tolist()
    shares = np.array(buckets.shares_of_buckets())
    whole = [
        size / (base * LENGTHS[len(sizes) - 1] / length)
        for size, length in zip(sizes, LENGTHS, strict=False)
    ]
    if pass_steps is not None:
        assert len(table) == pass_steps
        assert np.abs(steps - pass_steps * shares).max() < 1
    elif token_shares == "natural":
        # As many as the rows are enough for, and one where there are any.
        nearest = np.abs(steps - whole) <= 0.5
        assert (nearest | (steps == 1)).all()
        assert all(step > 0 for step, size in zip(steps, sizes, strict=True) if size)
    assert not steps[np.array(sizes) == 0].any()


@given(
    st.lists(st.integers(1, 40), min_size=4, max_size=4),
    st.integers(1, 3),
    st.integers(0, 9),
)
def test_within_a_cycle_buckets_are_drawn_by_their_odds(odds, num_cycles, seed):
    """At any place of a cycle the buckets have had min(1, odds x one common time) of their steps, to a step."""
    buckets = buckets_of(odds=tuple(map(float, odds)), num_cycles=num_cycles, pass_steps=240)
    table = bucket_table(buckets, 1, seed)
    steps = steps_of_buckets(buckets, 1)
    in_cycles = [
        [(c * 8 * s + (2 * n + 1) * num_cycles) // (8 * num_cycles) for n, s in enumerate(steps)]
        for c in range(num_cycles + 1)
    ]
    ends = [sum(one) for one in in_cycles]
    assert [ends[0], ends[-1]] == [0, 240]
    assert np.abs(np.diff(ends) - 240 / num_cycles).max() <= 2
    for first, last in zip(ends, ends[1:], strict=False):
        cycle = table[first:last]
        count = np.bincount(cycle, minlength=4)
        done = np.cumsum(cycle[:, None] == np.arange(4), axis=0)  # [steps, buckets]
        low = (done - 1) / (count * odds)
        high = np.where(done < count, (done + 1) / (count * odds), np.inf)
        assert (low.max(1) <= high.min(1) + 1e-9).all()
        assert (np.abs(count - steps / num_cycles) < 1).all()


@pytest.mark.parametrize(
    ("odds", "expected"),
    [("grow_p2", (8, 4, 2, 1)), ("grow_linear", (4, 3, 2, 1)), ("uniform", (1, 1, 1, 1))],
)
def test_the_first_steps_of_a_cycle_are_in_the_published_odds(odds, expected):
    buckets = buckets_of(
        odds=odds, token_shares=(1.0, 1.0, 1.0, 1.0), num_cycles=2, pass_steps=80000
    )
    table = bucket_table(buckets, 1, seed=3)
    for first in (0, 40000):
        drawn = np.bincount(table[first : first + 4000], minlength=4) / 4000
        assert drawn == pytest.approx(np.array(expected) / sum(expected), abs=1e-3)
    if odds == "grow_p2":
        assert set(table[39000:40000]) == {3}


def test_steps_that_lie_evenly_apart_in_time_see_all_buckets():
    """Every tenth step, as a log has them, draws as all do: no pattern is repeated."""
    table = bucket_table(buckets_of(token_shares=(1.0, 1.0, 1.0, 1.0), pass_steps=40000), 1, seed=0)
    for place in range(10):
        assert np.bincount(table[place::10], minlength=4) / 4000 == pytest.approx(0.25, abs=0.04)


def test_the_table_is_a_function_of_the_seed():
    buckets = buckets_of(pass_steps=100)
    assert bucket_table(buckets, 1, 5).tolist() == bucket_table(buckets, 1, 5).tolist()
    assert bucket_table(buckets, 1, 5).tolist() != bucket_table(buckets, 1, 6).tolist()


def test_what_cannot_be_planned_is_told():
    with pytest.raises(ConfigError, match="num_cycles is 9, but a pass has 2 steps"):
        steps_of_buckets(buckets_of((4, 2), num_cycles=9), 2)
    shares = LengthBuckets(lengths=(2, 4), token_shares=(1.0, 1.0))
    with pytest.raises(
        ConfigError, match="how many steps a pass has is not known without the data"
    ):
        steps_of_buckets(shares, 2)
