"""What one shard's task computes, stores, leaves alone and blames."""

import numpy as np
import pytest
import torch

from data_efficiency.analysis.dataset_reader import ItemReader
from data_efficiency.analysis.executors import TaskError
from data_efficiency.analysis.metrics import Metric
from data_efficiency.analysis.shard_task import ShardTask
from data_efficiency.analysis.shards import ShardFolder

ORIGIN = {"dataset_fingerprint": "f"}
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
    folders = {name: ShardFolder(tmp_path / name, (0, 3, 6), ORIGIN) for name in metrics}
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
