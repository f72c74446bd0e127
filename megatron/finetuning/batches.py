"""Which examples a step of finetuning trains on, and this process's micro-batches of them."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from data_efficiency import Ranks
from megatron.finetuning.inputs import InputRows, make_batch
from megatron.finetuning.metrics import Values

GROUPED_BATCHES = 50
"""So many batches' examples are sorted by length together."""


def epoch_order(num_examples: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """The order of the examples in an epoch, counted from 0: a permutation."""
    return np.random.default_rng((seed, epoch)).permutation(num_examples)


def epoch_batches(
    lengths: Sequence[int], batch_size: int, seed: int, epoch: int, *, group_by_length: bool
) -> list[npt.NDArray[np.int64]]:
    """The examples of each step of an epoch: each example once, one batch smaller than the others.

    Grouped, the shuffled examples are sorted by length within each run of 50 batches, and the batches
    shuffled again: a batch has rows of similar length, so less padding, and short and long ones take
    turns.

    Args:
        lengths: tokens of each example.
        batch_size: examples of a step.
        seed: with the epoch, all that the order depends on.
        epoch: counted from 0.
        group_by_length: False: the batches are those of `epoch_order`.
    """
    order = epoch_order(len(lengths), seed, epoch)
    if group_by_length:
        size = GROUPED_BATCHES * batch_size
        runs = [order[start : start + size] for start in range(0, len(order), size)]
        keys = np.asarray(lengths)
        order = np.concatenate([run[np.argsort(keys[run], kind="stable")] for run in runs])
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    if group_by_length:
        np.random.default_rng((seed, epoch, 1)).shuffle(batches)
    return batches


def own_micro_batches(
    texts: InputRows,
    labels: Values,
    chosen: npt.NDArray[np.int64],
    *,
    batch_size: int,
    num_micro_batches: int,
    ranks: Ranks,
) -> list[dict[str, torch.Tensor]]:
    """This process's micro-batches of a step; `make_batch`'s tensors, `labels` and `is_counted`.

    A last batch of an epoch is filled up with its own rows, which are not counted: so every process
    has as many forwards as any other, and row numbers do not depend on how a batch is divided.
    """
    rows = np.resize(chosen, batch_size)
    is_counted = np.arange(batch_size) < len(chosen)
    size = batch_size // (num_micro_batches * ranks.data_parallel_size)
    first = ranks.data_parallel_rank * num_micro_batches * size
    parts = [slice(first + i * size, first + (i + 1) * size) for i in range(num_micro_batches)]
    return [
        {
            **make_batch(texts, rows[part].tolist()),
            "labels": torch.from_numpy(labels[rows[part]]),
            "is_counted": torch.from_numpy(is_counted[part]),
        }
        for part in parts
    ]
