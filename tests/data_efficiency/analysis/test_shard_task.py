"""What one shard's task computes, stores, leaves alone and blames."""

import torch

from data_efficiency.analysis.dataset_reader import ItemReader
from data_efficiency.analysis.metrics import Metric
from data_efficiency.analysis.shard_task import ShardTask
from data_efficiency.analysis.shards import ShardFolder

ORIGIN = {"dataset_fingerprint": "f"}
DATASET = [torch.tensor([sample, 1]) for sample in range(6)]


def double(batch):
    return 2 * batch[:, 0]


def make_task(tmp_path, **functions):
    metrics = {
        name: Metric(name=name, kind="single_value_per_sample", function=function, reads="items")
        for name, function in functions.items()
    }
    folders = {name: ShardFolder(tmp_path / name, (0, 3, 6), ORIGIN) for name in metrics}
    return ShardTask(ItemReader(DATASET, batch_size=2), metrics, folders)


def test_all_metrics_of_a_shard_are_stored_and_its_samples_counted(tmp_path):
    task = make_task(tmp_path, double=double, same=lambda batch: batch[:, 0])
    assert sum(samples for samples, _ in task(0)) == 3
    assert task.folders["double"].read(0).tolist() == [0, 2, 4]
    assert task.folders["same"].read(0).tolist() == [0, 1, 2]
    assert task.folders["double"].fault(1) == "is missing"
