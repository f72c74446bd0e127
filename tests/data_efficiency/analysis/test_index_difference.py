import numpy as np
import pytest

from data_efficiency.analysis.index_difference import write_difference
from data_efficiency.difficulty_index import DifficultyIndex


def write(folder, name, values, dataset="texts"):
    return DifficultyIndex.write(
        folder / name, np.asarray(values), metric=name, dataset_identity={"name": dataset}
    )


def test_what_one_model_knows_and_the_other_does_not(tmp_path):
    weak = write(tmp_path, "weak", np.array([3.0, 2.5, 5.0], np.float32))
    strong = write(tmp_path, "strong", np.array([2.0, 2.25, 1.0], np.float32))
    index = write_difference(tmp_path / "gap", weak, strong, metric="gap")
    assert index.values.tolist() == [1.0, 0.25, 4.0]
    assert index.order.tolist() == [1, 0, 2]
    assert (index.metric, index.source["format"]) == ("gap", "difference")
    assert index.source["second"]["metric"] == "strong"
    index.verify()


def test_whole_numbers_are_exact_and_may_be_negative(tmp_path):
    first = write(tmp_path, "a", np.array([0, 2**53 + 1, 7], np.uint64))
    second = write(tmp_path, "b", np.array([255, 2**53, 7], np.uint64))
    assert write_difference(tmp_path / "c", first, second, metric="c").values.tolist() == [
        -255,
        1,
        0,
    ]


def test_what_cannot_be_subtracted(tmp_path):
    first = write(tmp_path, "a", [1, 2])
    with pytest.raises(ValueError, match="b is an index of another dataset than .*a"):
        write_difference(tmp_path / "c", first, write(tmp_path, "b", [1, 2], "other"), metric="c")
    with pytest.raises(ValueError, match="may not be held"):
        write_difference(tmp_path / "c", first, write(tmp_path, "d", [1, 2**62]), metric="c")
