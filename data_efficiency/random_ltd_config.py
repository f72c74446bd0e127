"""The `random_ltd` section of the JSON file <-> frozen dataclasses."""

from dataclasses import dataclass
from typing import Literal

from data_efficiency.accounting import LearningRate
from data_efficiency.json_section import ConfigError, Section
from data_efficiency.schedule import RootSchedule, Schedule


@dataclass(frozen=True, kw_only=True)
class RandomLTDConfig:
    """Random layerwise token dropping: which layers drop, how they are called, the kept length."""

    total_layer_num: int
    random_ltd_layer_num: int
    random_ltd_layer_id: tuple[int, ...]
    model_mask_name: str | None
    model_type: Literal["decoder", "encoder"]
    hidden_state_order: Literal["batch_seq_dim", "seq_batch_dim"]
    schedule: Schedule
    seed: int
    kept_length_unit: Literal["tokens", "percent"] = "tokens"
    """Unit of the schedule; percent is of the sequence's present length, rounded down."""
    always_keep: tuple[int, ...] = ()
    """Positions that no layer ever drops."""
    layer_token_lr: LearningRate | None = None
    """None: the learning rate does not follow layer tokens."""


def random_ltd_config(section: Section, seed: int) -> RandomLTDConfig | None:
    """The parsed section; None if it is off.

    Args:
        section: `data_efficiency.data_routing.random_ltd`.
        seed: of the subsets.

    Raises:
        ConfigError: for anything not understood.
    """
    enabled = section.boolean("enabled", False)
    if not enabled:
        return None
    for name in ("global_batch_size", "micro_batch_size"):
        section.take(name, None)
    layer_ids = section.integers("random_ltd_layer_id")
    num_layers = section.integer("random_ltd_layer_num", at_least=1)
    total = section.integer("total_layer_num", at_least=1)
    if len(set(layer_ids)) != len(layer_ids) or len(layer_ids) != num_layers:
        raise ConfigError(
            f"{section.path}.random_ltd_layer_id has {len(set(layer_ids))} different layers, but "
            f"random_ltd_layer_num is {num_layers}"
        )
    if not all(0 <= layer < total for layer in layer_ids):
        raise ConfigError(
            f"{section.path}.random_ltd_layer_id is {list(layer_ids)}: each must be at least 0 and "
            f"below total_layer_num ({total})"
        )
    always_keep = section.integers("always_keep") if "always_keep" in section else ()
    if len(set(always_keep)) != len(always_keep) or min(always_keep, default=0) < 0:
        raise ConfigError(
            f"{section.path}.always_keep is {list(always_keep)}: must be different positions, from 0"
        )
    schedule, unit = _kept_length_schedule(section.section("random_ltd_schedule"))
    config = RandomLTDConfig(
        total_layer_num=total,
        random_ltd_layer_num=num_layers,
        random_ltd_layer_id=tuple(sorted(layer_ids)),
        model_mask_name=section.optional_string("model_mask_name"),
        model_type=section.choice("model_type", ("decoder", "encoder")),
        hidden_state_order=section.choice("hidden_state_order", ("batch_seq_dim", "seq_batch_dim")),
        schedule=schedule,
        seed=seed,
        kept_length_unit=unit,
        always_keep=always_keep,
        layer_token_lr=_layer_token_lr(section.section("layer_token_lr_schedule")),
    )
    section.close()
    return config


def _kept_length_schedule(section: Section) -> tuple[RootSchedule, Literal["tokens", "percent"]]:
    unit: Literal["tokens", "percent"] = (
        section.optional_choice("unit", ("tokens", "percent")) or "tokens"
    )
    kind = section.choice("schedule_type", ("fixed_linear", "constant"))
    low = section.integer("min_value", at_least=1)
    high = section.integer("max_value", low, at_least=1)
    details = section.section("schedule_config")
    if low > high:
        raise ConfigError(f"{section.path}.min_value is {low}: above max_value ({high})")
    if unit == "percent" and high > 100:
        raise ConfigError(f"{section.path}.max_value is {high}: must be at most 100 percent")
    if kind == "constant" and low != high:
        raise ConfigError(
            f"{section.path}.max_value is {high}: a constant schedule has min_value ({low}) only"
        )
    if kind == "constant":
        steps, granularity = 1, 1
    else:
        steps = details.integer("require_steps", at_least=1)
        granularity = details.integer("seq_per_step", at_least=1)
    schedule = RootSchedule(
        min_difficulty=low,
        max_difficulty=high,
        total_curriculum_step=steps,
        difficulty_step=granularity,
    )
    details.close()
    section.close()
    section.warn(*schedule.corrections)
    return schedule, unit


def _layer_token_lr(section: Section) -> LearningRate | None:
    """Up from 0 over the warm-up, then straight down to 0 at the total, as a factor of each group's rate.

    Source: the `LayerToken` schedule of Yao et al. 2022 (arXiv 2211.11586), section 3.3, and the keys of
    DeepSpeed's `layer_token_lr_schedule`, which DeepSpeed reads and refuses.
    """
    enabled = section.boolean("enabled", False)
    section.optional_choice("warmup_type", ("linear",))
    total = section.optional_int("total_layer_tokens")
    warmup = section.integer("warmup_layer_tokens", 0, at_least=0)
    section.close()
    if not enabled:
        return None
    if total is None or total <= warmup:
        raise ConfigError(
            f"{section.path}.total_layer_tokens is {total}: must be given and above "
            f"warmup_layer_tokens ({warmup})"
        )
    return LearningRate(
        peak=1.0,
        minimum=0.0,
        style="linear",
        clock="layer",
        warmup=warmup,
        decay=total,
        share=0,
        relative=True,
    )
