import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_efficiency.schedule import (
    CustomSchedule,
    DiscreteSchedule,
    RootSchedule,
    growth,
    register_schedule,
)


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


@given(schedules, st.integers(1, 400))
def test_growth_of_a_root_schedule_equals_asking_every_step(schedule, until_step):
    expected, highest = [], None
    for step in range(1, until_step + 1):
        value = schedule.difficulty(step)
        if highest is None or value > highest:
            highest = value
            expected.append((step, value))
    assert list(growth(schedule, 0, None, until_step)) == expected
    everything = list(growth(schedule, 0, None, None))
    assert everything[-1][1] == schedule.max_difficulty
    assert everything[: len(expected)] == expected


@given(schedules, st.integers(1, 100), st.integers(1, 100))
def test_growth_continues_where_it_stopped(schedule, first_stop, more):
    begin = list(growth(schedule, 0, None, first_stop))
    rest = list(growth(schedule, first_stop, begin[-1][1], first_stop + more))
    assert begin + rest == list(growth(schedule, 0, None, first_stop + more))


def test_discrete_stages_stop_at_the_maximum():
    stages = DiscreteSchedule(difficulties=(1, 2, 3), max_steps=(2, 4), max_difficulty=2)
    assert [stages.difficulty(step) for step in range(1, 8)] == [1, 1, 2, 2, 2, 2, 2]
    assert list(growth(stages, 0, None, None)) == [(1, 1), (3, 2)]


@given(
    st.lists(st.integers(0, 9), min_size=3, max_size=3),
    st.integers(0, 12),
    st.integers(1, 12),
)
def test_growth_of_stages_equals_asking_every_step(difficulties, after_step, more):
    stages = DiscreteSchedule(difficulties=tuple(difficulties), max_steps=(4, 9), max_difficulty=8)
    highest = max((stages.difficulty(step) for step in range(1, after_step + 1)), default=None)
    start, expected = highest, []
    for step in range(after_step + 1, after_step + more + 1):
        if highest is None or stages.difficulty(step) > highest:
            highest = stages.difficulty(step)
            expected.append((step, highest))
    assert list(growth(stages, after_step, start, after_step + more)) == expected


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


@pytest.mark.parametrize(
    ("difficulties", "texts"),
    [
        ((1, 3, 5), []),
        ((1, 3, 9), ["difficulty 9 is above the maximum 5, which is used"]),
        ((1, 3, 3), ["the maximum 5 is never reached, only 3"]),
        (
            (1, 5, 3),
            [
                "the difficulties [1, 5, 3] go down; sequence lengths follow them, the pool of "
                "samples keeps the highest so far"
            ],
        ),
    ],
)
def test_corrections_of_stages(difficulties, texts):
    stages = DiscreteSchedule(difficulties=difficulties, max_steps=(2, 4), max_difficulty=5)
    assert stages.corrections == texts


def test_growth_of_a_function_that_goes_down_is_its_running_maximum():
    custom = CustomSchedule(function=[0, 2, 5, 3, 5, 6].__getitem__)
    assert [custom.difficulty(step) for step in range(1, 6)] == [2, 5, 3, 5, 6]
    assert list(growth(custom, 0, None, 5)) == [(1, 2), (2, 5), (5, 6)]


@given(schedules, st.integers(0, 300))
def test_the_next_change_is_the_first_step_with_another_value(schedule, step):
    following = schedule.next_change(step)
    value = schedule.difficulty(step)
    if following is None:
        assert value == schedule.max_difficulty
    else:
        assert {schedule.difficulty(s) for s in range(step, following)} == {value}
        assert schedule.difficulty(following) != value


def test_the_changes_of_stages_and_functions():
    stages = DiscreteSchedule(difficulties=(3, 1, 4), max_steps=(10, 20), max_difficulty=9)
    assert [stages.next_change(step) for step in (0, 10, 11, 20, 21)] == [11, 11, 21, 21, None]
    assert CustomSchedule(function=abs).next_change(7) == 8


@pytest.mark.parametrize(
    ("schedule", "text"),
    [
        (root(6, 64, 100, 8), "from 8 to 64 in 100 steps"),
        (root(8, 64, 9, 8, 2), "from 8 to 64 in 9 steps along a root of degree 2"),
        (root(5, 5, 1, 1), "always 5"),
        (
            DiscreteSchedule(difficulties=(1, 2), max_steps=(4,), max_difficulty=2),
            "1, 2, up to the steps [4]",
        ),
        (CustomSchedule(), "a custom schedule"),
    ],
)
def test_descriptions(schedule, text):
    assert schedule.describe() == text


def test_kinds_that_cannot_be_registered():
    with pytest.raises(ValueError, match="'fixed_root' is taken"):
        register_schedule("fixed_root", RootSchedule)
    with pytest.raises(ValueError, match="dict cannot be schedule_type 'own': must be a frozen"):
        register_schedule("own", dict)


def test_custom_errors():
    with pytest.raises(ValueError, match="no function was set"):
        CustomSchedule().difficulty(1)
    with pytest.raises(ValueError, match="gives 0.5 at step 1: difficulties are whole numbers"):
        CustomSchedule(function=lambda step: step / 2).difficulty(1)
    assert CustomSchedule(function=lambda step: step / 2).difficulty(2) == 1
    with pytest.raises(ValueError, match="no known end"):
        list(growth(CustomSchedule(function=abs), 0, None, None))
