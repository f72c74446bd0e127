"""Samples sorted by metrics and bands, inside each part, as a plain sort has them."""

import numpy as np
import pytest

from data_efficiency.config import load_config
from data_efficiency.dataset_identity import describe_dataset
from data_efficiency.difficulty_index import DifficultyIndex
from data_efficiency.sampling.admission import MetricPool
from data_efficiency.sampling.ranking import sorted_by
from tests.json_sections import curriculum_config, sorting_metric

NUM_SAMPLES = 999
RARITY = np.random.default_rng(1).integers(1, 50, NUM_SAMPLES)
LENGTH = np.random.default_rng(2).integers(1, 50, NUM_SAMPLES)
PARTS = (400, 1, 598)


@pytest.fixture(scope="module")
def indexes(tmp_path_factory):
    folder, identity = tmp_path_factory.mktemp("index"), describe_dataset(range(NUM_SAMPLES))
    return [
        DifficultyIndex.write(folder / name, values, metric=name, dataset_identity=identity)
        for name, values in (("rarity", RARITY), ("length", LENGTH))
    ]


def pools(indexes, bands):
    metrics = {
        index.metric: sorting_metric(index.path, **({} if count is None else {"num_bands": count}))
        for index, count in zip(indexes, bands, strict=True)
    }
    selections = load_config(curriculum_config(metrics)).data_efficiency.selections
    return [MetricPool(one, index) for one, index in zip(selections, indexes, strict=True)]


def by_hand(bands):
    """Samples by (part, band of rarity in its part, band or rank of length in its part, number)."""
    keys = []
    for values, count in zip((RARITY, LENGTH), bands, strict=True):
        key, start = np.empty(NUM_SAMPLES, int), 0
        for size in PARTS:
            ranks = np.empty(size, int)
            ranks[np.argsort(values[start : start + size], kind="stable")] = np.arange(size)
            key[start : start + size] = ranks if count is None else ranks * count // size
            start += size
        keys.append(key)
    parts = np.repeat(np.arange(len(PARTS)), PARTS)
    return np.lexsort((np.arange(NUM_SAMPLES), keys[1], keys[0], parts)), keys


@pytest.mark.parametrize("bands", [(4, None), (2, 2), (3, 5)])
def test_bands_inside_one_another(indexes, bands, tmp_path):
    ranking = sorted_by(pools(indexes, bands), PARTS, tmp_path)
    expected, keys = by_hand(bands)
    np.testing.assert_array_equal(ranking.order, expected)
    if bands[1] is None:
        assert ranking.groups is None
        return
    group, start = keys[0] * bands[1] + keys[1], 0
    for size, counts in zip(PARTS, ranking.groups, strict=True):
        expected = np.bincount(group[start : start + size], minlength=bands[0] * bands[1])
        np.testing.assert_array_equal(counts, expected)
        start += size


def test_one_metric_is_the_index_itself_and_nothing_is_written(indexes, tmp_path):
    ranking = sorted_by(pools(indexes[:1], [None]), [NUM_SAMPLES], tmp_path)
    assert np.shares_memory(ranking.order, pools(indexes[:1], [None])[0].order) or not [
        *tmp_path.iterdir()
    ]
    np.testing.assert_array_equal(ranking.order, indexes[0].order)


def test_a_second_start_reads_what_the_first_prepared(indexes, tmp_path, caplog):
    first = sorted_by(pools(indexes, (2, 2)), PARTS, tmp_path)
    caplog.clear()
    with caplog.at_level("INFO"):
        again = sorted_by(pools(indexes, (2, 2)), PARTS, tmp_path)
    assert "preparing" not in caplog.text
    np.testing.assert_array_equal(first.order, again.order)
    np.testing.assert_array_equal(first.groups, again.groups)
    sorted_by(pools(indexes, (2, 3)), PARTS, tmp_path)
    sorted_by(pools(indexes, (2, 2)), [NUM_SAMPLES], tmp_path)
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 3
