"""Metrics over small difficulty indexes, as the sampler holds them."""

import secrets

import numpy as np
import pytest

from data_efficiency.config import Selection
from data_efficiency.difficulty_index import DifficultyIndex
from data_efficiency.sampling.admission import MetricPool


@pytest.fixture(scope="session")
def make_pool(tmp_path_factory):
    """A function (values, schedule, ...) -> MetricPool, its index in a folder of its own."""
    folder = tmp_path_factory.mktemp("indexes")

    def make(
        values, schedule, *, kind="value", maximum=100, name="rarity", below=None, distinct=None
    ):
        path = (below or folder / secrets.token_hex(8)) / name
        index = DifficultyIndex.write(
            path,
            np.asarray(values),
            metric=name,
            dataset_identity={"name": "test"},
            max_distinct_values=distinct,
        )
        metric = Selection(
            name=name,
            difficulty_type=kind,
            min_difficulty=1,
            max_difficulty=maximum,
            schedule=schedule,
            index_path=str(path),
        )
        return MetricPool(metric, index)

    return make
