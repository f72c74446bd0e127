"""A value for a whole dataset, stored and checked."""

import numpy as np
import pytest

from data_efficiency.analysis.accumulated_value import AccumulatedValue
from data_efficiency.difficulty_index import DifficultyIndex


def write(path, value=(1, 2), **options):
    identity = {"type": "list", "num_samples": 3}
    return AccumulatedValue.write(
        path, np.array(value), metric="m", dataset_identity=identity, **options
    )


def test_round_trip(tmp_path):
    write(tmp_path / "m")
    stored = AccumulatedValue.open(tmp_path / "m")
    assert (stored.metric, stored.value.tolist(), stored.value.dtype) == ("m", [1, 2], np.int64)
    assert len(stored.checksum) == 64
    assert len(list((tmp_path / "m").iterdir())) == 2
    stored.check_dataset([0, 0, 0])
    with pytest.raises(ValueError, match="another dataset .num_samples: expected 3, found 2"):
        stored.check_dataset([0, 0])


def test_overwriting_on_request_only(tmp_path):
    write(tmp_path / "m")
    with pytest.raises(FileExistsError, match="already exists"):
        write(tmp_path / "m")
    assert write(tmp_path / "m", (3,), overwrite=True).value.tolist() == [3]


def test_other_folders_and_damage(tmp_path):
    DifficultyIndex.write(tmp_path / "i", np.arange(3), metric="m", dataset_identity={})
    with pytest.raises(
        ValueError, match="i is not a metric sum: its manifest says format .difficulty index."
    ):
        AccumulatedValue.open(tmp_path / "i")
    stored = write(tmp_path / "m")
    file = tmp_path / "m" / "value.npy"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ValueError, match="value.npy was changed after it was written"):
        AccumulatedValue.open(stored.path)


def test_on_other_storage(storage):
    written = AccumulatedValue.write(
        storage / "f", np.array([1, 2]), metric="f", dataset_identity={"a": 1}
    )
    assert written.value.tolist() == [1, 2]
    assert AccumulatedValue.open(str(storage / "f")).checksum == written.checksum
