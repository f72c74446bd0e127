"""DeepSpeed's curriculum sampler, the contestant of benchmarks/sampler.py."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed


def write_deepspeed_index(folder: Path, name: str, values: np.ndarray) -> dict[str, str]:
    """DeepSpeed's index files of a metric; the JSON keys that name them."""
    from deepspeed.runtime.data_pipeline.data_sampling import (  # noqa: PLC0415, TID251
        utils as deepspeed_index,
    )

    order = np.argsort(values, kind="stable")
    in_order = values[order].astype(np.int64)
    starts = np.flatnonzero(np.append(True, in_order[1:] != in_order[:-1]))
    contents = {
        "index_to_sample": np.split(order, starts[1:]),
        "index_to_metric": np.split(in_order[starts], len(starts)),
    }
    paths = {}
    for part, rows in contents.items():
        path = paths[f"{part}_path"] = str(folder / f"{name}_{part}")
        builder = deepspeed_index.create_mmap_dataset_builder(path, np.int64)
        for row in rows:
            builder.add_item_numpy(row)
        deepspeed_index.close_mmap_dataset_builder(builder, path)
    return paths


def make_deepspeed_sampler(
    folder: Path,
    values: Mapping[str, np.ndarray],
    described: Mapping[str, Any],
    batch_size: int,
) -> Any:
    """DeepSpeed's sampler over metrics' values, in its own index files.

    Args:
        folder: where these are written.
        values: metric -> difficulty of each sample.
        described: metric -> its keys in the JSON file.
    """
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    # Imported late: DeepSpeed chooses its device when it is imported.
    import deepspeed.comm  # noqa: PLC0415, TID251
    from deepspeed.runtime.data_pipeline.data_sampling.data_sampler import (  # noqa: PLC0415, TID251
        DeepSpeedDataSampler,
    )

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    deepspeed.comm.init_distributed("gloo")
    learning = {
        "enabled": True,
        "data_cluster_path": str(folder / "deepspeed_clusters"),
        "curriculum_metrics": {
            name: described[name] | write_deepspeed_index(folder, name, own)
            for name, own in values.items()
        },
    }
    config = {"seed": 1, "data_sampling": {"num_epochs": 1000, "curriculum_learning": learning}}
    num_samples = len(next(iter(values.values())))
    group = deepspeed.comm.get_world_group()
    return DeepSpeedDataSampler(config, num_samples, batch_size, 0, 1, group, 1, 0)
