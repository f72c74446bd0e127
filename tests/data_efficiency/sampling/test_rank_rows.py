import pytest

from data_efficiency.config import DataEfficiencyConfig, TokenSuperposition
from data_efficiency.sampling.rank_rows import RankRows

GROWING = {
    "min_value": 12,
    "max_value": 24,
    "schedule_type": "fixed_discrete",
    "schedule_config": {"difficulty": [12, 24], "max_step": [2]},
}


@pytest.mark.parametrize("settings", [{}, {"batch_size": GROWING}])
def test_the_micro_batches_of_all_ranks_are_the_global_batch(settings):
    config = DataEfficiencyConfig.of(**settings)
    ranks = [
        RankRows(
            config,
            micro_batch_size=2,
            gradient_accumulation_steps=4,
            data_parallel_rank=rank,
            data_parallel_size=3,
        )
        for rank in range(3)
    ]
    for step in (1, 2, 3, 7):
        taken = [
            row
            for rank in ranks
            for number in range(rank.num_micro_batches(step))
            for row in range(1000)[rank.micro_batch_rows(number, step)]
        ]
        assert taken == list(range(ranks[0].batch_rows(step)))
    before = [ranks[1].micro_batches_before(step) for step in range(1, 6)]
    assert before == [
        sum(ranks[1].num_micro_batches(one) for one in range(1, step)) for step in range(1, 6)
    ]
    assert ranks[0].fewest_micro_batches == (2 if settings else 4)


def test_bags_take_several_samples_for_a_row():
    config = DataEfficiencyConfig.of(TokenSuperposition(bag_size=4, steps=3))
    rows = RankRows(config, micro_batch_size=2, data_parallel_rank=1, data_parallel_size=2)
    assert rows.micro_batch_rows(0, step=1) == slice(2, 4)
    assert rows.micro_batch_samples(0, step=1) == slice(8, 16)
    assert rows.micro_batch_samples(0, step=4) == slice(2, 4)


def test_steps_that_samples_are_enough_for():
    rows = RankRows(DataEfficiencyConfig.of(), micro_batch_size=4)
    assert [rows.steps_in(10, drop_last=drop_last) for drop_last in (True, False)] == [2, 3]
    assert [rows.steps_in(8, drop_last=drop_last) for drop_last in (True, False)] == [2, 2]


@pytest.mark.parametrize("number", [0, -2])
def test_micro_batches_without_rows_are_refused(number):
    with pytest.raises(ValueError, match=f"micro_batch_size is {number}: must be at least 1"):
        RankRows(DataEfficiencyConfig.of(), micro_batch_size=number)
    with pytest.raises(ValueError, match=f"gradient_accumulation_steps is {number}: must be"):
        RankRows(DataEfficiencyConfig.of(), micro_batch_size=1, gradient_accumulation_steps=number)


def test_a_rank_that_there_is_not():
    with pytest.raises(ValueError, match="data_parallel_rank is 2: must be at least 0 and below"):
        RankRows(DataEfficiencyConfig.of(), micro_batch_size=1, data_parallel_rank=2)
