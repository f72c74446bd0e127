"""What a finetuning run is made of: a task, texts or images, and the settings of one seed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from examples_deepspeed.data_efficiency.finetuning.clocks import Budget, LearningRate


@dataclass(frozen=True, kw_only=True)
class Task:
    """What differs between texts and images."""

    num_layers: int
    num_samples: int
    """Of the training data: one epoch."""
    length: int
    """Positions of a whole row that a layer sees."""
    loss: Callable[[Any, Any], torch.Tensor]
    """(engine, micro-batch) -> its mean loss."""
    shape: Callable[[Any], tuple[int, int]]
    """micro-batch -> rows, and positions of a row that a layer sees when nothing is dropped."""
    scores: Callable[[Any, Any], torch.Tensor]
    """(engine, batch) -> float64 [rows, numbers], to be summed over a whole data set."""
    quality: Callable[[Sequence[float]], float]
    """These sums -> the quality."""
    quality_name: str
    higher_is_better: bool
    validation: Any
    """Has a length and `get_batch(samples, visits)`, as the next has."""
    test: Any
    eval_batch_size: int
    export: Callable[[Any, Path], None] | None = None
    """(engine, folder): writes the finetuned model there; every process calls it."""


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Where a run stands on disk, how long it is, and how often it looks up."""

    folder: Path
    budget: Budget
    learning_rate: LearningRate
    seed: int
    eval_interval_steps: int
    save_interval_steps: int
    description: Mapping[str, Any]
    """Plain JSON data that says which run it is; a run goes on only with its own."""
