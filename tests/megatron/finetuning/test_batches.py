import numpy as np
import pytest

from data_efficiency import Ranks
from megatron.finetuning.batches import epoch_batches, epoch_order, own_micro_batches
from megatron.finetuning.inputs import InputRows

LENGTHS = np.random.default_rng(0).integers(4, 60, 1003).tolist()


def padded(batches):
    return sum(max(LENGTHS[i] for i in batch) * len(batch) for batch in batches) - sum(LENGTHS)


@pytest.mark.parametrize("group_by_length", [False, True])
def test_each_example_comes_once_an_epoch_in_its_own_order(group_by_length):
    epochs = [
        epoch_batches(LENGTHS, 8, 5, epoch, group_by_length=group_by_length) for epoch in (0, 0, 1)
    ]
    for batches in epochs:
        assert sorted(np.concatenate(batches)) == list(range(1003))
        assert sorted(map(len, batches)) == [3, *[8] * 125]
    first, again, other = (np.concatenate(batches).tolist() for batches in epochs)
    assert first == again != other


def test_without_groups_the_order_is_the_published_one():
    batches = epoch_batches(LENGTHS, 8, 5, 2, group_by_length=False)
    assert np.array_equal(np.concatenate(batches), epoch_order(1003, 5, 2))
    assert len(batches[-1]) == 3


def test_groups_have_less_padding_and_no_order_of_length():
    plain, grouped = (
        epoch_batches(LENGTHS, 8, 5, 0, group_by_length=grouped) for grouped in (False, True)
    )
    assert padded(grouped) < padded(plain) / 10
    longest = np.array([max(LENGTHS[i] for i in batch) for batch in grouped])
    assert abs(np.corrcoef(longest, np.arange(len(longest)))[0, 1]) < 0.3


@pytest.mark.parametrize(("size", "number"), [(1, 1), (1, 4), (2, 1), (2, 2), (4, 1)])
def test_processes_share_a_batch_and_what_fills_it_up_is_not_counted(size, number):
    texts = InputRows([[7] * (i + 1) for i in range(9)], [1] * 9, 0)
    labels = np.arange(9)
    parts = [
        part
        for rank in range(size)
        for part in own_micro_batches(
            texts,
            labels,
            np.array([4, 2, 8]),
            batch_size=8,
            num_micro_batches=number,
            ranks=Ranks(data_parallel_rank=rank, data_parallel_size=size),
        )
    ]
    assert len(parts) == size * number
    assert {len(part["tokens"]) for part in parts} == {8 // (size * number)}
    counted = [part["labels"][part["is_counted"]].tolist() for part in parts]
    assert sum(counted, []) == [4, 2, 8]
