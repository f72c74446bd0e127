import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_efficiency.schedule.exponential import ExponentialFall
from data_efficiency.schedule.registry import kept_rows_kinds, kind_of

FALLS = st.builds(
    lambda low, more, rate: ExponentialFall(
        min_difficulty=low, max_difficulty=low + more, rate=rate
    ),
    st.integers(1, 100),
    st.integers(0, 100),
    st.floats(1e-4, 2),
)


@given(FALLS, st.integers(0, 5000))
def test_the_fall_is_the_published_formula_rounded(fall, step):
    span = fall.max_difficulty - fall.min_difficulty
    exact = fall.min_difficulty + span * math.exp(-fall.rate * step)
    assert abs(fall.difficulty(step) - exact) <= 0.5 + 1e-9
    assert fall.difficulty(0) == fall.max_difficulty


@given(FALLS, st.integers(0, 3000))
def test_the_next_change_is_the_first_one(fall, step):
    change, now = fall.next_change(step), fall.difficulty(step)
    if change is None:
        assert fall.difficulty(10**9) == now
        return
    assert fall.difficulty(change) < now
    assert fall.difficulty(change - 1) == now


def test_no_rate_never_falls():
    still = ExponentialFall(min_difficulty=50, max_difficulty=100, rate=0.0)
    assert (still.difficulty(10**9), still.next_change(0)) == (100, None)


def test_it_has_a_name_and_tells_its_course():
    fall = ExponentialFall(min_difficulty=50, max_difficulty=100, rate=0.001)
    assert kind_of(fall) == ("exponential", ())
    assert kept_rows_kinds()["exponential"] is ExponentialFall
    assert fall.describe() == "from 100 towards 50, exponentially by 0.001"


@pytest.mark.parametrize("rate", [0.001, 0.3])
def test_the_fall_comes_to_its_end(rate):
    fall = ExponentialFall(min_difficulty=50, max_difficulty=100, rate=rate)
    step, changes = 0, 0
    while (step := fall.next_change(step)) is not None:
        changes += 1
    assert 1 <= changes <= 50
