"""The `curriculum_learning` sections: metrics of the JSON file <-> selections and length plans.

A metric of the file does one of two things, or both: it decides which samples may be drawn (a
selection), and it says what happens to the rows of a batch (a length plan). They are told apart here,
once, and then go by the same name.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from data_efficiency.json_section import ConfigError, NotNegative, Positive, Section
from data_efficiency.schedule.protocol import Schedule
from data_efficiency.schedule.registry import curriculum_kinds, missing_in_schedule, read_schedule

DifficultyType = Literal["value", "percentile"]
LengthAction = Literal["truncate", "reshape", "trim_padding", "user"]
PUBLISHED_ACTIONS: Mapping[str, LengthAction] = {
    "seqlen_truncate": "truncate",
    "seqlen_reshape": "reshape",
}


@dataclass(frozen=True, kw_only=True)
class PacedMetric:
    """What selections and length plans have in common: a name and a difficulty that is paced."""

    name: str
    difficulty_type: DifficultyType
    min_difficulty: int
    max_difficulty: int
    schedule: Schedule


@dataclass(frozen=True, kw_only=True)
class Selection(PacedMetric):
    """A metric that decides which samples may be drawn."""

    index_path: str
    """Folder of the difficulty index, or DeepSpeed's `index_to_sample` without ending."""
    values_path: str | None = None
    """DeepSpeed's `index_to_metric` without ending; not read beside an index of ours."""
    trust_order: bool = False
    shuffle_index: str | None = None


