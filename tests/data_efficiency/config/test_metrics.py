import pytest

from data_efficiency.config.metrics import ACTIONS_BY_NAME, WINDOWS, LengthPlan
from data_efficiency.schedule import CustomSchedule


def plan(action, multiple=1):
    return LengthPlan(
        name="length",
        difficulty_type="value",
        min_difficulty=1,
        max_difficulty=9,
        schedule=CustomSchedule(),
        action=action,
        length_multiple=multiple,
    )


@pytest.mark.parametrize("action", ACTIONS_BY_NAME.values())
def test_a_length_is_rounded_up_to_its_multiple(action):
    lengths = [plan(action, 4).length_at(difficulty) for difficulty in (1, 4, 5)]
    assert lengths == [4, 4, 8]
    with pytest.raises(ValueError, match="gives a sequence length of 0: must be at least 1"):
        plan(action).length_at(0)


@pytest.mark.parametrize("action", ["trim_padding", "user"])
def test_what_the_content_decides_has_no_length(action):
    assert not plan(action).follows_schedule
    assert plan(action).length_at(0) is None


def test_windows_are_paced_by_their_own_names():
    assert {*WINDOWS} < {*ACTIONS_BY_NAME}
