"""A run in its own shape but so small that a CPU runs it in seconds."""

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Any

from data_efficiency.config import paces_length
from megatron.config import RunConfig, Stage
from megatron.nested_keys import put, value_at
from megatron.recipes.run_file import Layer

NUM_STEPS = 20
"""Steps of the scaled run, did it neither truncate nor drop."""
SEQ_LENGTH = 64
GLOBAL_BATCH_SIZE = 4
_LENGTHS_OF_STAGES = ("seq_length", "attention_window", "sliding_window", "kept_length")


def scale_down(config: RunConfig) -> Layer:
    """What changes in a run with a tiny model, all lengths and all steps shrunk in proportion.

    What is on stays on; percentages, learning rate and seed stay as they are. float16, which CPUs
    only imitate, becomes bfloat16, DeepSpeed's engine the PyTorch one, which every machine has, and
    batches are read by the training process.
    """
    training = config.training
    steps = Fraction(NUM_STEPS, config.num_whole_steps)
    budgets = {
        "train_iters": NUM_STEPS,
        "train_samples": NUM_STEPS * GLOBAL_BATCH_SIZE,
        "train_tokens": NUM_STEPS * GLOBAL_BATCH_SIZE * SEQ_LENGTH,
    }
    settings: dict[str, Any] = {
        **{"num_layers": 4, "hidden_size": 32, "num_attention_heads": 2},
        **{"seq_length": SEQ_LENGTH, "max_position_embeddings": SEQ_LENGTH, "num_workers": 0},
        **{"global_batch_size": GLOBAL_BATCH_SIZE, "micro_batch_size": GLOBAL_BATCH_SIZE},
        **{
            "fp16": False,
            "bf16": True,
            "deepspeed": False,
            "num_checkpoints": 2,
            "save_interval": None,
        },
        **{"log_interval": 1, "eval_interval": NUM_STEPS // 2, "eval_iters": 1},
    }
    for name, budget in budgets.items():
        whole = getattr(training, name)
        if whole is not None:
            settings[name] = budget
            for part in (
                f"{part}_{name[6:]}" for part in ("lr_warmup", "lr_decay", "lr_wsd_decay")
            ):
                if getattr(training, part):
                    settings[part] = _scaled(getattr(training, part), Fraction(budget, whole))
    if training.lr_warmup_iters:
        settings["lr_warmup_iters"] = _scaled(training.lr_warmup_iters, steps)
    lengths = Fraction(SEQ_LENGTH, config.data.seq_length)
    section: dict[str, Any] = {}
    for key, share in _numbers(config, lengths, steps):
        value = value_at(config.data_efficiency, key)
        if isinstance(value, int):
            put(section, key, _scaled(value, share))
    sections: dict[str, Any] = {"data_efficiency": section}
    if config.stages:
        sections["stages"] = tuple(_shorter(stage, lengths) for stage in config.stages)
    return Layer(settings=settings, sections=sections)


def _shorter(stage: Stage, share: Fraction) -> Stage:
    """The stage with its lengths shrunk."""
    lengths: dict[str, Any] = {
        key: _scaled(value, share)
        for key in _LENGTHS_OF_STAGES
        if (value := getattr(stage, key)) is not None
    }
    return replace(stage, **lengths)


def _numbers(
    config: RunConfig, lengths: Fraction, steps: Fraction
) -> Iterator[tuple[str, Fraction]]:
    """Where a length or a number of steps stands in the section, and how it shrinks."""
    metrics = "data_sampling.curriculum_learning.curriculum_metrics"
    for name, metric in (value_at(config.data_efficiency, metrics) or {}).items():
        yield f"{metrics}.{name}.schedule_config.total_curriculum_step", steps
        yield f"{metrics}.{name}.length_multiple", lengths
        if paces_length(name, metric):
            for key in ("min_difficulty", "max_difficulty", "schedule_config.difficulty_step"):
                yield f"{metrics}.{name}.{key}", lengths
    schedule = "data_routing.random_ltd.random_ltd_schedule"
    for key in ("min_value", "max_value", "schedule_config.seq_per_step"):
        yield f"{schedule}.{key}", lengths
    yield f"{schedule}.schedule_config.require_steps", steps
    skipping = "data_routing.layer_dropout.keep_schedule.schedule_config"
    yield f"{skipping}.total_curriculum_step", steps
    yield "data_routing.full_from_step", steps
    yield "data_routing.token_superposition.num_steps", steps


def _scaled(value: int, share: Fraction) -> int:
    """The nearest whole number of the share of a value, at least 1."""
    return max(1, round(value * share))
