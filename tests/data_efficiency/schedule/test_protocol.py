from hypothesis import given
from hypothesis import strategies as st

from data_efficiency.schedule import DiscreteSchedule, growth
from tests.data_efficiency.schedule.test_root import schedules


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


@given(schedules, st.integers(0, 300))
def test_values_are_those_of_every_step(schedule, first_step):
    steps, values = zip(*schedule.values(first_step), strict=True)
    assert steps[0] == first_step
    assert list(steps) == sorted(set(steps))
    every_step = {schedule.difficulty(step) for step in range(first_step, steps[-1] + 3)}
    assert set(values) == every_step


@given(schedules, st.integers(1, 100), st.integers(1, 100))
def test_growth_continues_where_it_stopped(schedule, first_stop, more):
    begin = list(growth(schedule, 0, None, first_stop))
    rest = list(growth(schedule, first_stop, begin[-1][1], first_stop + more))
    assert begin + rest == list(growth(schedule, 0, None, first_stop + more))


@given(st.lists(st.integers(0, 9), min_size=3, max_size=3), st.integers(0, 12), st.integers(1, 12))
def test_growth_of_stages_equals_asking_every_step(difficulties, after_step, more):
    stages = DiscreteSchedule(difficulties=tuple(difficulties), max_steps=(4, 9), max_difficulty=8)
    highest = max((stages.difficulty(step) for step in range(1, after_step + 1)), default=None)
    start, expected = highest, []
    for step in range(after_step + 1, after_step + more + 1):
        if highest is None or stages.difficulty(step) > highest:
            highest = stages.difficulty(step)
            expected.append((step, highest))
    assert list(growth(stages, after_step, start, after_step + more)) == expected
