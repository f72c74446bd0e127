"""The `curriculum_learning` sections: metrics of the JSON file <-> selections and length plans.

A metric of the file does one of two things, or both: it decides which samples may be drawn (a
selection), and it says what happens to the rows of a batch (a length plan). They are told apart here,
once, and then go by the same name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, NoReturn, cast

from data_efficiency.config.metric_keys import OpenLengthPlan, ReadMetric, read_metric
from data_efficiency.config.metrics import (
    WINDOWS,
    LengthPlan,
    Selection,
)
from data_efficiency.config.order import Order, read_order
from data_efficiency.json_section import (
    ConfigError,
    Faults,
    Section,
)


class Metrics(NamedTuple):
    """What the metrics of a file are."""

    selections: tuple[Selection, ...] = ()
    length_plans: tuple[LengthPlan, ...] = ()
    open_plans: tuple[OpenLengthPlan, ...] = ()
    order: Order | None = None
    """None: no metric sorts the samples."""


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
    read = [faults.ask(partial(read_metric, name, entry, path)) for name, entry in named.items()]
    faults.refuse()
    keys = cast("CurriculumKeys", found)
    metrics = cast("list[ReadMetric]", read)
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
    plans: Sequence[LengthPlan | OpenLengthPlan],
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
