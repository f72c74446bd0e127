"""DeepSpeed's analyzer, run in a process of its own by `test_beside_deepspeed.py`.

    python deepspeed_analyzer_peer.py FOLDER...

Each folder has `samples.npy`, int64 [N, 1 + longest]: the length of each sample, then its tokens and
padding, and `settings.json` with `vocab_size` and `max_length`. The values of metric m are written to
`theirs_m.npy`. The metrics are written down here once more, from their published formulas.
"""

import json
import math
import os
import sys
from pathlib import Path

import numpy as np
import torch

os.environ["DS_ACCELERATOR"] = "cpu"

from deepspeed.runtime.data_pipeline.data_sampling.data_analyzer import (  # noqa: E402, TID251
    DataAnalyzer,
)
from deepspeed.runtime.data_pipeline.data_sampling.indexed_dataset import (  # noqa: E402, TID251
    MMapIndexedDataset,
)

EACH, SUM = "single_value_per_sample", "accumulate_value_over_samples"


def analyze(samples, folder, metric, function, kind):
    """What DeepSpeed computes for a metric, as an array."""
    analyzer = DataAnalyzer(
        torch.from_numpy(samples),
        batch_size=500,
        metric_names=[metric],
        metric_functions=[function],
        metric_types=[kind],
        metric_dtypes=[torch.int64],
        save_path=str(folder / "deepspeed"),
    )
    analyzer.run_map()
    analyzer.run_reduce()
    ending = "sample_to_metric" if kind == EACH else "metric_value"
    rows = MMapIndexedDataset(str(folder / "deepspeed" / metric / f"{metric}_{ending}"))
    values = np.concatenate([np.array(rows[i]).ravel() for i in range(len(rows))])
    np.save(folder / f"theirs_{metric}.npy", values)
    return values


def parts(batch):
    lengths, tokens = batch[:, 0].numpy(), batch[:, 1:].numpy()
    return tokens, np.arange(tokens.shape[1]) < lengths[:, None]


def main(folder):
    samples = np.load(folder / "samples.npy")
    settings = json.loads((folder / "settings.json").read_text())
    size = settings["vocab_size"] + 1

    def seqlen(batch):
        return torch.from_numpy(parts(batch)[1].sum(axis=1))

    def frequencies(batch):
        tokens, mask = parts(batch)
        return torch.from_numpy(np.bincount(tokens[mask], minlength=size))

    frequency = analyze(samples, folder, "total_vocab_freq", frequencies, SUM).astype(np.float64)
    frequency[frequency == 0] = 1
    cost = -np.log(frequency / frequency.sum())
    factor = 10 ** (math.ceil(math.log10(settings["max_length"] * cost.max())) + 1)

    def rarity(batch):
        tokens, mask = parts(batch)
        return torch.from_numpy((cost[tokens] * mask).sum(axis=1).astype(np.int64))

    analyze(samples, folder, "seqlen", seqlen, EACH)
    analyze(samples, folder, "vocab_rarity", rarity, EACH)
    analyze(
        samples,
        folder,
        "seqlen_vocab_rarity",
        lambda batch: seqlen(batch) * factor + rarity(batch),
        EACH,
    )


if __name__ == "__main__":
    for name in sys.argv[1:]:
        main(Path(name))
