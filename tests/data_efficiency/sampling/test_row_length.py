from types import SimpleNamespace

import numpy as np
import pytest
import torch

from data_efficiency import ConfigError, Curriculum, CurriculumSampler, DataEfficiencyConfig
from data_efficiency.sampling.row_length import closed_by_rows, row_length

ROW = {"labels": [1], "input_ids": [1, 2, 3]}


class Told(list):
    sequence_length = np.int64(17)


@pytest.mark.parametrize(
    ("dataset", "length"),
    [
        (Told(), 17),
        ([ROW] * 40, 3),
        ([{"tokens": torch.zeros(5)}], 5),
        ([(torch.zeros(4), torch.zeros(1))] * 3, 4),
        ([torch.zeros(6)] * 3, 6),
        ([{"input_ids": torch.zeros(4, 16)}] * 3, 16),
        ([{"input_ids": [[1] * 16] * 4}] * 3, 16),
        ([{"inputs_embeds": torch.zeros(16, 8)}] * 3, 16),
        ([{"inputs_embeds": [[0.5] * 8] * 16}] * 3, 16),
    ],
)
def test_a_length_that_all_rows_have(dataset, length):
    assert row_length(dataset) == length


@pytest.mark.parametrize(
    ("dataset", "found"),
    [
        ([ROW, {"input_ids": [1]}], "different lengths"),
        ([{"pixel_values": [1]}], "no tokens"),
        ([7], "no tokens"),
        ([torch.zeros(2, 2)], "no tokens"),
        ([(torch.zeros(3, 32, 32), 1)], "no tokens"),
        ([{"input_ids": "text"}], "no tokens"),
        ([{"inputs_embeds": [0.5]}], "no tokens"),
    ],
)
def test_rows_of_no_one_length(dataset, found):
    with pytest.raises(ConfigError, match=f"the rows of the list have {found}: say up to which"):
        row_length(dataset)


def test_an_empty_dataset_is_called_one():
    with pytest.raises(ConfigError, match="the dataset is empty: it has no rows"):
        row_length([])


@pytest.mark.parametrize("place", [0, 1, 777, 998])
def test_one_row_of_another_length_is_found(place):
    datasets = pytest.importorskip("datasets")
    rows = [[1, 2, 3]] * 999
    rows[place] = [1, 2, 3, 4]
    stored = datasets.Dataset.from_dict({"n": range(999), "input_ids": rows})
    for dataset in ([{"input_ids": row} for row in rows], stored, stored.shuffle(seed=1)):
        with pytest.raises(ConfigError, match="have different lengths"):
            row_length(dataset)
    others = [number for number in range(999) if number != place]
    assert (
        row_length(stored.select(others))
        == row_length(stored.select(others).with_format("torch"))
        == 3
    )
    longer = stored.with_transform(lambda batch: {"input_ids": [[0] * 9 for _ in batch["n"]]})
    assert row_length(longer) == 9


def test_rows_of_several_choices_are_as_long_as_a_choice():
    datasets = pytest.importorskip("datasets")
    stored = datasets.Dataset.from_dict({"input_ids": [[[1] * 16] * 4] * 3})
    assert row_length(stored) == row_length(stored.with_format("torch")) == 16


def test_the_sampler_closes_what_goes_up_to_the_rows():
    config = DataEfficiencyConfig.of(Curriculum("seqlen", start=8, steps=4))
    sampler = CurriculumSampler(Told([ROW] * 8), config, micro_batch_size=2)
    (plan,) = sampler.config.length_plans
    assert plan.max_difficulty == 17
    assert not sampler.config.needs_length


def test_nothing_is_read_where_nothing_is_open():
    config = DataEfficiencyConfig.of(Curriculum("seqlen", start=8, end=16, steps=4))
    assert closed_by_rows(config, SimpleNamespace()) is config
