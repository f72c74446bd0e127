"""The `curriculum_learning` sections: metrics of the JSON file <-> selections and length plans.

A metric of the file does one of two things, or both: it decides which samples may be drawn (a
selection), and it says what happens to the rows of a batch (a length plan). They are told apart here,
once, and then go by the same name.
"""

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, NoReturn, Self, cast

from data_efficiency.config.metrics import (
    ACTIONS_BY_NAME,
    WINDOWS,
    DifficultyType,
    LengthAction,
    LengthPlan,
    Selection,
)
from data_efficiency.config.order import SORTED, Order, read_order, with_pacing
from data_efficiency.json_section import (
    AUTO,
    ConfigError,
    Faults,
    NotNegative,
    Positive,
    Section,
)
from data_efficiency.schedule.registry import curriculum_kinds, read_schedule


class Metrics(NamedTuple):
    """What the metrics of a file are."""

    selections: tuple[Selection, ...] = ()
    length_plans: tuple[LengthPlan, ...] = ()
    open_plans: tuple["OpenLengthPlan", ...] = ()
    order: Order | None = None
    """None: no metric sorts the samples."""


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

    max_difficulty: Positive
    """Difficulty at the end; for percentile also the denominator. Of a length, "auto" is that of the rows."""
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
    clustering_type: Literal["single_cluster", "schedule_based", "sorted"]
    """schedule_based: the metric selects samples. single_cluster: it only drives the sequence length. sorted: it
    sorts all samples, see `order`; keys of the difficulty and its schedule are left out."""
    window_size: int | None = None
    """schedule_based: difficulties that the pool reaches down from the highest so far, in the unit of `difficulty_type`;
    samples further down are retired. Not given: none is."""
    num_bands: int | None = None
    """sorted: the metric tells this many bands of equally many samples apart, and the next metric sorts inside
    each. Not given: it sorts exactly, and is the last one."""
    sequence_length: LengthAction | None = None
    """What the metric does to the length. truncate: rows are cut to the difficulty. reshape: the rows
    of a micro-batch, end to end, are cut into rows of the difficulty. attention_window: rows stay as they are, and
    attention looks no further than a block of as many positions; the blocks lie side by side. sliding_window: no
    further than as many positions, the token's own among them. Both are arguments of the model's forward.
    trim_padding: rows are cut to
    the longest one without its padding. user: your own post-process function does,
    which must be set before the first batch. Default by the names seqlen_truncate,
    seqlen_reshape, attention_window and sliding_window; else user for a metric that selects no samples."""
    length_multiple: Positive = 1
    """The length is rounded up to a multiple of this, 8 for example."""
    constant_tokens: bool = False
    """truncate: while rows are shorter than max_difficulty, read as many more of them, whole numbers of times, so that the
    tokens of an update stay nearly what they are at the end. Not given: a step has one number of rows, as published."""
    keep_end_token: Any = None
    """truncate: id of the token that ends texts, or "auto" for the dataset's `end_of_text`: a row that ends with it ends with it
    when it is cut, too. Not given: what is cut off is cut off."""
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
    order: Section
    """In which order sorted samples are played, see below."""
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


def read_curriculum(section: Section) -> tuple[CurriculumKeys, Metrics]:
    """The keys of the section, and what its metrics are; nothing where it is off."""
    faults = Faults()
    found = faults.ask(lambda: section.read(CurriculumKeys))
    faults.ask(section.close)
    path, named = f"{section.path}.curriculum_metrics", section.take("curriculum_metrics", None)
    if found is not None and not found.enabled:
        faults.refuse()
        return found, Metrics()
    if not isinstance(named, Mapping) or not named:
        faults.ask(partial(_refuse, f"{path} must name at least one metric"))
        named = {}
    read = [faults.ask(partial(_read_metric, name, entry, path)) for name, entry in named.items()]
    faults.refuse()
    keys = cast("CurriculumKeys", found)
    metrics = cast("list[_Metric]", read)
    selections = tuple(one.selection for one in metrics if one.selection is not None)
    length_plans = tuple(one.plan for one in metrics if isinstance(one.plan, LengthPlan))
    open_plans = tuple(one.plan for one in metrics if isinstance(one.plan, OpenLengthPlan))
    bands = {one.name: one.num_bands for one in selections if one.sorts}
    order = read_order(keys.order, bands, is_on="order" in section)
    _refuse_contradictions(section, keys, selections, (*length_plans, *open_plans))
    return keys, Metrics(selections, length_plans, open_plans, order)


def _refuse(message: str) -> NoReturn:
    raise ConfigError(message)


