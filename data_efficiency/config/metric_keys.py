"""One metric of the JSON file <-> what it is: a selection, a length plan, or both, told apart here, once."""

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Self, cast

from data_efficiency.config.metrics import (
    ACTIONS_BY_NAME,
    DifficultyType,
    LengthAction,
    LengthPlan,
    Selection,
)
from data_efficiency.config.order import SORTED, with_pacing
from data_efficiency.json_section import (
    AUTO,
    ConfigError,
    Faults,
    NotNegative,
    Positive,
    Section,
)
from data_efficiency.schedule.registry import curriculum_kinds, read_schedule


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


class ReadMetric(NamedTuple):
    """What a metric of the file is."""

    selection: Selection | None
    plan: "LengthPlan | OpenLengthPlan | None"


def read_metric(name: str, entry: object, path: str, *, is_quiet: bool = False) -> ReadMetric:
    """The metric of a name.

    Args:
        path: of all metrics in the file.
        is_quiet: warn of nothing.

    Raises:
        ConfigError: with all that is missing or wrong in it.
    """
    entry = with_pacing(entry, f"{path}.{name}")
    section, faults = Section(entry, f"{path}.{name}", is_quiet=is_quiet), Faults()
    is_open = isinstance(entry, Mapping) and entry.get("max_difficulty") == AUTO
    if is_open and paces_length(name, cast("Mapping[str, Any]", entry)):
        # What is wrong elsewhere is told now; how long the rows are is known later.
        return ReadMetric(None, OpenLengthPlan.of(name, cast("Mapping[str, Any]", entry), path))
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
    return ReadMetric(selection, plan)


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
        tried = read_metric(name, {**content, "max_difficulty": trial}, path, is_quiet=True)
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
        plan = read_metric(self.name, entry, self.path).plan
        assert isinstance(plan, LengthPlan)
        return plan
