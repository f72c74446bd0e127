"""The `data_efficiency` section of the JSON file <-> frozen dataclasses.

Source: DeepSpeed's section of this name. Differs: the three outer `enabled` switches, which DeepSpeed
never reads, are checked against the inner ones; `index_path`, `sequence_length` and `sequence_axes` are
new.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from data_efficiency.config.curriculum import (
    LengthPlan,
    PacedMetric,
    Selection,
    missing_in_curriculum,
    read_curriculum,
)
from data_efficiency.config.random_ltd import (
    RandomLTDConfig,
    missing_in_random_ltd,
    read_random_ltd,
)
from data_efficiency.json_section import (
    ConfigError,
    NotNegative,
    Positive,
    Section,
    refuse_missing,
)
from data_efficiency.schedule.custom import CustomSchedule
from data_efficiency.schedule.protocol import Schedule

logger = logging.getLogger(__name__)

M = TypeVar("M", bound=PacedMetric)


@dataclass(frozen=True, kw_only=True)
class DataEfficiencyConfig:
    """The `data_efficiency` section."""

    seed: int = 1234
    num_epochs: int = 1000
    num_workers: int = 0
    pin_memory: bool = False
    selections: tuple[Selection, ...] = ()
    """Empty: samples are drawn uniformly."""
    random_rank: bool = False
    """The selections' pacing over a random order of the samples."""
    length_plans: tuple[LengthPlan, ...] = ()
    """Empty: rows stay as they are read."""
    sequence_axes: Mapping[str, tuple[int, ...]] | None = None
    """Entry of a batch -> its axes along the sequence; None: names tell."""
    metric_names: tuple[str, ...] = ()
    """As the file lists them; a metric may be a selection, a length plan, or both."""
    data_cluster_path: str | None = None
    """Folder where the clusters of several selections are kept; None: beside their index."""
    random_ltd: RandomLTDConfig | None = None
    """None: no token is dropped."""

    @property
    def schedules(self) -> dict[str, Schedule]:
        """Metric name -> schedule; empty without a curriculum."""
        found = {metric.name: metric.schedule for metric in (*self.selections, *self.length_plans)}
        in_order = dict.fromkeys([*self.metric_names, *found])
        return {name: found[name] for name in in_order if name in found}

    def with_custom_schedules(
        self, functions: Mapping[str, Callable[[int], int]]
    ) -> "DataEfficiencyConfig":
        """The same with functions of the step for metrics whose `schedule_type` is custom.

        Raises:
            ValueError: for an unknown metric, or one with another schedule type.
        """
        custom = {name for name, schedule in self.schedules.items() if schedule.takes_function}
        unknown = sorted(set(functions) - custom)
        if unknown:
            raise ValueError(
                f"{unknown[0]!r} is no metric with schedule_type custom; those are {sorted(custom)}"
            )

        def followed(metrics: tuple[M, ...]) -> tuple[M, ...]:
            return tuple(
                replace(metric, schedule=CustomSchedule(function=functions[metric.name]))
                if metric.name in functions
                else metric
                for metric in metrics
            )

        return replace(
            self, selections=followed(self.selections), length_plans=followed(self.length_plans)
        )


@dataclass(frozen=True, kw_only=True)
class DataEfficiencyKeys:
    """`data_efficiency`."""

    enabled: bool = False
    """Must agree with the switches inside; alone it has no effect."""
    seed: NotNegative = 1234
    """Seed of sampling and token dropping."""
    data_sampling: Section
    """Curriculum and loader, see below."""
    data_routing: Section
    """Token dropping, see below."""


@dataclass(frozen=True, kw_only=True)
class DataSamplingKeys:
    """`data_efficiency.data_sampling`."""

    enabled: bool = False
    """Must agree with curriculum_learning.enabled; alone it has no effect."""
    num_epochs: Positive = 1000
    """Upper bound on the samples drawn, in multiples of the dataset."""
    num_workers: NotNegative = 0
    """Processes that read batches ahead; 0: the main process reads."""
    pin_memory: bool = False
    """Batches in page-locked memory, for copies to a GPU."""
    dynamic_batching: Section
    """Refused when enabled: it cannot be composed with the curriculum sampler."""
    curriculum_learning: Section
    """Metrics, see below."""


@dataclass(frozen=True, kw_only=True)
class DataRoutingKeys:
    """`data_efficiency.data_routing`."""

    enabled: bool = False
    """Must agree with random_ltd.enabled; alone it has no effect."""
    random_ltd: Section
    """Random layerwise token dropping, see below."""


def read_data_efficiency(section: Section) -> DataEfficiencyConfig:
    """The parsed section."""
    keys = section.read(DataEfficiencyKeys)
    sampling = keys.data_sampling.read(DataSamplingKeys)
    routing = keys.data_routing.read(DataRoutingKeys)
    refuse_missing(
        [
            *missing_in_curriculum(sampling.curriculum_learning),
            *missing_in_random_ltd(routing.random_ltd),
        ]
    )
    curriculum, (selections, length_plans) = read_curriculum(sampling.curriculum_learning)
    dropping = read_random_ltd(routing.random_ltd, keys.seed)
    has_curriculum = bool(selections or length_plans)
    is_on = has_curriculum or dropping is not None
    _check_switch(section, on=is_on, inner="any technique in it")
    _check_switch(keys.data_sampling, on=has_curriculum, inner="curriculum_learning")
    _check_switch(keys.data_routing, on=dropping is not None, inner="random_ltd")
    if sampling.dynamic_batching.boolean("enabled", False):
        raise ConfigError(
            f"{sampling.dynamic_batching.path}.enabled is true: batches of varying size cannot be "
            "composed with the curriculum sampler; remove the section"
        )
    for part in (section, keys.data_sampling, keys.data_routing):
        part.close()
    return DataEfficiencyConfig(
        seed=keys.seed,
        num_epochs=sampling.num_epochs,
        num_workers=sampling.num_workers,
        pin_memory=sampling.pin_memory,
        selections=selections,
        random_rank=curriculum.random_rank and has_curriculum,
        length_plans=length_plans,
        metric_names=tuple(curriculum.curriculum_metrics) if has_curriculum else (),
        sequence_axes=curriculum.axes(sampling.curriculum_learning.path),
        data_cluster_path=curriculum.data_cluster_path,
        random_ltd=dropping,
    )


def _check_switch(section: Section, *, on: bool, inner: str) -> None:
    """A warning where an outer `enabled` contradicts the switches that count."""
    if "enabled" not in section:
        return
    enabled = section.boolean("enabled", False)
    if enabled != on:
        logger.warning(
            "%s.enabled is %s but %s is %s; only the inner switch counts",
            section.path,
            str(enabled).lower(),
            inner,
            "on" if on else "off",
        )