def _refuse_contradictions(
    section: Section,
    keys: CurriculumKeys,
    selections: Sequence[Selection],
    plans: Sequence["LengthPlan | OpenLengthPlan"],
) -> None:
    """Raise ConfigError for metrics that do not go together."""
    path, names = f"{section.path}.curriculum_metrics", {plan.action: plan.name for plan in plans}
    thresholds = [one for one in selections if not one.sorts]
    if thresholds and len(thresholds) < len(selections):
        sorting = next(one.name for one in selections if one.sorts)
        raise ConfigError(
            f"{path}: {thresholds[0].name!r} admits samples by a schedule and {sorting!r} sorts them all; "
            "keep one of the two"
        )
    if len(thresholds) > 1 and any(one.window_size for one in thresholds):
        raise ConfigError(
            f"{path}: window_size retires samples of a pool that one metric selects, but "
            f"{' and '.join(repr(one.name) for one in thresholds)} select; keep one of them"
        )
    if keys.random_rank and not selections:
        raise ConfigError(
            f"{section.path}.random_rank is true, but no metric selects samples (schedule_based): there is no "
            "order to replace; remove it, or add such a metric"
        )
    if all(action in names for action in WINDOWS):
        raise ConfigError(
            f"{path}: {names['attention_window']!r} and {names['sliding_window']!r} both limit what attention "
            "looks at; keep one of the two"
        )
    truncating = [plan.name for plan in plans if plan.action == "truncate"]
    if len(truncating) > 1 and any(plan.constant_tokens for plan in plans):
        raise ConfigError(
            f"{path}: {' and '.join(map(repr, truncating))} truncate rows, and constant_tokens follows one of them; keep one"
        )
    if "truncate" in names and "reshape" in names:
        raise ConfigError(
            f"{path}: {names['truncate']!r} truncates rows and {names['reshape']!r} reshapes them; "
            "keep one of the two"
        )


class _Metric(NamedTuple):
    """What a metric of the file is."""

    selection: Selection | None
    plan: "LengthPlan | OpenLengthPlan | None"


def _read_metric(name: str, entry: object, path: str, *, is_quiet: bool = False) -> _Metric:
    entry = with_pacing(entry, f"{path}.{name}")
    section, faults = Section(entry, f"{path}.{name}", is_quiet=is_quiet), Faults()
    is_open = isinstance(entry, Mapping) and entry.get("max_difficulty") == AUTO
    if is_open and paces_length(name, cast("Mapping[str, Any]", entry)):
        # What is wrong elsewhere is told now; how long the rows are is known later.
        return _Metric(None, OpenLengthPlan.of(name, cast("Mapping[str, Any]", entry), path))
    keys = faults.ask(lambda: section.read(MetricKeys))
    if keys is None:
        quiet = Section(entry, section.path, is_quiet=True)
        faults.ask(lambda: read_schedule(quiet, curriculum_kinds(), 1, 1))
        faults.ask(section.close)
        faults.refuse()
        raise AssertionError(section.path)
    action = _action(name, keys)
    lowest = 1 if action in ACTIONS_BY_NAME.values() else 0
    paced = faults.ask(lambda: keys.paced(section, lowest=lowest))
    faults.ask(lambda: _refuse_unfit(section, name, keys, action))
    faults.ask(section.close)
    faults.refuse()
    assert paced is not None
    paced |= {"name": name, "difficulty_type": keys.difficulty_type}
    index_path = keys.index_path or keys.index_to_sample_path
    selection = plan = None
    if keys.clustering_type != "single_cluster":
        assert index_path is not None
        section.warn(*paced["schedule"].corrections_of_pools)
        selection = Selection(
            index_path=index_path,
            values_path=keys.index_to_metric_path,
            trust_order=keys.trust_order,
            shuffle_index=keys.shuffle_index,
            window_size=keys.window_size,
            sorts=keys.clustering_type == SORTED,
            num_bands=keys.num_bands,
            **paced,
        )
    if action is not None:
        plan = LengthPlan(
            action=action,
            length_multiple=keys.length_multiple,
            constant_tokens=keys.constant_tokens,
            keep_end_token=None if keys.keep_end_token == AUTO else keys.keep_end_token,
            finds_end_token=keys.keep_end_token == AUTO,
            **paced,
        )
        _refuse_unknown_sizes(section.path, plan)
    return _Metric(selection, plan)


def _refuse_unknown_sizes(path: str, plan: LengthPlan) -> None:
    """Raise ConfigError for tokens that cannot be kept constant."""
    schedule = plan.schedule
    if plan.constant_tokens and (schedule.takes_function or not schedule.ends):
        raise ConfigError(
            f"{path}.constant_tokens is true, but how many rows each step has is not known beforehand "
            f"({schedule.describe()}): use a schedule_type that ends, or remove it"
        )


