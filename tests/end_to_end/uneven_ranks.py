"""`pretrain_gpt.py` with rows that keep different numbers of labels, and clocks that differ by rank.

Started as a command by test_engines.py. With FAST_CLOCK_RANK=r the clock of rank r runs fast.
"""

import os
import time
from dataclasses import replace
from types import SimpleNamespace

import torch

import pretrain_gpt
from data_efficiency import IGNORED_LABEL
from megatron import training
from megatron.arguments import parse_run_config


def with_padding(batch):
    """Labels of the batch; a row keeps few of them in the first half of the rows' token numbers."""
    labels = batch["labels"].clone()
    length = labels.shape[1]
    kept = 1 + batch["tokens"][:, :1] * 7 % length
    labels[torch.arange(length)[None] >= kept] = IGNORED_LABEL
    return labels


TASK = replace(
    pretrain_gpt.TASK,
    forward_step=lambda engine, batch: (engine(batch["tokens"], labels=with_padding(batch)),),
    count_loss_terms=lambda batch: (int((with_padding(batch) != IGNORED_LABEL).sum()),),
)


def main():
    """Trains as the flags say."""
    if os.environ.get("FAST_CLOCK_RANK") == os.environ.get("RANK", "0"):
        # The loop's clock alone: the watch over other processes has its own.
        training.time = SimpleNamespace(monotonic=lambda: time.monotonic() * 1000)
    training.pretrain(parse_run_config(""), TASK)


if __name__ == "__main__":
    main()
