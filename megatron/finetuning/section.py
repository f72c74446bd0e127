"""What follows from the size of a finetuning run: its budget, and each "auto" of its section.

The budget is what a run with neither technique spends in `--epochs` passes; the shares of schedules are of
that run's steps. So the runs of a comparison differ in their techniques alone.
"""

import math
from dataclasses import dataclass
from typing import Any

from data_efficiency import ModelShape
from megatron.config import FinetuningConfig, ImageRunConfig, TextRunConfig
from megatron.engine_json import DROPPING, METRICS, engine_json
from megatron.nested_keys import put, value_at

AnyFinetuning = TextRunConfig | ImageRunConfig


@dataclass(frozen=True, kw_only=True)
class RunSize:
    """What a run's budget follows from."""

    num_layers: int
    length: int
    """Positions of a whole row."""
    num_samples: int
    """Of the training data."""

    @property
    def shape(self) -> ModelShape:
        """Of a model whose tokens are counted, and no FLOPs."""
        return ModelShape(
            num_layers=self.num_layers,
            hidden_size=0,
            query_size=0,
            key_value_size=0,
            ffn_size=0,
            num_ffn_matrices=0,
            vocab_size=0,
        )


def planned_size(config: AnyFinetuning) -> RunSize:
    """The size that the run file says, before a model or data is read.

    Raises:
        ValueError: naming all that it does not say.
    """
    settings = {**vars(config.model), **vars(config.data)}
    length = "num_positions" if isinstance(config, ImageRunConfig) else "seq_length"
    names = ("num_layers", length, "num_samples")
    missing = [f"--{name.replace('_', '-')}" for name in names if settings[name] is None]
    if missing:
        raise ValueError(
            f"not given: {', '.join(missing)}: needed to know the run before model and data are read"
        )
    layers, positions, samples = (settings[name] for name in names)
    return RunSize(num_layers=layers, length=positions, num_samples=samples)


def whole_steps(training: FinetuningConfig, size: RunSize) -> int:
    """Steps of the run with neither technique, in whole global batches."""
    return math.ceil(training.epochs * math.ceil(size.num_samples / training.batch_size))


def budget_of(training: FinetuningConfig, size: RunSize) -> tuple[str, int]:
    """What the run's length is counted in, and how much of it there is."""
    steps = whole_steps(training, size)
    amounts = {
        "steps": steps,
        "consumed_token": round(training.epochs * size.num_samples * size.length),
        "layer_tokens": steps * training.batch_size * size.length * size.num_layers,
    }
    return training.budget, amounts[training.budget]


def finetuning_json(
    config: AnyFinetuning, size: RunSize, num_processes: int | None = None
) -> dict[str, Any]:
    """The JSON object that the engine gets, schedules scaled to the run."""
    content = engine_json(config, num_processes, num_layers=size.num_layers, length=size.length)
    training, steps = config.training, whole_steps(config.training, size)
    schedule = f"{DROPPING}.random_ltd_schedule"
    values = {
        f"{schedule}.min_value": max(1, size.length // 8),
        f"{schedule}.schedule_config.require_steps": _share(training.random_ltd_share, steps),
    }
    for name in value_at(content, METRICS) or {}:
        metric = f"{METRICS}.{name}"
        values[f"{metric}.min_difficulty"] = max(1, size.length // 32)
        values[f"{metric}.schedule_config.total_curriculum_step"] = _share(
            training.curriculum_share, steps
        )
    for key, value in values.items():
        if value_at(content, key) == "auto":
            put(content, key, value)
    return content


def _share(share: float, steps: int) -> int:
    return max(1, round(share * steps))


def planned_json(config: AnyFinetuning) -> dict[str, Any]:
    """The same of the size that the run file says."""
    return finetuning_json(config, planned_size(config))
