"""Ranks inside sources against the plain definition, and what they do to a curriculum."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_efficiency.analysis.source_ranks import (
    SCALE,
    ranks_in_sources,
    sources_of_parts,
    sources_of_rows,
    write_ranks,
)
from data_efficiency.difficulty_index import DifficultyIndex


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=60))
def test_ranks_are_places_among_the_samples_of_a_source(samples):
    values, sources = (np.array(column) for column in zip(*samples, strict=True))
    order = np.argsort(values, kind="stable")
    found = ranks_in_sources(order, sources)
    for sample, source in enumerate(sources):
        own = [other for other in order if sources[other] == source]
        assert found[sample] == own.index(sample) * SCALE // len(own)


def test_parts_of_a_blend():
    assert sources_of_parts([2, 0, 3]).tolist() == [0, 0, 2, 2, 2]


def test_sources_that_rows_name():
    rows = [{"s": "web"}, {"s": "code"}, {"s": "web"}]
    numbers, names = sources_of_rows(rows, "s")
    assert (numbers.tolist(), names) == ([0, 1, 0], ["web", "code"])
    rows = [{"meta": {"set": 7}}, {"meta.set": "x", "meta": {"set": 1}}]
    assert sources_of_rows(rows, "meta.set")[1] == ["7", "x"]
    for row, shown in (
        ({}, "None"),
        ({"s": 1.5}, "1.5"),
        ({"s": True}, "True"),
        ({"s": None}, "N"),
    ):
        with pytest.raises(ValueError, match=f"row 1 has no source: 's' is {shown}"):
            sources_of_rows([{"s": "web"}, row], "s")


def make_index(folder, values):
    return DifficultyIndex.write(
        folder, np.array(values), metric="m", dataset_identity={"name": "x"}
    )


def test_percentiles_of_the_ranks_take_the_same_share_of_every_source(tmp_path):
    """By their values all of the first source come before the second."""
    index = make_index(tmp_path / "m", [*range(40), *range(1000, 1060)])
    sources = sources_of_parts([40, 60])
    assert set(sources[index.order[:40]]) == {0}
    ranks = write_ranks(tmp_path / "r", index, sources, ["web", "code"], metric="r")
    for percentile in range(0, 101, 5):
        easiest = ranks.order[: ranks.num_in_percentile(percentile, 100)]
        assert np.bincount(sources[easiest], minlength=2).tolist() == pytest.approx(
            [0.4 * percentile, 0.6 * percentile], abs=1
        )
    assert ranks.num_at_most(SCALE // 2 - 1) == 50
    assert ranks.dataset_identity == index.dataset_identity
    assert ranks.source["sources"] == [["web", 40], ["code", 60]]
    ranks.verify()


def test_rows_of_other_data(tmp_path):
    index = make_index(tmp_path / "m", [1, 2, 3])
    with pytest.raises(ValueError, match="2 rows say their source, but .*m has 3 samples"):
        write_ranks(tmp_path / "r", index, np.array([0, 1]), metric="r")
    (tmp_path / "m" / "order.npy").write_bytes((tmp_path / "m" / "values.npy").read_bytes())
    with pytest.raises(ValueError, match="order.npy was changed after it was written"):
        write_ranks(tmp_path / "r", index, np.array([0, 1, 0]), metric="r")