def _action(name: str, keys: MetricKeys) -> LengthAction | None:
    """What a metric does to the length of rows."""
    selects = keys.clustering_type != "single_cluster"
    return keys.sequence_length or ACTIONS_BY_NAME.get(name) or (None if selects else "user")


def _refuse_unfit(
    section: Section, name: str, keys: MetricKeys, action: LengthAction | None
) -> None:
    """Raise ConfigError for keys of a metric that do not go together."""
    near = difflib.get_close_matches(name, ACTIONS_BY_NAME, n=1, cutoff=0.8)
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
    _refuse_untruncated(section, keys, action)
    kind = keys.clustering_type
    for key, wanted in (("window_size", "schedule_based"), ("num_bands", SORTED)):
        if getattr(keys, key) is not None and kind != wanted:
            raise ConfigError(
                f"{section.path}.{key} is {getattr(keys, key)}, but belongs to a metric whose clustering_type is "
                f"{wanted}, not {kind}: remove it"
            )
    selects = kind != "single_cluster"
    cuts_by_name = keys.sequence_length is None and name in ACTIONS_BY_NAME
    if kind == SORTED and action is not None:
        raise ConfigError(
            f"{section.path} sorts samples and would change the length of rows too ({action}): give the "
            "metric that sorts another name, and no sequence_length"
        )
    if selects and cuts_by_name and keys.difficulty_type == "percentile":
        raise ConfigError(
            f"{section.path}.difficulty_type is 'percentile', but a metric of this name cuts rows to its difficulty "
            "too, which is a length then: give it another name, such as seqlen, or go by value"
        )
    index_path = keys.index_path or keys.index_to_sample_path
    if selects and index_path is None:
        path = f"{section.path}.index_path"
        raise ConfigError(missing={path: f"{path} is missing: name the difficulty index folder"})


def _refuse_untruncated(section: Section, keys: MetricKeys, action: LengthAction | None) -> None:
    """Raise ConfigError for keys of truncation that are wrong, or of another metric's."""
    for key in ("constant_tokens", "keep_end_token"):
        value = getattr(keys, key)
        if value not in (None, False) and action != "truncate":
            raise ConfigError(
                f"{section.path}.{key} is {json.dumps(value)}, but belongs to a metric that truncates rows: remove it"
            )
    end = keys.keep_end_token
    if end not in (None, AUTO) and (type(end) is not int or end < 0):
        raise ConfigError(
            f'{section.path}.keep_end_token is {end!r}: must be the id of a token, or "auto"'
        )


def paces_length(name: str, entry: Mapping[str, Any]) -> bool:
    """Whether a metric of the file paces the length of rows.

    Example:
        >>> paces_length("seqlen_truncate", {}), paces_length("mine", {"sequence_length": "user"})
        (True, False)
    """
    action = entry.get("sequence_length") or ACTIONS_BY_NAME.get(name)
    return action in ACTIONS_BY_NAME.values()


@dataclass(frozen=True, kw_only=True)
class OpenLengthPlan:
    """A metric of the file that paces lengths up to "auto", before it is known how long the rows are."""

    name: str
    action: LengthAction
    content: Mapping[str, Any]
    """Its keys as they are written."""
    path: str
    """Of all metrics in the file."""

    @property
    def constant_tokens(self) -> bool:
        """As of the `LengthPlan`."""
        return self.content.get("constant_tokens") is True

    @classmethod
    def of(cls, name: str, content: Mapping[str, Any], path: str) -> Self:
        """The metric `name` of the file.

        Raises:
            ConfigError: for whatever is wrong with it but its maximum.
        """
        lowest = content.get("min_difficulty")
        trial = lowest if type(lowest) is int and lowest > 0 else 1
        tried = _read_metric(name, {**content, "max_difficulty": trial}, path, is_quiet=True)
        assert isinstance(tried.plan, LengthPlan)
        if tried.selection is not None:
            raise ConfigError(
                f"{path}.{name}.max_difficulty is {AUTO!r}, but the metric selects samples: give a number"
            )
        return cls(name=name, action=tried.plan.action, content=content, path=path)

    def closed(self, length: int) -> LengthPlan:
        """The plan for rows of a length.

        Raises:
            ConfigError: if it starts above that.
        """
        entry = {**self.content, "max_difficulty": length}
        plan = _read_metric(self.name, entry, self.path).plan
        assert isinstance(plan, LengthPlan)
        return plan
