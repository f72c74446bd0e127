"""A recipe in its own shape but so small that a CPU runs it in seconds."""

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any

from megatron.recipes.recipe import LENGTH_METRICS, Recipe

NUM_STEPS = 20
"""Steps of the scaled run, did it neither truncate nor drop."""
SEQ_LENGTH = 64
GLOBAL_BATCH_SIZE = 4
MODEL: dict[str, Any] = {"num_layers": 4, "hidden_size": 32, "num_attention_heads": 2}


def scale_down(recipe: Recipe) -> Recipe:
    """The recipe with a tiny model, all lengths and all steps shrunk in proportion.

    What is on stays on; percentages, learning rate and seed stay as they are. float16, which CPUs
    only imitate, becomes bfloat16, DeepSpeed's engine the PyTorch one, which every machine has, and
    batches are read by the training process.
    """
    lengths = Fraction(SEQ_LENGTH, recipe.flags["seq_length"])
    steps = Fraction(NUM_STEPS, recipe.full_length_steps)
    train_tokens = NUM_STEPS * GLOBAL_BATCH_SIZE * SEQ_LENGTH
    flags = {
        **recipe.flags,
        **MODEL,
        "seq_length": SEQ_LENGTH,
        "max_position_embeddings": SEQ_LENGTH,
        "global_batch_size": GLOBAL_BATCH_SIZE,
        "micro_batch_size": GLOBAL_BATCH_SIZE,
        "train_tokens": train_tokens,
        "fp16": False,
        "bf16": True,
        "deepspeed": False,
        "num_workers": 0,
        "log_interval": 1,
        "eval_interval": NUM_STEPS // 2,
        "eval_iters": 1,
    }
    if "lr_warmup_tokens" in flags:
        share = Fraction(flags["lr_warmup_tokens"], recipe.flags["train_tokens"])
        flags["lr_warmup_tokens"] = _scaled(train_tokens, share)
    dropping = recipe.random_ltd
    if dropping is not None:
        dropping = {
            "min_value": _scaled(dropping["min_value"], lengths),
            "seq_per_step": _scaled(dropping["seq_per_step"], lengths),
            "require_steps": _scaled(dropping["require_steps"], steps),
        }
    total = recipe.curriculum_steps
    return replace(
        recipe,
        flags=flags,
        warmup_steps=None if recipe.warmup_steps is None else _scaled(recipe.warmup_steps, steps),
        num_checkpoints=2,
        metrics={
            name: _scaled_metric(entry, lengths, is_length=name in LENGTH_METRICS)
            for name, entry in recipe.metrics.items()
        },
        curriculum_steps=None if total is None else _scaled(total, steps),
        random_ltd=dropping,
    )


def _scaled_metric(
    entry: Mapping[str, Any], lengths: Fraction, *, is_length: bool
) -> dict[str, Any]:
    """A metric's entry with its lengths scaled; its difficulties too, where they are lengths."""
    scaled = dict(entry)
    names: tuple[str, ...] = ("length_multiple",)
    if is_length:
        names += ("min_difficulty", "max_difficulty")
        pacing = dict(entry["schedule_config"])
        pacing["difficulty_step"] = _scaled(pacing["difficulty_step"], lengths)
        scaled["schedule_config"] = pacing
    return scaled | {name: _scaled(entry[name], lengths) for name in names if name in entry}


def _scaled(value: int, share: Fraction) -> int:
    """The nearest whole number of the share of a value, at least 1."""
    return max(1, round(value * share))
