"""The `layer_dropout` section of the JSON file, and DeepSpeed's `progressive_layer_drop`, <-> frozen dataclasses."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from data_efficiency.json_section import AtLeast, ConfigError, Faults, Given, Positive, Section
from data_efficiency.schedule.protocol import Schedule
from data_efficiency.schedule.registry import kept_rows_kinds, read_schedule


@dataclass(frozen=True, kw_only=True)
class LayerDropoutConfig:
    """Layer dropout: which rows of a batch skip which layers, and what the others' change is multiplied by.

    In each layer, of every `rows_per_group` rows that follow one another in the global batch, equally many are
    kept. So micro-batches of whole groups have equally many rows in a layer, and which ones does not depend on
    how the global batch is split into micro-batches and ranks.
    """

    schedule: Given[Schedule]
    """Percent of the rows that the deepest layer keeps."""
    seed: Given[int]
    rows_per_group: Annotated[int, AtLeast(2)] = 8
    """Of so many rows equally many are kept, at least one: kept shares are multiples of 1 / rows_per_group.
    Rows of a micro-batch must be a multiple of it."""
    layer_id: tuple[int, ...] = ()
    """Which layers rows may skip, counted from 0 in the model's order. Not given, or empty: all."""
    depth: Literal["linear", "uniform"] = "linear"
    """The share of rows that skip a layer: linear (rises from 0 in the first layer to the schedule's in the last),
    or uniform (the schedule's in each)."""
    residual_scale: Literal["inverse_keep", "none"] = "inverse_keep"
    """What a layer's change of a kept row is multiplied by: inverse_keep (1 / the share of rows kept), or none (1)."""

    def kept_rows(self, step: int, layer: int, num_layers: int) -> int:
        """Rows of a group that a layer processes at `step`, from 1 to all.

        Args:
            step: optimizer steps finished, from 0.
            layer: its number, from 0.
            num_layers: of the model.

        Example:
            >>> from data_efficiency.schedule import RootSchedule
            >>> half = RootSchedule(
            ...     min_difficulty=50, max_difficulty=50, total_curriculum_step=1, difficulty_step=1
            ... )
            >>> dropout = LayerDropoutConfig(schedule=half, seed=0)
            >>> [dropout.kept_rows(0, layer, 5) for layer in range(5)]
            [8, 7, 6, 5, 4]
        """
        if self.layer_id and layer not in self.layer_id:
            return self.rows_per_group
        skipped_percent = min(100, max(0, 100 - self.schedule.difficulty(step)))
        part, whole = 1, 1
        if self.depth == "linear":
            part, whole = layer, max(1, num_layers - 1)
        # The nearest whole number, halves up.
        skipped = (2 * self.rows_per_group * skipped_percent * part + 100 * whole) // (200 * whole)
        return max(1, self.rows_per_group - skipped)

    def refuse_layers(self, num_layers: int) -> None:
        """Raise ConfigError for layers that a model of `num_layers` does not have."""
        if not all(layer < num_layers for layer in self.layer_id):
            raise ConfigError(
                f"layer_dropout.layer_id is {list(self.layer_id)}: each must be below the number of layers "
                f"({num_layers})"
            )


@dataclass(frozen=True, kw_only=True)
class LayerDropoutKeys:
    """Keys of `data_efficiency.data_routing.layer_dropout` beside the fields of `LayerDropoutConfig`."""

    enabled: bool = False
    """The switch of layer dropout."""
    keep_schedule: Section
    """Percent of the rows that the deepest layer keeps, see below."""


@dataclass(frozen=True, kw_only=True)
class KeepScheduleKeys:
    """`keep_schedule`."""

    min_value: Positive
    """Percent kept at step 0; of an exponential fall, what it comes to."""
    max_value: Positive = 100
    """Percent kept at the end; of an exponential fall, at step 0. constant: as min_value, whatever is written."""
    schedule_type: str
    """fixed_linear (rows skip less and less), fixed_discrete (by stages), constant (always min_value), exponential (they skip more and more,
    as in DeepSpeed's progressive_layer_drop), or a kind that was registered."""
    schedule_config: Section
    """What the schedule needs, see below; nothing for constant."""


