"""What a configuration will do at each step, known before a single step is run.

A run is walked over once, from change to change: where no schedule moves, the steps are one stretch,
so a run of a billion steps is a few hundred of them. Difficulties, pools, shapes and counts come from
the functions that training itself uses, so a plan and the log of the run say the same. Every position
is taken to have a label in the loss, and samples to be as long as the sequence; what depends on the
samples' content (padding) cannot be planned.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from data_efficiency.accounting import Counters, ModelShape, StepShape
from data_efficiency.config import Config, DataEfficiencyConfig, load_config
from data_efficiency.difficulty_index import DifficultyIndex
from data_efficiency.json_section import ConfigError
from data_efficiency.plan_walk import Stretch, Walk, count_step, times
from data_efficiency.sampling.drawn_clusters import order_without_index
from data_efficiency.sampling.mix_course import MixCourse
from data_efficiency.sampling.played_order import PlayedOrder
from data_efficiency.sampling.sampler import CurriculumSampler
from data_efficiency.sampling.selection_index import open_index
from data_efficiency.schedule import growth

Int64Array = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """The steps of a run, counted from 1."""

    config: Config
    model: ModelShape
    num_samples: int
    """Of the dataset."""
    full_batch: StepShape
    """A global batch as it is read."""
    stretches: tuple[Stretch, ...]
    """The steps one after the other, by their shapes."""
    played: PlayedOrder | None = None
    """The order in which sorted samples are played, as without a blend."""
    pools: tuple[Int64Array, Int64Array]
    """int64 [changes] each: the steps at which the pool changes, from 1 on, and its sizes from there."""

    @property
    def num_steps(self) -> int:
        """Planned steps."""
        return self.stretches[-1].first_step + self.stretches[-1].num_steps - 1

    def stretch_at(self, step: int) -> Stretch:
        """The stretch that a step belongs to."""
        return self.stretches[self._number_at(step)]

    def pool_size(self, step: int) -> int:
        """Samples that a step can draw."""
        steps, sizes = self.pools
        return int(sizes[np.searchsorted(steps, step, side="right") - 1])

    def difficulties(self, step: int) -> dict[str, int]:
        """What each metric's schedule accepts at a step, as `GlobalBatch.difficulties`."""
        settings = self.config.data_efficiency
        found = {name: schedule.difficulty(step) for name, schedule in settings.schedules.items()}
        if self.played is not None:
            drawn = np.array([self.counters(step - 1).consumed_samples], np.int64)
            found[settings.selections[0].name] = self.played.percent_at(drawn)
        return found

    def part_shares(self, step: int) -> tuple[float, ...]:
        """In which proportions a step draws from the parts of a blend; nothing where no mix says it."""
        mix = self.config.data_efficiency.mix
        if mix is None:
            return ()
        return tuple(MixCourse(mix).weights_at(self.counters(step - 1).consumed_samples).tolist())

    def counters(self, step: int) -> Counters:
        """Totals up to the end of `step` >= 0, exact."""
        number = max(0, self._number_at(step))
        stretch = self.stretches[number]
        done = step - stretch.first_step + 1
        return self._totals_before[number].plus(times(stretch.counts, done))

    def step_that_fills(self, counter: str, amount: float) -> int:
        """The first step whose totals of a field of `Counters` are `amount` or more.

        Where the run does not come so far, the step after its last.
        """
        number = bisect_left(self._totals_before, amount, key=lambda total: getattr(total, counter))
        if number > len(self.stretches):
            return self.num_steps + 1
        if number == 0:
            return 1
        stretch = self.stretches[number - 1]
        missing = amount - getattr(self._totals_before[number - 1], counter)
        return stretch.first_step - 1 + math.ceil(missing / getattr(stretch.counts, counter))

    @property
    def bucket_lengths(self) -> tuple[int, ...]:
        """Tokens of a row of each bucket; nothing where rows have one length."""
        buckets = self.config.data_efficiency.length_buckets
        return () if buckets is None else buckets.lengths

    def bucket_shares(self, step: int) -> tuple[float, ...]:
        """What part of the steps around a step draws from each bucket: of a fiftieth of the run, or two steps a bucket."""
        if not self.bucket_lengths:
            return ()
        width = max(self.num_steps // 50, 2 * len(self.bucket_lengths))
        last = min(self.num_steps, step + width // 2)
        first = max(0, last - width)
        return tuple((self._bucket_steps(last) - self._bucket_steps(first)) / (last - first))

    @property
    def steps_of_buckets(self) -> NDArray[np.float64]:
        """[buckets]: the run's steps of each."""
        return self._bucket_steps(self.num_steps)

    def _bucket_steps(self, step: int) -> NDArray[np.float64]:
        """[buckets]: steps of each up to the end of `step`."""
        number = max(0, self._number_at(step))
        stretch, found = self.stretches[number], self._bucket_steps_before[number].copy()
        bucket = self.bucket_lengths.index(stretch.shape.sequence_length)
        found[bucket] += step - stretch.first_step + 1
        return found

    @cached_property
    def _bucket_steps_before(self) -> NDArray[np.float64]:
        """[stretches, buckets]."""
        lengths = np.array([stretch.shape.sequence_length for stretch in self.stretches])
        steps = np.array([stretch.num_steps for stretch in self.stretches])
        of_buckets = steps[:, None] * (lengths[:, None] == self.bucket_lengths)
        return np.cumsum(of_buckets, 0) - of_buckets

    @property
    def last_change(self) -> int:
        """The last step at which pool or shape differ from those of the step before; 1 if none."""
        steps, sizes = self.pools
        grows = np.flatnonzero(np.diff(sizes))
        return max(self.stretches[-1].first_step, int(steps[grows[-1] + 1]) if len(grows) else 1)

    @property
    def baseline(self) -> Counters:
        """Totals of as many steps on full samples, without dropping."""
        return times(count_step(self.full_batch, self.full_batch, self.model), self.num_steps)

    def _number_at(self, step: int) -> int:
        return bisect_right(self.stretches, step, key=lambda stretch: stretch.first_step) - 1

    @cached_property
    def _totals_before(self) -> list[Counters]:
        added = (times(stretch.counts, stretch.num_steps) for stretch in self.stretches)
        return [*accumulate(added, Counters.plus, initial=Counters())]


def plan_run(
    config: Any,
    *,
    model: ModelShape,
    sequence_length: int,
    num_steps: int,
    num_samples: int | Sequence[int] | None = None,
    data_parallel_size: int = 1,
) -> RunPlan:
    """The plan of a run.

    Args:
        sequence_length: positions of a sample, at least 1.
        num_samples: samples of the dataset, or rows of each of its buckets; None reads their number, and the pools, from the
            difficulty indexes that the configuration names.

    Raises:
        ConfigError: for a configuration that is not understood or does not fit the model.
        ValueError: if the pools do not follow from what is given, or there is no step or sample.
    """
    config, num_samples = with_bucket_sizes(load_config(config), num_samples)
    for name, number in (
        ("num_steps", num_steps),
        ("num_samples", num_samples),
        ("sequence_length", sequence_length),
        ("the model's num_layers", model.num_layers),
    ):
        if number is not None and number < 1:
            raise ValueError(f"{name} is {number}: must be at least 1")
    walk = Walk(config, model, sequence_length, data_parallel_size)
    stretches: list[Stretch] = []
    for stretch in walk.stretches(num_steps):
        if stretches and stretches[-1].shape == stretch.shape:
            before = stretches.pop()
            stretch = replace(before, num_steps=before.num_steps + stretch.num_steps)
        stretches.append(stretch)
    num_samples, pools, played = _pools(walk.config.data_efficiency, num_samples, num_steps)
    return RunPlan(
        config=walk.config,
        model=model,
        num_samples=num_samples,
        full_batch=walk.full_batch,
        stretches=tuple(stretches),
        played=played,
        pools=pools,
    )


def with_bucket_sizes(
    config: Config, num_samples: int | Sequence[int] | None
) -> tuple[Config, int | None]:
    """The configuration with the rows of each bucket where so many samples are told, and how many samples there are.

    Raises:
        ConfigError: for several numbers where there are no buckets, or not one for each.
    """
    section = config.data_efficiency
    buckets = section.length_buckets
    sizes = tuple(num_samples) if isinstance(num_samples, Sequence) else ()
    if len(sizes) == 1 and (buckets is None or len(buckets.lengths) > 1):
        return config, sizes[0]
    if buckets is None:
        if sizes:
            raise ConfigError(
                f"num_samples is {list(sizes)}: rows have one length (no data_sampling.length_buckets), so give one number"
            )
        return config, None if isinstance(num_samples, Sequence) else num_samples
    if sizes and len(sizes) != len(buckets.lengths):
        raise ConfigError(
            f"num_samples is {list(sizes)}: must be one number, or one for each bucket, whose lengths are {list(buckets.lengths)}"
        )
    if sizes:
        section = section.with_buckets(buckets.lengths, sizes)
        config = replace(config, data_efficiency=section)
    elif num_samples is None and buckets.sizes and not _needs_indexes(section):
        num_samples = sum(buckets.sizes)
    return config, sum(sizes) if sizes else cast("int | None", num_samples)


def planned_totals(  # noqa: PLR0913 - an argument for each end
    config: Any,
    *,
    model: ModelShape,
    sequence_length: int,
    num_steps: int | None = None,
    effective_tokens: int | None = None,
    corpus_tokens: int | None = None,
    loss_tokens: int | None = None,
    samples: int | None = None,
    data_parallel_size: int = 1,
) -> Counters:
    """Totals of a run that ends after `num_steps`, or at the step that fills a budget.

    Args:
        effective_tokens: budget of layer tokens divided by layers.
        corpus_tokens, loss_tokens, samples: budget of another counter.

    Raises:
        ConfigError: for a configuration that is not understood or does not fit the model.
        ValueError: unless exactly one of the ends is given.
    """
    budgets = {
        "layer_tokens": effective_tokens and effective_tokens * model.num_layers,
        "corpus_tokens": corpus_tokens,
        "loss_tokens": loss_tokens,
        "consumed_samples": samples,
    }
    ends = {name: amount for name, amount in budgets.items() if amount is not None}
    if len(ends) + (num_steps is not None) != 1:
        raise ValueError("give num_steps or a budget, one of them")
    walk = Walk(load_config(config), model, sequence_length, data_parallel_size)
    total = Counters()
    for stretch in walk.stretches(num_steps):
        steps = stretch.num_steps
        for name, amount in ends.items():
            missing = max(0, amount - getattr(total, name))
            steps = min(steps, -(-missing // getattr(stretch.counts, name)))
        total = total.plus(times(stretch.counts, steps))
        if steps < stretch.num_steps:
            break
    return total


def _pools(
    settings: DataEfficiencyConfig, num_samples: int | None, num_steps: int
) -> tuple[int, tuple[Int64Array, Int64Array], PlayedOrder | None]:
    """Samples of the dataset; the steps at which the pool changes, and its sizes; the order."""
    selections = settings.selections
    if num_samples is None:
        if not selections:
            raise ValueError(
                "no metric selects samples, so no index tells how many there are: give num_samples"
            )
        dataset = _IndexedSamples(open_index(selections[0]))
        # What only the dataset itself can say changes no pool.
        choosing = replace(settings, mix=None, length_buckets=None, length_plans=())
        sampler = CurriculumSampler(dataset, choosing, micro_batch_size=1)
        return len(dataset), sampler.pool_growth(num_steps), sampler.played_order
    whole = np.ones(1, np.int64), np.array([num_samples], np.int64)
    if not selections:
        return num_samples, whole, None
    if settings.order is not None:
        return num_samples, whole, order_without_index(settings, num_samples)
    selection = selections[0]
    if _needs_indexes(settings):
        names = ", ".join(selection.name for selection in selections)
        raise ValueError(
            f"which samples {names} select is known from their indexes: leave num_samples out to "
            "read them (a single metric by percentile is known without)"
        )
    rises = np.array([*growth(selection.schedule, 0, None, num_steps)], np.int64)  # [rises, 2]
    steps, highest = rises.T
    per_part = num_samples // selection.max_difficulty
    sizes = np.where(highest >= selection.max_difficulty, num_samples, per_part * highest)
    return num_samples, (steps, sizes), None


def _needs_indexes(settings: DataEfficiencyConfig) -> bool:
    """Whether pools follow from difficulties, and not from the number of samples alone."""
    selections = settings.selections
    if not selections or settings.order is not None:
        return False
    first = selections[0]
    is_by_value = first.difficulty_type == "value"
    return len(selections) > 1 or is_by_value or first.window_size is not None


class _IndexedSamples:
    """Stands for the dataset that an index was made from."""

    def __init__(self, index: DifficultyIndex) -> None:
        self.identity = index.dataset_identity
        self._num_samples = index.num_samples

    def __len__(self) -> int:
        return self._num_samples
