import pytest

from data_efficiency.schedule import CustomSchedule, growth


def test_growth_of_a_function_that_goes_down_is_its_running_maximum():
    custom = CustomSchedule(function=[0, 2, 5, 3, 5, 6].__getitem__)
    assert [custom.difficulty(step) for step in range(1, 6)] == [2, 5, 3, 5, 6]
    assert list(growth(custom, 0, None, 5)) == [(1, 2), (2, 5), (5, 6)]


def test_custom_errors():
    with pytest.raises(ValueError, match="no function was set"):
        CustomSchedule().difficulty(1)
    with pytest.raises(ValueError, match="gives 0.5 at step 1: difficulties are whole numbers"):
        CustomSchedule(function=lambda step: step / 2).difficulty(1)
    halves = CustomSchedule(function=lambda step: step / 2)
    assert (halves.difficulty(2), halves.next_change(2)) == (1, 3)
    with pytest.raises(ValueError, match="a custom schedule has no known end"):
        list(growth(CustomSchedule(function=abs), 0, None, None))
