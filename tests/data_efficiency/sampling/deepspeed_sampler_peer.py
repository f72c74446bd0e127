"""Runs DeepSpeed's own sampler: which samples each step of a configuration admits.

    python deepspeed_sampler_peer.py FOLDER

FOLDER holds `values.npz` (metric -> difficulty of each sample) and `cases.json` (case name -> the keys
of `curriculum_metrics`; the paths are filled in here, a custom schedule is a list of its values). For
each case the answer in `answers.npz` has `<case>/admitted` (int [num_samples], step of admission, 0 for
never), `<case>/times` (int [num_samples], in how many clusters the sample is) and
`<case>/difficulties` (int [num_steps, num_metrics]); a case that fails has `<case>/error` alone.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch.distributed

NUM_STEPS = 40
BATCH_SIZE = 8


def write_index(folder, name, values):
    """Rows of sample numbers with increasing difficulty, and the rows' difficulties."""
    from deepspeed.runtime.data_pipeline.data_sampling.utils import (  # noqa: PLC0415, TID251
        close_mmap_dataset_builder,
        create_mmap_dataset_builder,
    )

    paths = {key: str(folder / f"{name}_{key}") for key in ("index_to_sample", "index_to_metric")}
    samples = create_mmap_dataset_builder(paths["index_to_sample"], np.int64)
    metric = create_mmap_dataset_builder(paths["index_to_metric"], np.int64)
    for value in np.unique(values):
        samples.add_item_numpy(np.flatnonzero(values == value))
        metric.add_item_numpy(np.array([value]))
    close_mmap_dataset_builder(samples, paths["index_to_sample"])
    close_mmap_dataset_builder(metric, paths["index_to_metric"])
    return {f"{key}_path": path for key, path in paths.items()}


def make_sampler(metrics, num_samples, cluster_path):
    """DeepSpeed's sampler for one process."""
    import deepspeed.comm  # noqa: PLC0415, TID251
    from deepspeed.runtime.data_pipeline.data_sampling.data_sampler import (  # noqa: PLC0415, TID251
        DeepSpeedDataSampler,
    )

    learning = {
        "enabled": True,
        "data_cluster_path": str(cluster_path),
        "curriculum_metrics": metrics,
    }
    sampler = DeepSpeedDataSampler(
        {"seed": 1, "data_sampling": {"num_epochs": 1000, "curriculum_learning": learning}},
        num_samples,
        BATCH_SIZE,
        0,
        1,
        deepspeed.comm.get_world_group(),
        1,
        0,
        drop_last=True,
    )
    custom = {
        name: lambda step, values=metric["custom"]: values[min(step, len(values)) - 1]
        for name, metric in metrics.items()
        if metric["schedule_type"] == "custom"
    }
    sampler.set_custom_curriculum_learning_schedule(custom)
    return sampler


def follow(sampler, num_samples):
    """What `answers.npz` says of a case that works."""
    admitted, times = np.zeros(num_samples, np.int64), np.zeros(num_samples, np.int64)
    difficulties, num_seen = [], 0
    for step in range(1, NUM_STEPS + 1):
        sampler.get_next_global_batch()
        difficulties.append(list(sampler.current_difficulties.values()))
        for cluster in sampler.data_clusters[num_seen:]:
            samples = np.asarray(cluster[0], np.int64)
            times[samples] += 1
            admitted[samples[admitted[samples] == 0]] = step
        num_seen = len(sampler.data_clusters)
    return {"admitted": admitted, "times": times, "difficulties": np.array(difficulties)}


def main(folder):
    """Answers every case."""
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    import deepspeed.comm  # noqa: PLC0415, TID251

    deepspeed.comm.init_distributed("gloo")
    values = dict(np.load(folder / "values.npz"))
    paths = {name: write_index(folder, name, difficulty) for name, difficulty in values.items()}
    num_samples = len(next(iter(values.values())))
    answers = {}
    for case, metrics in json.loads((folder / "cases.json").read_text()).items():
        described = {name: metric | paths.get(name, {}) for name, metric in metrics.items()}
        try:
            sampler = make_sampler(described, num_samples, folder / "clusters" / case)
            answer = follow(sampler, num_samples)
        except (ValueError, TypeError) as error:
            answer = {"error": np.array(str(error))}
        answers |= {f"{case}/{key}": array for key, array in answer.items()}
    np.savez(folder / "answers.npz", **answers)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
