"""DeepSpeed's own analyzer and sampler, run in a process of their own by `test_deepspeed_format.py`.

    python deepspeed_peer.py FOLDER

analyzes FOLDER/values.npy, metric `m`, into FOLDER/analyzed/m, then draws batches with the index there
and with the one in FOLDER/exported, and writes them to FOLDER/batches.json.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import torch

os.environ["DS_ACCELERATOR"] = "cpu"

import deepspeed.comm  # noqa: E402, TID251
from deepspeed.runtime.data_pipeline.data_sampling.data_analyzer import (  # noqa: E402, TID251
    DataAnalyzer,
)
from deepspeed.runtime.data_pipeline.data_sampling.data_sampler import (  # noqa: E402, TID251
    DeepSpeedDataSampler,
)

BATCH_SIZE = 8
NUM_BATCHES = 60


def analyze(values, folder):
    analyzer = DataAnalyzer(
        torch.from_numpy(values),
        batch_size=50,
        metric_names=["m"],
        metric_functions=[lambda batch: batch],
        metric_types=["single_value_per_sample"],
        metric_dtypes=[torch.int64],
        save_path=str(folder),
    )
    analyzer.run_map()
    analyzer.run_reduce()


def draw(values, index, difficulty_type, clusters, merged=""):
    """Sample numbers of the first batches under a curriculum on `index`."""
    largest = int(values.max()) if difficulty_type == "value" else 100
    config = {
        "seed": 1234,
        "data_sampling": {
            "num_epochs": 2,
            "curriculum_learning": {
                "enabled": True,
                "data_cluster_path": str(clusters),
                "curriculum_metrics": {
                    "m": {
                        "index_to_sample_path": str(index / f"m_index_to_sample{merged}"),
                        "index_to_metric_path": str(index / "m_index_to_metric"),
                        "difficulty_type": difficulty_type,
                        "clustering_type": "schedule_based",
                        "min_difficulty": 1,
                        "max_difficulty": largest,
                        "schedule_type": "fixed_linear",
                        "schedule_config": {"total_curriculum_step": 40, "difficulty_step": 1},
                    }
                },
            },
        },
    }
    group = deepspeed.comm.new_group([0])
    sampler = DeepSpeedDataSampler(config, len(values), BATCH_SIZE, 0, 1, group, 1, 0)
    batches = iter(sampler)
    return [[int(number) for number in next(batches)] for _ in range(NUM_BATCHES)]


def main(folder):
    values = np.load(folder / "values.npy")
    analyze(values, folder / "analyzed")
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0")
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=0, world_size=1
    )
    deepspeed.comm.init_distributed("gloo", auto_mpi_discovery=False)
    batches = {}
    for kind, merged in (("value", ""), ("percentile", "_percentile_merged")):
        for name, index in (
            ("analyzed", folder / "analyzed" / "m"),
            ("exported", folder / "exported"),
        ):
            clusters = folder / f"clusters_{name}_{kind}"
            batches[f"{name} {kind}"] = draw(values, index, kind, clusters, merged)
    (folder / "batches.json").write_text(json.dumps(batches))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
