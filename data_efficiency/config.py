"""The DeepSpeed JSON file <-> frozen dataclasses.

Our sections are parsed whole: an unknown or misspelled key is an error that names the nearest key, a
wrong value one that names the key's path, the value and the rule. Published files load unchanged;
`json_keys.py` lists every key we understand. Sections that only DeepSpeed understands are kept as they
are for the engine, which checks them.

Source: DeepSpeed's `data_efficiency` section. Differs: the four outer `enabled` switches, which
DeepSpeed never reads, are checked against the inner ones; `index_path` and `sequence_length` are new.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from data_efficiency.json_keys import DEEPSPEED_SECTIONS
from data_efficiency.json_section import ConfigError, Section
from data_efficiency.random_ltd_config import RandomLTDConfig, random_ltd_config
from data_efficiency.schedule import CustomSchedule, DiscreteSchedule, RootSchedule, Schedule

logger = logging.getLogger(__name__)

ClusteringType = Literal["schedule_based", "single_cluster"]
SequenceLengthAction = Literal["truncate", "reshape", "trim_padding", "user"]
PUBLISHED_ACTIONS: dict[str, SequenceLengthAction] = {
    "seqlen_truncate": "truncate",
    "seqlen_reshape": "reshape",
}


@dataclass(frozen=True, kw_only=True)
class MetricConfig:
    """One difficulty metric: how it selects samples or what it does to the sequence length."""

    name: str
    difficulty_type: Literal["value", "percentile"]
    clustering_type: ClusteringType
    min_difficulty: int
    max_difficulty: int
    schedule: Schedule
    index_path: str | None = None
    sequence_length: SequenceLengthAction | None = None
    length_multiple: int = 1
    """Lengths are rounded up to a multiple of this."""

    @property
    def selects_samples(self) -> bool:
        """Whether the metric decides which samples may be drawn."""
        return self.clustering_type == "schedule_based"


@dataclass(frozen=True, kw_only=True)
class DataEfficiencyConfig:
    """The `data_efficiency` section."""

    seed: int = 1234
    num_epochs: int = 1000
    num_workers: int = 0
    pin_memory: bool = False
    metrics: tuple[MetricConfig, ...] = ()
    """Empty: samples are drawn uniformly."""
    data_cluster_path: str | None = None
    """Folder where the clusters of several selecting metrics are kept; None: beside their index."""
    random_ltd: RandomLTDConfig | None = None
    """None: no token is dropped."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole DeepSpeed JSON file, our section parsed."""

    train_batch_size: int | None = None
    train_micro_batch_size_per_gpu: int | None = None
    gradient_accumulation_steps: int | None = None
    gradient_clipping: float = 0.0
    dataloader_drop_last: bool = False
    data_efficiency: DataEfficiencyConfig = field(default_factory=DataEfficiencyConfig)
    data_efficiency_json: dict[str, Any] = field(default_factory=dict)
    """The section as it was written, for logs and checkpoints; a legacy `curriculum_learning`
    section stands in it under its own name."""
    engine_sections: dict[str, Any] = field(default_factory=dict)
    """What is left for the engine: optimizer, precision, ZeRO and the like."""

    def batch_sizes(self, data_parallel_size: int) -> tuple[int, int]:
        """Micro batch size and accumulation steps, the one that is not given derived.

        Raises:
            ConfigError: if micro batch x accumulation x data-parallel size is not the global batch.
        """
        total, micro = self.train_batch_size, self.train_micro_batch_size_per_gpu
        steps = self.gradient_accumulation_steps
        if micro is None and total is None:
            raise ConfigError("train_batch_size or train_micro_batch_size_per_gpu must be given")
        if micro is None and total is not None:
            micro = total // (data_parallel_size * (steps or 1))
        assert micro is not None
        if steps is None:
            steps = 1 if total is None else max(1, total // max(1, micro * data_parallel_size))
        if total is not None and micro * steps * data_parallel_size != total:
            raise ConfigError(
                f"train_batch_size is {total}, but train_micro_batch_size_per_gpu ({micro}) x "
                f"gradient_accumulation_steps ({steps}) x data-parallel size "
                f"({data_parallel_size}) is {micro * steps * data_parallel_size}"
            )
        return micro, steps


def load_config(source: str | Path | Mapping[str, Any] | Config) -> Config:
    """The parsed configuration of a JSON file's path or of an already read JSON object.

    Raises:
        ConfigError: with the key's path, its value and the rule, for anything not understood.
        FileNotFoundError: if the file does not exist.
    """
    if isinstance(source, Config):
        return source
    section = Section(read_json(source), "")
    engine_sections = {name: section.take(name) for name in DEEPSPEED_SECTIONS if name in section}
    raw = section.take("data_efficiency", None) or {}
    data_efficiency = _data_efficiency(Section(raw, "data_efficiency"))
    legacy = section.take("curriculum_learning", None)
    warm_up = _legacy_warm_up(Section(legacy or {}, "curriculum_learning"))
    if warm_up is not None:
        data_efficiency = _with_warm_up(data_efficiency, warm_up)
        raw = {**raw, "curriculum_learning": legacy}
    config = Config(
        train_batch_size=section.optional_int("train_batch_size"),
        train_micro_batch_size_per_gpu=section.optional_int("train_micro_batch_size_per_gpu"),
        gradient_accumulation_steps=section.optional_int("gradient_accumulation_steps"),
        gradient_clipping=section.number("gradient_clipping", 0.0, at_least=0.0),
        dataloader_drop_last=section.boolean("dataloader_drop_last", False),
        data_efficiency=data_efficiency,
        data_efficiency_json=json.loads(json.dumps(raw)),
        engine_sections=engine_sections,
    )
    section.close(also_known=DEEPSPEED_SECTIONS)
    return config


def read_json(source: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """A fresh copy of the JSON object, which nobody else holds."""
    if isinstance(source, Mapping):
        return dict(source)
    path = Path(source)
    if not path.is_file():
        raise FileNotFoundError(f"configuration file {path} does not exist")
    try:
        content = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold a JSON object, not {type(content).__name__}")
    return content


def fill_from_flags(raw: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON object with values that also exist as flags filled in.

    Args:
        raw: the JSON object.
        flags: JSON key -> value of the flag; dotted keys reach into sections.

    Raises:
        ConfigError: if the JSON says something else than the flag, unless it says "auto".
    """
    filled: dict[str, Any] = json.loads(json.dumps(raw))
    for path, value in flags.items():
        *parents, key = path.split(".")
        section = filled
        for parent in parents:
            section = section.setdefault(parent, {})
        written = section.get(key, "auto")
        if written != "auto" and written != value:
            raise ConfigError(
                f"{path} is {written!r} in the JSON file but {value!r} by the command line: "
                'make them equal, or write "auto" in the file'
            )
        section[key] = value
    return filled


def _data_efficiency(section: Section) -> DataEfficiencyConfig:
    seed = section.integer("seed", 1234, at_least=0)
    sampling = section.section("data_sampling")
    curriculum = sampling.section("curriculum_learning")
    routing = section.section("data_routing")
    random_ltd = routing.section("random_ltd")
    data_cluster_path = curriculum.optional_string("data_cluster_path")
    metrics = _metrics(curriculum)
    dropping = random_ltd_config(random_ltd, seed)
    outer_on = bool(metrics or dropping)
    _check_switch(section, on=outer_on, inner="any technique in it")
    _check_switch(sampling, on=bool(metrics), inner="curriculum_learning")
    _check_switch(routing, on=dropping is not None, inner="random_ltd")
    dynamic_batching = sampling.section("dynamic_batching")
    if dynamic_batching.boolean("enabled", False):
        raise ConfigError(
            f"{dynamic_batching.path}.enabled is true: batches of varying size cannot be composed "
            "with the curriculum sampler; remove the section"
        )
    config = DataEfficiencyConfig(
        seed=seed,
        num_epochs=sampling.integer("num_epochs", 1000, at_least=1),
        num_workers=sampling.integer("num_workers", 0, at_least=0),
        pin_memory=sampling.boolean("pin_memory", False),
        metrics=metrics,
        data_cluster_path=data_cluster_path,
        random_ltd=dropping,
    )
    for part in (section, sampling, routing):
        part.close()
    return config


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


def _metrics(section: Section) -> tuple[MetricConfig, ...]:
    enabled = section.boolean("enabled", False)
    named = section.take("curriculum_metrics", {})
    section.close()
    if not enabled:
        return ()
    if not isinstance(named, Mapping) or not named:
        raise ConfigError(f"{section.path}.curriculum_metrics must name at least one metric")
    metrics = tuple(
        _metric(name, Section(entry, f"{section.path}.curriculum_metrics.{name}"))
        for name, entry in named.items()
    )
    actions = {metric.sequence_length: metric.name for metric in metrics}
    if "truncate" in actions and "reshape" in actions:
        raise ConfigError(
            f"{section.path}.curriculum_metrics: {actions['truncate']!r} truncates rows and "
            f"{actions['reshape']!r} reshapes them; keep one of the two"
        )
    return metrics


def _legacy_warm_up(section: Section) -> MetricConfig | None:
    """The metric that a top-level `curriculum_learning` section means; None where it is off.

    Source: DeepSpeed's sequence-length warm-up, removed in 0.19.8. Differs: the loader truncates,
    so that the model need not know `curriculum_seqlen`.
    """
    if not section.boolean("enabled", False):
        return None
    section.choice("curriculum_type", ("seqlen",))
    low, high, schedule = _pacing(section, lowest=1)
    section.close()
    return MetricConfig(
        name="seqlen_truncate",
        difficulty_type="value",
        clustering_type="single_cluster",
        min_difficulty=low,
        max_difficulty=high,
        schedule=schedule,
        sequence_length="truncate",
    )


def _with_warm_up(config: DataEfficiencyConfig, warm_up: MetricConfig) -> DataEfficiencyConfig:
    """The section with the legacy warm-up as its metric."""
    if config.metrics:
        raise ConfigError(
            "curriculum_learning at the top level and in data_efficiency.data_sampling are both "
            "enabled: keep the second, where the warm-up is the metric seqlen_truncate"
        )
    return replace(config, metrics=(warm_up,))


def _metric(name: str, section: Section) -> MetricConfig:
    index_path = section.optional_string("index_path")
    published_path = section.optional_string("index_to_sample_path")
    section.optional_string("index_to_metric_path")
    clustering: ClusteringType = section.choice(
        "clustering_type", ("single_cluster", "schedule_based")
    )
    action: SequenceLengthAction | None = section.optional_choice(
        "sequence_length", ("truncate", "reshape", "trim_padding", "user")
    )
    action = action or PUBLISHED_ACTIONS.get(name)
    multiple = section.integer("length_multiple", 1, at_least=1)
    if multiple > 1 and action in (None, "user"):
        raise ConfigError(
            f"{section.path}.length_multiple is {multiple}, but this metric changes no length: "
            'remove it, or say what it does by "sequence_length"'
        )
    if clustering == "single_cluster" and action is None:
        raise ConfigError(
            f"{section.path} selects no samples (single_cluster) and does nothing to the sequence "
            'length; say "sequence_length": "truncate", "reshape", "trim_padding" or, if your own '
            'post-process function reads it, "user"'
        )
    if clustering == "schedule_based" and not (index_path or published_path):
        raise ConfigError(f"{section.path}.index_path is missing: name the difficulty index folder")
    low, high, schedule = _pacing(section, lowest=1 if action in ("truncate", "reshape") else 0)
    metric = MetricConfig(
        name=name,
        difficulty_type=section.choice("difficulty_type", ("value", "percentile")),
        clustering_type=clustering,
        min_difficulty=low,
        max_difficulty=high,
        schedule=schedule,
        index_path=index_path or published_path,
        sequence_length=action,
        length_multiple=multiple,
    )
    section.close()
    return metric


def _pacing(section: Section, *, lowest: int) -> tuple[int, int, Schedule]:
    """Minimum, maximum and schedule of a metric."""
    schedule_type = section.choice(
        "schedule_type", ("fixed_linear", "fixed_root", "fixed_discrete", "custom")
    )
    low = section.integer("min_difficulty", at_least=lowest)
    high = section.integer("max_difficulty", at_least=1)
    if low > high:
        raise ConfigError(f"{section.path}.min_difficulty is {low}: above max_difficulty ({high})")
    return low, high, _schedule(schedule_type, low, high, section)


def _schedule(kind: str, low: int, high: int, parent: Section) -> Schedule:
    section = parent.section("schedule_config")
    if kind == "custom":
        section.close()
        return CustomSchedule()
    if kind == "fixed_discrete":
        difficulties = section.integers("difficulty")
        max_steps = section.integers("max_step")
        if not max_steps or len(difficulties) != len(max_steps) + 1:
            raise ConfigError(
                f"{section.path}.difficulty has {len(difficulties)} entries and max_step "
                f"{len(max_steps)}: there must be one difficulty more than steps"
            )
        if list(max_steps) != sorted(set(max_steps)):
            raise ConfigError(f"{section.path}.max_step is {list(max_steps)}: must increase")
        section.close()
        stages = DiscreteSchedule(
            difficulties=difficulties, max_steps=max_steps, max_difficulty=high
        )
        if difficulties[0] != low:
            section.warn(f"the schedule starts at {difficulties[0]}, not at the minimum {low}")
        section.warn(*stages.corrections)
        return stages
    degree = section.integer("root_degree", at_least=1) if kind == "fixed_root" else 1
    schedule = RootSchedule(
        min_difficulty=low,
        max_difficulty=high,
        total_curriculum_step=section.integer("total_curriculum_step", at_least=1),
        difficulty_step=section.integer("difficulty_step", at_least=1),
        root_degree=degree,
    )
    section.close()
    section.warn(*schedule.corrections)
    return schedule
