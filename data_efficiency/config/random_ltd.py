"""The `random_ltd` section of the JSON file <-> frozen dataclasses."""

from dataclasses import dataclass, replace
from typing import Any, Literal

from data_efficiency.accounting import LearningRate
from data_efficiency.json_section import ConfigError, Given, NotNegative, Positive, Section
from data_efficiency.schedule.protocol import Schedule
from data_efficiency.schedule.registry import kept_length_kinds, missing_in_schedule, read_schedule

LengthUnit = Literal["tokens", "percent"]


@dataclass(frozen=True, kw_only=True)
class RandomLTDConfig:
    """Random layerwise token dropping: which layers drop, how they are called, the kept length."""

    total_layer_num: Positive
    """Layers of the model; checked against it."""
    random_ltd_layer_num: Positive
    """Layers that drop tokens; must be the length of random_ltd_layer_id."""
    random_ltd_layer_id: tuple[int, ...]
    """Which layers drop tokens, counted from 0 in the model's order."""
    model_mask_name: str | None
    """Keyword under which a layer receives its attention mask, or null."""
    model_type: Literal["decoder", "encoder"]
    """What the layers make."""
    hidden_state_order: Literal["batch_seq_dim", "seq_batch_dim"]
    """Order of the first two axes, for layers without a preset."""
    schedule: Given[Schedule]
    seed: Given[int]
    kept_length_unit: Given[LengthUnit] = "tokens"
    """Unit of the schedule; percent is of the sequence's present length, rounded down."""
    always_keep: tuple[int, ...] = ()
    """Positions that no layer drops, such as [0] for a class token."""
    layer_token_lr: Given[LearningRate | None] = None
    """None: the learning rate does not follow layer tokens."""


@dataclass(frozen=True, kw_only=True)
class RandomLTDKeys:
    """Keys of `data_efficiency.data_routing.random_ltd` beside the fields of `RandomLTDConfig`."""

    enabled: bool = False
    """The switch of random layerwise token dropping."""
    random_ltd_schedule: Section
    """The kept length, see below."""
    layer_token_lr_schedule: Section
    """A learning rate by layer tokens, see below."""
    global_batch_size: Any = None
    """Accepted and not used: written by other tools."""
    micro_batch_size: Any = None
    """Accepted and not used: written by other tools."""


@dataclass(frozen=True, kw_only=True)
class KeptLengthKeys:
    """`random_ltd_schedule`."""

    min_value: Positive
    """Kept tokens at step 0."""
    max_value: int | None = None
    """Kept tokens at the end, normally the sequence length. Not given: min_value."""
    unit: LengthUnit = "tokens"
    """tokens, or percent of the sequence's present length."""
    schedule_type: str
    """fixed_linear, constant (always min_value), or a kind that was registered."""
    schedule_config: Section
    """What the schedule needs, see below; nothing for constant."""


KEPT_LENGTH_NAMES = {"total_curriculum_step": "require_steps", "difficulty_step": "seq_per_step"}
"""Keys of a schedule that `random_ltd_schedule.schedule_config` writes otherwise."""


@dataclass(frozen=True, kw_only=True)
class LayerTokenLRKeys:
    """`layer_token_lr_schedule`."""

    enabled: bool = False
    """An engine's learning rate follows the layer tokens of the global batches. The GPT trainer has
    --token-counter effective instead."""
    total_layer_tokens: int | None = None
    """Layer tokens at which the rate reaches 0."""
    warmup_layer_tokens: NotNegative = 0
    """Layer tokens over which the rate rises from 0."""
    warmup_type: Literal["linear"] = "linear"
    """Course of the warm-up."""


def missing_in_random_ltd(section: Section) -> list[str]:
    """Paths of all keys that are needed and not there; none where it is off."""
    if not section.boolean("enabled", False):
        return []
    schedule = section.section("random_ltd_schedule")
    missing = section.missing(RandomLTDConfig, ("schedule", "seed"))
    missing += schedule.missing(KeptLengthKeys)
    return missing + missing_in_schedule(schedule, KEPT_LENGTH_NAMES)


def read_random_ltd(section: Section, seed: int) -> RandomLTDConfig | None:
    """The parsed section; None if it is off."""
    if not section.boolean("enabled", False):
        return None
    keys = section.read(RandomLTDKeys)
    schedule, unit = _kept_length(keys.random_ltd_schedule)
    config = section.read(
        RandomLTDConfig,
        schedule=schedule,
        seed=seed,
        kept_length_unit=unit,
        layer_token_lr=_layer_token_lr(keys.layer_token_lr_schedule),
    )
    section.close()
    layers, total = config.random_ltd_layer_id, config.total_layer_num
    if len(set(layers)) != len(layers) or len(layers) != config.random_ltd_layer_num:
        raise ConfigError(
            f"{section.path}.random_ltd_layer_id has {len(set(layers))} different layers, but "
            f"random_ltd_layer_num is {config.random_ltd_layer_num}"
        )
    if not all(0 <= layer < total for layer in layers):
        raise ConfigError(
            f"{section.path}.random_ltd_layer_id is {list(layers)}: each must be at least 0 and "
            f"below total_layer_num ({total})"
        )
    kept = config.always_keep
    if len(set(kept)) != len(kept) or min(kept, default=0) < 0:
        raise ConfigError(
            f"{section.path}.always_keep is {list(kept)}: must be different positions, from 0"
        )
    return replace(config, random_ltd_layer_id=tuple(sorted(layers)))


def _kept_length(section: Section) -> tuple[Schedule, LengthUnit]:
    keys = section.read(KeptLengthKeys)
    low, high = keys.min_value, section.integer("max_value", keys.min_value, at_least=1)
    if low > high:
        raise ConfigError(f"{section.path}.min_value is {low}: above max_value ({high})")
    if keys.unit == "percent" and high > 100:
        raise ConfigError(f"{section.path}.max_value is {high}: must be at most 100 percent")
    schedule = read_schedule(section, kept_length_kinds(), low, high, KEPT_LENGTH_NAMES)
    section.close()
    return schedule, keys.unit


def _layer_token_lr(section: Section) -> LearningRate | None:
    """Up from 0 over the warm-up, then straight down to 0 at the total, as a factor of each group's rate.

    Source: the `LayerToken` schedule of Yao et al. 2022 (arXiv 2211.11586), section 3.3, and the keys of
    DeepSpeed's `layer_token_lr_schedule`, which DeepSpeed reads and refuses.
    """
    keys = section.read(LayerTokenLRKeys)
    section.close()
    if not keys.enabled:
        return None
    total, warmup = keys.total_layer_tokens, keys.warmup_layer_tokens
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