@dataclass(frozen=True, kw_only=True)
class LengthPlan(PacedMetric):
    """A metric that says what happens to the rows of a batch."""

    action: LengthAction
    length_multiple: int = 1
    """Lengths are rounded up to a multiple of this."""

    @property
    def follows_schedule(self) -> bool:
        """Whether the difficulty is a length; otherwise the content of the batches decides."""
        return self.action in PUBLISHED_ACTIONS.values()

    def length_at(self, difficulty: int) -> int | None:
        """Positions of a row that a difficulty means; None where it does not decide.

        Raises:
            ValueError: for a length below 1.
        """
        if not self.follows_schedule:
            return None
        if difficulty < 1:
            raise ValueError(
                f"the schedule of metric {self.name!r} gives a sequence length of {difficulty}: "
                "must be at least 1"
            )
        return -(-difficulty // self.length_multiple) * self.length_multiple


Metrics = tuple[tuple[Selection, ...], tuple[LengthPlan, ...]]


@dataclass(frozen=True, kw_only=True)
class PacedKeys:
    """Keys of every paced difficulty."""

    min_difficulty: NotNegative
    """Difficulty at the start."""
    max_difficulty: Positive
    """Difficulty at the end; for percentile also the denominator."""
    schedule_type: str
    """fixed_linear, fixed_root, fixed_discrete, custom, or a kind that was registered."""
    schedule_config: Section
    """What the schedule needs, see below; nothing for custom."""

    def paced(self, section: Section, *, lowest: int = 0) -> dict[str, Any]:
        """The fields of a `PacedMetric` that these keys of `section` give.

        Raises:
            ConfigError: for a minimum below `lowest` or above the maximum, or a wrong schedule.
        """
        low, high = self.min_difficulty, self.max_difficulty
        if low < lowest:
            raise ConfigError(f"{section.path}.min_difficulty is {low}: must be at least {lowest}")
        if low > high:
            raise ConfigError(
                f"{section.path}.min_difficulty is {low}: above max_difficulty ({high})"
            )
        schedule = read_schedule(section, curriculum_kinds(), low, high)
        return {"min_difficulty": low, "max_difficulty": high, "schedule": schedule}


@dataclass(frozen=True, kw_only=True)
class MetricKeys(PacedKeys):
    """`data_efficiency.data_sampling.curriculum_learning.curriculum_metrics.<name>`."""

    index_path: str | None = None
    """Folder of the difficulty index (schedule_based metrics)."""
    index_to_sample_path: str | None = None
    """Published name of index_path: DeepSpeed's file without ending, or our folder as well."""
    index_to_metric_path: str | None = None
    """Where index_to_sample_path is DeepSpeed's: its file of the values, without ending."""
    trust_order: bool = False
    """Where index_to_sample_path is DeepSpeed's: its sample numbers are those of the training data given
    here. It does not say which dataset was analyzed, and Megatron-DeepSpeed shuffled before."""
    shuffle_index: str | None = None
    """Instead of trust_order: a `.npy` file, which sample of the training data each analyzed one is."""
    clustering_type: Literal["single_cluster", "schedule_based"]
    """schedule_based: the metric selects samples. single_cluster: it only drives the sequence length."""
    sequence_length: LengthAction | None = None
    """What the metric does to the length. truncate: rows are cut to the difficulty. reshape: the rows
    of a micro-batch, end to end, are cut into rows of the difficulty. trim_padding: rows are cut to
    the longest one without its padding. user: your own post-process function does,
    which must be set before the first batch. Default by the published names seqlen_truncate and
    seqlen_reshape; else user for a metric that selects no samples."""
    length_multiple: Positive = 1
    """The length is rounded up to a multiple of this, 8 for example."""
    difficulty_type: DifficultyType
    """value: samples up to the difficulty. percentile: the easiest difficulty / max_difficulty of the
    samples."""


@dataclass(frozen=True, kw_only=True)
class CurriculumKeys:
    """`data_efficiency.data_sampling.curriculum_learning`."""

    enabled: bool = False
    """The switch of curriculum sampling."""
    data_cluster_path: str | None = None
    """Folder where the clusters of two or more selecting metrics are prepared once. Not given: a
    folder `clusters` beside the first metric's index."""
    random_rank: bool = False
    """The control: the same pacing over a random order of the samples (of each part of a blend), drawn from
    the seed. What a curriculum gains beside it, it gains by its order."""
    curriculum_metrics: Any = None
    """Metric name -> the keys of METRIC; the pool is the intersection of the metrics that select
    samples."""
    sequence_axes: Any = None
    """Entry of a batch -> its axis along the sequence, or a list of axes: `{"0": 1, "1": 1}` for tuples
    (inputs, labels) [batch, sequence], `{"input_ids": 1, "mask": [2, 3]}` for a mapping. Length actions
    then cut these entries and no other. Not given: names tell, ours and Hugging Face's, and what they do
    not tell is an error."""

    def axes(self, path: str) -> dict[str, tuple[int, ...]] | None:
        """`sequence_axes` with tuples for axes.

        Raises:
            ConfigError: if it is something else.
        """
        if self.sequence_axes is None:
            return None
        given = self.sequence_axes if isinstance(self.sequence_axes, Mapping) else {}
        axes = {
            name: tuple(one) if isinstance(one, list) else (one,) for name, one in given.items()
        }
        if not axes or not all(one and all(type(a) is int for a in one) for one in axes.values()):
            raise ConfigError(
                f"{path}.sequence_axes is {self.sequence_axes!r}: must be an object of entries of a batch "
                'and their axes, such as {"input_ids": 1, "mask": [2, 3]}'
            )
        return axes


@dataclass(frozen=True, kw_only=True)
class LegacyCurriculumKeys(PacedKeys):
    """`curriculum_learning` at the top level."""

    enabled: bool = False
    """The switch of DeepSpeed's older section for sequence-length warm-up, removed there in 0.19.8;
    read as the metric seqlen_truncate."""
    curriculum_type: Literal["seqlen"]
    """What is paced."""


def missing_in_curriculum(section: Section) -> list[str]:
    """Paths of all keys that the metrics need and have not; none where it is off."""
    named = section.take("curriculum_metrics", None)
    if not section.boolean("enabled", False) or not isinstance(named, Mapping):
        return []
    metrics = [
        Section(entry, f"{section.path}.curriculum_metrics.{name}") for name, entry in named.items()
    ]
    return [
        path
        for metric in metrics
        for path in (*metric.missing(MetricKeys), *missing_in_schedule(metric))
    ]


def read_curriculum(section: Section) -> tuple[CurriculumKeys, Metrics]:
    """The keys of the section, and its selections and length plans; none where it is off."""
    keys = section.read(CurriculumKeys)
    section.close()
    if not keys.enabled:
        return keys, ((), ())
    path, named = f"{section.path}.curriculum_metrics", keys.curriculum_metrics
    if not isinstance(named, Mapping) or not named:
        raise ConfigError(f"{path} must name at least one metric")
    read = [_read_metric(name, Section(entry, f"{path}.{name}")) for name, entry in named.items()]
    selections = tuple(selection for selection, _ in read if selection is not None)
    length_plans = tuple(plan for _, plan in read if plan is not None)
    names = {plan.action: plan.name for plan in length_plans}
    if keys.random_rank and not selections:
        raise ConfigError(
            f"{section.path}.random_rank is true, but no metric selects samples (schedule_based): there is no "
            "order to replace; remove it, or add such a metric"
        )
    if "truncate" in names and "reshape" in names:
        raise ConfigError(
            f"{path}: {names['truncate']!r} truncates rows and {names['reshape']!r} reshapes them; "
            "keep one of the two"
        )
    return keys, (selections, length_plans)


def read_legacy_warm_up(section: Section) -> LengthPlan | None:
    """The length plan that a top-level `curriculum_learning` section means; None where it is off.

    Source: DeepSpeed's sequence-length warm-up, removed in 0.19.8. Differs: the loader truncates,
    so that the model need not know `curriculum_seqlen`.
    """
    if not section.boolean("enabled", False):
        return None
    paced = section.read(LegacyCurriculumKeys).paced(section, lowest=1)
    section.close()
    return LengthPlan(name="seqlen_truncate", difficulty_type="value", action="truncate", **paced)


def _read_metric(name: str, section: Section) -> tuple[Selection | None, LengthPlan | None]:
    keys = section.read(MetricKeys)
    index_path = keys.index_path or keys.index_to_sample_path
    selects = keys.clustering_type == "schedule_based"
    action = keys.sequence_length or PUBLISHED_ACTIONS.get(name) or (None if selects else "user")
    near = difflib.get_close_matches(name, PUBLISHED_ACTIONS, n=1, cutoff=0.8)
    if action == "user" and keys.sequence_length is None and near:
        raise ConfigError(
            f"{section.path} selects no samples (single_cluster) and its name is not {near[0]!r}: if that is "
            'meant, correct it; if your own post-process function reads it, say "sequence_length": "user"'
        )
    if keys.length_multiple > 1 and action in (None, "user"):
        raise ConfigError(
            f"{section.path}.length_multiple is {keys.length_multiple}, but this metric changes no "
            'length: remove it, or say what it does by "sequence_length"'
        )
    if selects and index_path is None:
        raise ConfigError(f"{section.path}.index_path is missing: name the difficulty index folder")
    paced = keys.paced(section, lowest=1 if action in PUBLISHED_ACTIONS.values() else 0)
    paced |= {"name": name, "difficulty_type": keys.difficulty_type}
    section.close()
    selection = plan = None
    if selects:
        assert index_path is not None
        selection = Selection(
            index_path=index_path,
            values_path=keys.index_to_metric_path,
            trust_order=keys.trust_order,
            shuffle_index=keys.shuffle_index,
            **paced,
        )
    if action is not None:
        plan = LengthPlan(action=action, length_multiple=keys.length_multiple, **paced)
    return selection, plan
