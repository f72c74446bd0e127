import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_efficiency.schedule import RootSchedule


def root(low, high, total, step, degree=1):
    return RootSchedule(
        min_difficulty=low,
        max_difficulty=high,
        total_curriculum_step=total,
        difficulty_step=step,
        root_degree=degree,
    )


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (root(8, 1024, 100, 8), [16, 24, 32, 48, 56, 64, 72, 88, 96, 104, 112, 128]),
        (root(8, 1024, 100, 16), [16, 16, 32, 48, 48, 64, 64, 80, 96, 96, 112, 128]),
        (root(10, 100, 10, 8), [16, 24, 32, 40, 48, 64, 72, 80, 88, 96, 100, 100]),
        (root(1, 100, 10, 1, 2), [32, 45, 55, 63, 71, 77, 83, 89, 94, 100, 100, 100]),
        (
            root(80, 2048, 10, 8),
            [272, 472, 664, 864, 1064, 1256, 1456, 1648, 1848, 2048, 2048, 2048],
        ),
        (root(2, 10, 8, 2), [2, 4, 4, 6, 6, 8, 8, 10, 10, 10]),
    ],
)
def test_published_values(schedule, expected):
    assert [schedule.difficulty(step) for step in range(1, len(expected) + 1)] == expected


def test_published_kept_lengths_start_at_step_zero():
    kept = root(4, 16, 10, 4)
    values = [4, 4, 4, 4, 8, 8, 8, 12, 12, 12, 16, 16, 16]
    assert [kept.difficulty(step) for step in range(13)] == values


def test_never_below_the_first_multiple_of_the_step():
    assert root(8, 1024, 100, 16).difficulty(0) == 16
    assert root(1, 100, 1000, 8).difficulty(1) == 8


schedules = st.builds(
    lambda low, span, total, step, degree: root(low, low + span, total, step, degree),
    st.integers(0, 50),
    st.integers(0, 200),
    st.integers(1, 300),
    st.integers(1, 20),
    st.integers(1, 4),
)


@given(schedules)
def test_monotone_within_bounds_and_multiples_of_the_step(schedule):
    values = [schedule.difficulty(step) for step in range(400)]
    assert values == sorted(values)
    assert max(values) <= schedule.max_difficulty
    assert min(values) >= min(schedule.min_difficulty, schedule.max_difficulty)
    for value in values:
        assert value % schedule.difficulty_step == 0 or value == schedule.max_difficulty


@given(schedules)
def test_corrections_tell_what_the_first_and_the_last_value_really_are(schedule):
    text = " ".join(schedule.corrections)
    first, last = schedule.difficulty(0), schedule.difficulty(schedule.total_curriculum_step)
    assert (f"starts at {first}" in text) == (schedule.first_difficulty != schedule.min_difficulty)
    reached = re.search(r"it is reached at step (\d+)", text)
    if last < schedule.max_difficulty:
        step = int(reached[1])
        assert schedule.difficulty(step) == schedule.max_difficulty
        assert schedule.difficulty(step - 1) < schedule.max_difficulty
    else:
        assert reached is None


@given(schedules, st.integers(0, 300))
def test_the_next_change_is_the_first_step_with_another_value(schedule, step):
    following = schedule.next_change(step)
    value = schedule.difficulty(step)
    if following is None:
        assert value == schedule.max_difficulty
    else:
        assert {schedule.difficulty(s) for s in range(step, following)} == {value}
        assert schedule.difficulty(following) != value


def test_descriptions():
    assert root(6, 64, 100, 8).describe() == "from 8 to 64 in 100 steps"
    assert root(8, 64, 9, 8, 2).describe() == "from 8 to 64 in 9 steps along a root of degree 2"
    assert root(5, 5, 1, 1).describe() == "always 5"
