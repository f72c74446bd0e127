"""`pretrain_gpt.py` that writes down the number of every sample its forward passes were given.

Started as a command by test_consumed_samples.py. Each process appends a line for each micro-batch to
`$RECORDS/<attempt>_<rank>.jsonl`: the step and the sample number of each row. The numbers travel with
the rows, from the reader through workers, truncation and the loader's queue, so what is written was
really consumed. `$LEAST_BYTES` is that of checkpoints' files.
"""

import json
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

import pretrain_gpt
from megatron.arguments import parse_run_config
from megatron.checkpoint import shares
from megatron.training import pretrain


def numbered_batch(get_batch, samples, visits=None):
    """The dataset's batch with one more entry, the sample number of each row."""
    return get_batch(samples, visits) | {"samples": np.array(samples, np.int64)[:, None]}


def make_datasets(config):
    """The datasets of pretraining; the training batches are numbered."""
    train, valid = pretrain_gpt.make_datasets(config)
    train.get_batch = partial(numbered_batch, train.get_batch)
    return train, valid


def forward_step(engine, batch):
    """The loss; a training batch is written down first, of those who share its rows by one."""
    if engine.module.training and not engine.ranks.tensor_parallel_rank:
        name = f"{os.environ['ATTEMPT']}_{os.environ.get('RANK', '0')}.jsonl"
        record = {
            "step": engine.training_dataloader.plan.batch.step,
            "samples": batch["samples"][:, 0].tolist(),
        }
        with (Path(os.environ["RECORDS"]) / name).open("a") as file:
            file.write(json.dumps(record) + "\n")
    return pretrain_gpt.forward_step(engine, batch)


def main():
    """Trains as the flags say."""
    shares.LEAST_BYTES = int(os.environ.get("LEAST_BYTES", shares.LEAST_BYTES))
    task = replace(pretrain_gpt.TASK, make_datasets=make_datasets, forward_step=forward_step)
    pretrain(parse_run_config(""), task)


if __name__ == "__main__":
    main()
