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
_BATCHES = "data_sampling.batch_size"
_DIFFICULTIES = ("schedule_config.difficulty_step", "schedule_config.difficulty")
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
        "global_batch_size": GLOBAL_BATCH_SIZE,
        "micro_batch_size": 1 if _has_batches(config) else GLOBAL_BATCH_SIZE,
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
    if config.data.shortest_piece is not None:
        settings["shortest_piece"] = _scaled(config.data.shortest_piece, lengths)
    batches = Fraction(GLOBAL_BATCH_SIZE, training.batch_size)
    if training.rampup_batch_size:
        start, _, samples = training.rampup_batch_size
        small = _scaled(samples, steps * batches)
        settings["rampup_batch_size"] = (_scaled(start, batches), 1, max(GLOBAL_BATCH_SIZE, small))
    sections: dict[str, Any] = {"data_efficiency": _section(config, lengths, steps, batches)}
    if config.stages:
        sections["stages"] = tuple(_smaller(stage, lengths, batches) for stage in config.stages)
    return Layer(settings=settings, sections=sections)


def _section(
    config: RunConfig, lengths: Fraction, steps: Fraction, batches: Fraction
) -> dict[str, Any]:
    """What changes in `data_efficiency`."""
    section: dict[str, Any] = {}
    for key, share in _numbers(config, lengths, steps, batches):
        value = value_at(config.data_efficiency, key)
        if isinstance(value, int):
            put(section, key, _scaled(value, share))
        elif isinstance(value, list):
            is_rising = key.endswith("max_step")
            put(section, key, [*_all_scaled(value, share, is_rising=is_rising)])
    return section


def _has_batches(config: RunConfig) -> bool:
    """Whether steps differ in their samples, which any micro-batch but 1 might not divide."""
    return (
        bool(config.training.rampup_batch_size)
        or any(stage.global_batch_size is not None for stage in config.stages)
        or value_at(config.data_efficiency, _BATCHES) is not None
    )


def _smaller(stage: Stage, lengths: Fraction, batches: Fraction) -> Stage:
    """The stage with its lengths and its batch shrunk."""
    shares = {**dict.fromkeys(_LENGTHS_OF_STAGES, lengths), "global_batch_size": batches}
    changes: dict[str, Any] = {
        key: _scaled(value, share)
        for key, share in shares.items()
        if (value := getattr(stage, key)) is not None
    }
    return replace(stage, **changes)


def _numbers(
    config: RunConfig, lengths: Fraction, steps: Fraction, batches: Fraction
) -> Iterator[tuple[str, Fraction]]:
    """Where lengths, batches and numbers of steps stand in the section, one or a list, and how they shrink."""
    metrics = "data_sampling.curriculum_learning.curriculum_metrics"
    for name, metric in (value_at(config.data_efficiency, metrics) or {}).items():
        yield f"{metrics}.{name}.schedule_config.total_curriculum_step", steps
        yield f"{metrics}.{name}.schedule_config.max_step", steps
        yield f"{metrics}.{name}.length_multiple", lengths
        if paces_length(name, metric):
            for key in ("min_difficulty", "max_difficulty", *_DIFFICULTIES):
                yield f"{metrics}.{name}.{key}", lengths
    schedule = "data_routing.random_ltd.random_ltd_schedule"
    for key in ("min_value", "max_value", "schedule_config.seq_per_step", *_DIFFICULTIES):
        yield f"{schedule}.{key}", lengths
    for key in ("require_steps", "max_step"):
        yield f"{schedule}.schedule_config.{key}", steps
    skipping = "data_routing.layer_dropout.keep_schedule.schedule_config"
    for key in ("total_curriculum_step", "max_step"):
        yield f"{skipping}.{key}", steps
    for key in ("min_value", "max_value", *_DIFFICULTIES):
        yield f"{_BATCHES}.{key}", batches
    # As BatchSizeKeys: samples are counted where nothing else is said.
    counted = {"steps": steps, "tokens": steps * batches * lengths}
    counter = value_at(config.data_efficiency, f"{_BATCHES}.counter")
    for key in ("total_curriculum_step", "max_step"):
        yield f"{_BATCHES}.schedule_config.{key}", counted.get(str(counter), steps * batches)
    yield "data_routing.full_from_step", steps
    yield "data_routing.token_superposition.num_steps", steps


def _scaled(value: int, share: Fraction) -> int:
    """The nearest whole number of the share of a value, at least 1."""
    return max(1, round(value * share))


def _all_scaled(values: list[int], share: Fraction, *, is_rising: bool) -> Iterator[int]:
    """The same of each; `is_rising`: each above the one before, as the last steps of stages are."""
    least = 1
    for value in values:
        scaled = max(least, _scaled(value, share))
        yield scaled
        least = scaled + 1 if is_rising else 1
