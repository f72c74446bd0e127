"""Shards are used only if they are what the run would compute."""

import json

import numpy as np
import pytest
import torch

from data_efficiency.analysis.dataset_reader import ItemReader
from data_efficiency.analysis.executors import TaskError
from data_efficiency.analysis.metrics import Metric
from data_efficiency.analysis.shards import ShardFolder, ShardTask

ORIGIN = {"dataset_fingerprint": "f", "metric": "m", "dtype": "int64", "parameters": {"a": 1}}


@pytest.fixture
def folder(tmp_path):
    folder = ShardFolder(tmp_path / "m.parts", (0, 3, 6), ORIGIN)
    folder.write(0, np.array([1, 2, 3]))
    return folder


def test_written_shard_can_be_read(folder):
    assert (folder.num_shards, folder.num_finished()) == (2, 1)
    assert folder.fault(0) is None
    assert folder.read(0).tolist() == [1, 2, 3]
    assert folder.fault(1) == "is missing"
    assert folder.describe(1) == "shard 1 (samples 3..5)"
    assert sorted(file.name for file in folder.path.iterdir()) == ["000000.json", "000000.npy"]


def test_a_shard_can_be_written_again(folder):
    folder.write(0, np.array([4, 5, 6]))
    assert folder.fault(0) is None
    assert folder.read(0).tolist() == [4, 5, 6]


@pytest.mark.parametrize(
    ("origin", "bounds", "fault"),
    [
        ({"dataset_fingerprint": "g"}, (0, 3, 6), "was made from another dataset"),
        ({"parameters": {"a": 2}}, (0, 3, 6), "was made from other parameters"),
        ({"dtype": "int32"}, (0, 3, 6), "was made from another dtype"),
        ({}, (0, 4, 6), "was made from other samples"),
    ],
)
def test_shards_of_other_work(folder, origin, bounds, fault):
    assert ShardFolder(folder.path, bounds, {**ORIGIN, **origin}).fault(0) == fault


def test_damaged_shards(folder):
    array, marker = folder.path / "000000.npy", folder.path / "000000.json"
    whole = array.read_bytes()
    array.write_bytes(whole[:-1])
    assert folder.fault(0) == "has a damaged array (other SHA-256)"
    array.write_bytes(whole[:-1] + b"\x01")
    assert folder.fault(0) == "has a damaged array (other SHA-256)"
    array.write_bytes(whole)
    assert folder.fault(0) is None
    text = marker.read_text()
    marker.write_text(text[:20])
    assert folder.fault(0) == "has a damaged marker"
    marker.write_text(json.dumps({**json.loads(text), "version": 0}))
    assert folder.fault(0) == "was made from another version"
    marker.write_text("[]")
    assert folder.fault(0) == "has a damaged marker"
    marker.write_text(text)
    array.unlink()
    assert folder.fault(0) == "is missing"


def test_removal(folder):
    folder.remove_if_empty()
    assert folder.num_finished() == 1
    folder.remove(0)
    assert folder.fault(0) == "is missing"
    folder.remove_if_empty()
    assert not folder.path.exists()
    folder.write(1, np.arange(3))
    folder.remove_all()
    assert list(folder.path.parent.iterdir()) == []


def test_failed_write_leaves_nothing(folder, monkeypatch):
    def fail(*arguments, **options):
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "save", fail)
    with pytest.raises(OSError, match="No space left"):
        folder.write(1, np.arange(3))
    assert sorted(file.name for file in folder.path.iterdir()) == ["000000.json", "000000.npy"]


DATASET = [torch.tensor([sample, 1]) for sample in range(6)]


def double(batch):
    return 2 * batch[:, 0]


def fails_at_four(batch):
    if bool((batch[:, 0] == 4).any()):
        raise RuntimeError("four")
    return batch[:, 0]


def make_task(tmp_path, **functions):
    metrics = {
        name: Metric(name=name, kind="single_value_per_sample", function=function, reads="items")
        for name, function in functions.items()
    }
    folders = {
        name: ShardFolder(tmp_path / name, (0, 3, 6), {"dataset_fingerprint": "f"})
        for name in metrics
    }
    return ShardTask(ItemReader(DATASET, batch_size=2), metrics, folders)


def test_all_metrics_of_a_shard_are_stored_and_its_samples_counted(tmp_path):
    task = make_task(tmp_path, double=double, same=fails_at_four)
    assert sum(samples for samples, _ in task(0)) == 3
    assert task.folders["double"].read(0).tolist() == [0, 2, 4]
    assert task.folders["same"].read(0).tolist() == [0, 1, 2]
    assert task.folders["double"].fault(1) == "is missing"


def test_what_is_finished_is_not_computed_again(tmp_path):
    task = make_task(tmp_path, double=double, same=fails_at_four)
    task.folders["double"].write(0, np.array([7, 7, 7]))
    list(task(0))
    assert task.folders["double"].read(0).tolist() == [7, 7, 7]
    assert task.folders["same"].read(0).tolist() == [0, 1, 2]


def test_a_failure_names_metric_and_sample_and_stores_nothing(tmp_path):
    task = make_task(tmp_path, double=double, same=fails_at_four)
    with pytest.raises(TaskError, match="metric same, sample 4: RuntimeError: four"):
        list(task(1))
    assert [folder.fault(1) for folder in task.folders.values()] == ["is missing"] * 2


def test_a_shard_that_changes_between_its_check_and_its_use_is_noticed(folder):
    """As where nothing can be locked, and another writes the same place."""
    assert folder.fault(0) is None
    ShardFolder(folder.path, (0, 3, 6), {**ORIGIN, "parameters": {"a": 2}}).write(
        0, np.array([4, 5, 6])
    )
    with pytest.raises(ValueError, match=r"shard 0 .* was made from other parameters while it was"):
        folder.read(0)


def test_shards_on_other_storage(storage):
    folder = ShardFolder(storage / "m.parts", (0, 3, 6), ORIGIN)
    folder.remove_if_empty()
    assert list(folder.faults(range(2))) == ["is missing", "is missing"]
    folder.write(1, np.array([4, 5, 6]))
    folder.write(0, np.array([1, 2, 3]))
    assert (folder.num_finished(), list(folder.faults(range(2)))) == (2, [None, None])
    assert np.concatenate(list(folder.read_all())).tolist() == [1, 2, 3, 4, 5, 6]
    folder.remove(0)
    assert list(folder.faults([0, 1])) == ["is missing", None]
    folder.remove_if_empty()
    assert folder.num_finished() == 1
    folder.remove_all()
    assert storage.names() == []
