import pytest

from data_efficiency.schedule import DiscreteSchedule, growth


def test_discrete_stages_stop_at_the_maximum():
    stages = DiscreteSchedule(difficulties=(1, 2, 3), max_steps=(2, 4), max_difficulty=2)
    assert [stages.difficulty(step) for step in range(1, 8)] == [1, 1, 2, 2, 2, 2, 2]
    assert list(growth(stages, 0, None, None)) == [(1, 1), (3, 2)]


@pytest.mark.parametrize(
    ("difficulties", "texts"),
    [
        ((1, 3, 5), []),
        ((1, 3, 9), ["difficulty 9 is above the maximum 5, which is used"]),
        ((1, 3, 3), ["the maximum 5 is never reached, only 3"]),
        ((1, 5, 3), []),
    ],
)
def test_corrections_of_stages(difficulties, texts):
    stages = DiscreteSchedule(difficulties=difficulties, max_steps=(2, 4), max_difficulty=5)
    assert stages.corrections == texts


def test_a_pool_does_not_go_down():
    down, up = (
        DiscreteSchedule(difficulties=each, max_steps=(2, 4), max_difficulty=5)
        for each in ((1, 5, 3), (1, 3, 5))
    )
    assert down.corrections_of_pools == (
        "the difficulties [1, 5, 3] go down; the pool of samples keeps the highest so far",
    )
    assert not up.corrections_of_pools


def test_changes_are_where_stages_begin():
    stages = DiscreteSchedule(difficulties=(3, 1, 4), max_steps=(10, 20), max_difficulty=9)
    assert [stages.next_change(step) for step in (0, 10, 11, 20, 21)] == [11, 11, 21, 21, None]
    assert stages.describe() == "3, 1, 4, up to the steps [10, 20]"