@dataclass(frozen=True, kw_only=True)
class ProgressiveLayerDropKeys:
    """`progressive_layer_drop`, DeepSpeed's section, which it no longer reads."""

    enabled: bool = False
    """Read as `layer_dropout` of the same course, with a warning."""
    theta: float = 0.5
    """Share of the rows that the last layer keeps in the end; percents of it are used."""
    gamma: float = 0.001
    """How fast the share falls from 1 to theta."""


def read_layer_dropout(section: Section, seed: int) -> LayerDropoutConfig | None:
    """The parsed section; None if it is off."""
    if not section.boolean("enabled", False):
        return None
    faults = Faults()
    keys = faults.ask(lambda: section.read(LayerDropoutKeys))
    paced = None if keys is None else faults.ask(lambda: _schedule(keys.keep_schedule))
    schedule, least = (None, 100) if paced is None else paced
    given: dict[str, Any] = {"schedule": schedule, "seed": seed}
    config = faults.ask(lambda: section.read(LayerDropoutConfig, **given))
    faults.ask(section.close)
    if config is not None:
        faults.ask(lambda: _refuse_twice(section.path, config.layer_id))
        faults.ask(lambda: _refuse_nothing(section.path, config, least))
    faults.refuse()
    return config


def _schedule(section: Section) -> tuple[Schedule, int]:
    """The percent kept at each step, and the least of them."""
    keys = section.read(KeepScheduleKeys)
    high = keys.min_value if keys.schedule_type == "constant" else keys.max_value
    if not keys.min_value <= high <= 100:
        raise ConfigError(
            f"{section.path} goes from {keys.min_value} to {high} percent: must be 1 <= min_value <= max_value "
            "<= 100"
        )
    schedule = read_schedule(section, kept_rows_kinds(), keys.min_value, high)
    section.close()
    kept = [value for _, value in schedule.values(0)] if schedule.ends else []
    least = min([keys.min_value, *kept])
    if least < 1:
        raise ConfigError(f"{section.path} gives {least} percent: must be at least 1")
    return schedule, least


def _refuse_twice(path: str, layers: tuple[int, ...]) -> None:
    if len(set(layers)) != len(layers) or min(layers, default=0) < 0:
        raise ConfigError(f"{path}.layer_id is {list(layers)}: must be different layers, from 0")


def layer_dropout_of_progressive(section: Section) -> dict[str, Any] | None:
    """The `layer_dropout` section that DeepSpeed's `progressive_layer_drop` stands for; None if that is off.

    Source: DeepSpeed's `ProgressiveLayerDrop`, removed in 2026, and the models that followed it: the share kept
    falls linearly over depth to theta(t) = (1 - theta) * exp(-gamma * t) + theta in the last layer, and what a
    layer adds is divided by the share kept. Differs: one draw for a whole layer, and for each row.
    """
    keys = section.read(ProgressiveLayerDropKeys)
    section.close()
    if not keys.enabled:
        return None
    percent = round(100 * keys.theta)
    if not 1 <= percent <= 100:
        raise ConfigError(f"{section.path}.theta is {keys.theta:g}: must be from 0.01 to 1")
    section.warn(
        "is read as data_efficiency.data_routing.layer_dropout with the same course over steps and depth, drawn "
        "for each row. DeepSpeed has removed it: rates that rise over a run did worse than no dropout in "
        "comparisons; the published gain is of rates that fall (keep_schedule with fixed_linear)"
    )
    return {
        "enabled": True,
        "keep_schedule": {
            "min_value": percent,
            "max_value": 100,
            "schedule_type": "exponential",
            "schedule_config": {"rate": keys.gamma},
        },
    }


def _refuse_nothing(path: str, config: LayerDropoutConfig, least: int) -> None:
    """Raise ConfigError if no row would ever skip a layer, though the settings read as if some did."""
    if config.layer_id == (0,) and config.depth == "linear":
        raise ConfigError(
            f"{path}.layer_id is [0], but depth is linear, where no row skips the first layer: name others, or say uniform"
        )
    if 0 < config.rows_per_group * (100 - least) < 50:
        raise ConfigError(
            f"{path}.keep_schedule.min_value is {least}, which of rows_per_group {config.rows_per_group} rounds to all: "
            f"must be at most {100 - -(-50 // config.rows_per_group)}, or the group larger"
        )
