"""One model out of several checkpoints: the average of their weights, as if the rate had decayed.

A run of constant learning rate is averaged afterwards instead of being annealed.
Source: WSM, Tian et al., arXiv 2507.17634: what checkpoint i adds to the average stands for a decay of the gradients
after it; EMA and plain means of the last checkpoints as in arXiv 2511.18903.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from data_efficiency import LearningRate
from megatron.checkpoint.files import checkpoints_of, read_state, read_weights
from megatron.checkpoint.model import checkpoint_in, identity_of_checkpoint
from megatron.config import ModelConfig
from megatron.conversion.model import Model
from megatron.conversion.source_files import source_of
from megatron.setting_rules import require

Shape = Literal["mean", "ema", "exponential", "cosine", "minus_sqrt"]


def merging_shares(
    num_checkpoints: int, shape: Shape = "mean", *, alpha: float = 0.2
) -> list[float]:
    """Each checkpoint's share of the average, the oldest first; they sum to 1.

    Args:
        shape: mean: equal shares, which is what a linear decay comes to. ema: each share is (1 - alpha) of the next
            newer one's. The others: what their decay of the learning rate, over the checkpoints' way, comes to.

    Raises:
        ValueError: without a checkpoint, or for an alpha that is not in [0, 1).

    >>> merging_shares(4)
    [0.25, 0.25, 0.25, 0.25]
    >>> merging_shares(3, "ema", alpha=0.5) == [1 / 7, 2 / 7, 4 / 7]
    True
    """
    require(num_checkpoints >= 1, "num_checkpoints", num_checkpoints, "must be 1 or more")
    require(0 <= alpha < 1, "alpha", alpha, "must be 0 or more, and below 1")
    if shape == "mean":
        return [1 / num_checkpoints] * num_checkpoints
    if shape == "ema":
        raw = [(1 - alpha) ** age for age in reversed(range(num_checkpoints))]
        return [share / sum(raw) for share in raw]
    rate = LearningRate(
        peak=1.0,
        minimum=0.0,
        style="WSD",
        clock="steps",
        warmup=0,
        decay=num_checkpoints,
        share=1,
        anneal=num_checkpoints,
        anneal_style=shape,
    )
    left = [rate.at(number) for number in range(num_checkpoints + 1)]
    return [before - after for before, after in zip(left, left[1:], strict=False)]


def checkpoints_to_merge(folders: Sequence[Path], last: int | None) -> list[Path]:
    """The checkpoints that folders name, in their order: all of one run, or one of each of several folders.

    Args:
        folders: one run, or several runs (whose latest counts) and checkpoints.
        last: this many of the newest of them.

    Raises:
        FileNotFoundError: for a folder without a checkpoint.
        ValueError: for fewer than two, or fewer than `last`.
    """
    if len(folders) == 1 and checkpoint_in(folders[0]) != folders[0]:
        found = checkpoints_of(folders[0])
    else:
        found = []
        for folder in folders:
            checkpoint = checkpoint_in(folder)
            if checkpoint is None:
                raise FileNotFoundError(
                    f"{folder} holds no checkpoint: give runs or checkpoints of ours"
                )
            found.append(checkpoint)
    wanted = 2 if last is None else last
    if len(found) < max(2, wanted):
        raise ValueError(
            f"{' '.join(map(str, folders))}: {len(found)} checkpoints are there, {max(2, wanted)} are needed; train "
            "with --save-interval and a larger --keep-last, or name more folders"
        )
    return found if last is None else found[-last:]


def merge_checkpoints(checkpoints: Sequence[Path], shares: Sequence[float]) -> Model:
    """The model whose weights are the average, summed in float64 and rounded once.

    Every file's checksum is checked first. Memory holds the result; what it is made of is mapped from the files.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file was changed, or two checkpoints are not of one model.
    """
    newest = checkpoints[-1]
    settings = [read_state(checkpoint)["model"] for checkpoint in checkpoints]
    weights = [read_weights(checkpoint) for checkpoint in checkpoints]
    for checkpoint, found, tensors in zip(checkpoints, settings, weights, strict=True):
        other = {key for key in {*found, *settings[-1]} if found.get(key) != settings[-1].get(key)}
        other |= tensors.keys() ^ weights[-1].keys()
        if other:
            raise ValueError(
                f"{checkpoint} is of another model than {newest}: they differ in {', '.join(sorted(other)[:3])}"
            )
    average = {name: _average([one[name] for one in weights], shares) for name in weights[-1]}
    step = identity_of_checkpoint(newest)["step"]
    return Model(ModelConfig(**settings[-1]), average, source_of(newest), step)


def _average(tensors: Sequence[torch.Tensor], shares: Sequence[float]) -> torch.Tensor:
    """[...], in the dtype of the newest."""
    total = torch.zeros(tensors[-1].shape, dtype=torch.float64)
    for tensor, share in zip(tensors, shares, strict=True):
        total += share * tensor.double()
    return total.to(tensors[-1].dtype)


def merging_record(checkpoints: Sequence[Path], shares: Sequence[float]) -> list[dict[str, object]]:
    """What the merged checkpoint's state says of its parts: step, SHA-256 of the weights, share."""
    return [
        {**identity_of_checkpoint(checkpoint), "share": share}
        for checkpoint, share in zip(checkpoints, shares, strict=True)
    ]
