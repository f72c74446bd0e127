"""Which samples the metrics accept at a step, and which ones become admitted when a schedule rises.

A metric accepts a prefix of its index's order, and its prefix never shrinks: a schedule that goes down
keeps the pool of its running maximum. The pool is what all metrics accept, so a sample is admitted at
the step at which the last of them accepts it.
"""

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_efficiency.config import Selection
from data_efficiency.difficulty_index import DifficultyIndex

Int64Array = NDArray[np.int64]
_PIECE_SAMPLES = 2**20


class MetricPool:
    """The samples that one metric accepts: the first ones of its index's order."""

    def __init__(self, metric: Selection, index: DifficultyIndex) -> None:
        self.metric, self.index = metric, index
        # As plain arrays: one number of a memory map takes ten times as long to read.
        self._values, self.order = np.asarray(index.values), np.asarray(index.order)

    def size_at(self, difficulty: int, known: int = 0) -> int:
        """Samples accepted at a difficulty that accepts at least the first `known`."""
        num_samples, maximum = self.index.num_samples, self.metric.max_difficulty
        if self.metric.difficulty_type == "percentile":
            part = min(max(difficulty, 0), maximum)
            return int(self.index.num_in_percentile(part, maximum))
        reach = 1
        while known + reach <= num_samples and self._value(known + reach - 1) <= difficulty:
            known, reach = known + reach, 2 * reach
        end = min(known + reach - 1, num_samples)
        return bisect_right(range(end), difficulty, known, end, key=self._value)

    def contains(
        self, samples: NDArray[np.unsignedinteger], sizes: Int64Array, which: Any = 0
    ) -> NDArray[np.bool_]:
        """Whether each sample is one of the first `sizes[which]` of the order, bool like `samples`.

        The order is sorted by (difficulty, sample number), so the first sample outside decides; that of quantised
        difficulties is that of the exact ones, and there places decide.

        Args:
            which: place in `sizes` for each sample, or one for all.
        """
        if self.index.is_quantised:
            return self._places[samples] < sizes[which]
        outside = self.order[np.minimum(sizes, self.index.num_samples - 1)]
        limits, is_everything = self._values[outside], sizes >= self.index.num_samples
        values, limit = self._values[samples], limits[which]
        is_inside = (values < limit) | ((values == limit) & (samples < outside[which]))
        return is_inside | is_everything[which]

    def growth(
        self, after_step: int, after_size: int | None, until_step: int | None
    ) -> Iterator[tuple[int, int]]:
        """The steps at which more samples are accepted, with their number.

        The work goes by the samples' distinct difficulties: rises of the schedule between two of them
        are jumped over.

        Args:
            after_size: samples accepted up to then; None at the beginning.
            until_step: last step looked at; None goes on to the end of the schedule.
        """
        schedule, step, size = self.metric.schedule, after_step, after_size
        if size is None:
            step += 1
            size = self.size_at(schedule.difficulty(step))
            yield step, size
        while size < self.index.num_samples:
            wanted = self.difficulty_that_accepts(size)
            found = schedule.first_step_above(wanted - 1, step, until_step)
            if found is None or (until_step is not None and found > until_step):
                return
            step, size = found, self.size_at(schedule.difficulty(found), size)
            yield step, size

    def difficulty_that_accepts(self, place: int) -> int:
        """The smallest difficulty at which the sample at this place of the order is accepted."""
        if self.metric.difficulty_type == "value":
            return math.ceil(self._value(place))
        maximum = self.metric.max_difficulty
        per_part = self.index.num_samples // maximum
        return min(place // per_part + 1, maximum) if per_part else maximum

    @cached_property
    def _places(self) -> NDArray[np.unsignedinteger]:
        """Where in the order each sample stands, [num_samples] in the order's dtype."""
        places = np.empty_like(self.order)
        places[self.order] = np.arange(len(places), dtype=places.dtype)
        return places

    def _value(self, place: int) -> Any:
        """The difficulty of the sample at a place of the order, as a number that compares exactly."""
        return self._values[self.order[place]].item()


@dataclass(frozen=True, kw_only=True)
class Rise:
    """A step at which at least one metric accepts more samples, with the sizes of their prefixes."""

    step: int
    before: tuple[int, ...]
    after: tuple[int, ...]


class PoolGrowth:
    """Follows the metrics' schedules, each step once."""

    def __init__(self, pools: Sequence[MetricPool]) -> None:
        self._pools = pools
        self._last_step = 0
        self._sizes = (0,) * len(pools)

    def advance(self, until_step: int | None) -> list[Rise]:
        """The rises after the last step looked at; None goes on to the end of the schedules."""
        if until_step is not None and until_step <= self._last_step:
            return []
        sizes_at: dict[int, dict[int, int]] = {}
        for number, pool in enumerate(self._pools):
            size = self._sizes[number] if self._last_step else None
            for step, grown in pool.growth(self._last_step, size, until_step):
                sizes_at.setdefault(step, {})[number] = grown
        self._last_step = 2**62 if until_step is None else until_step
        found = []
        for step in sorted(sizes_at):
            before = self._sizes
            self._sizes = tuple(
                sizes_at[step].get(number, size) for number, size in enumerate(before)
            )
            if self._sizes != before:
                found.append(Rise(step=step, before=before, after=self._sizes))
        return found


def in_groups(rises: Iterable[Rise]) -> Iterator[list[Rise]]:
    """The rises, those together that accept few samples."""
    group: list[Rise] = []
    for rise in rises:
        if group and sum(rise.after) - sum(group[0].before) > _PIECE_SAMPLES:
            yield group
            group = []
        group.append(rise)
    if group:
        yield group


def admitted_at(
    pools: Sequence[MetricPool], rises: Sequence[Rise]
) -> Iterator[tuple[NDArray[np.unsignedinteger], Int64Array]]:
    """The samples that all metrics accept after some rises and not all before, each once, in pieces.

    Beside the samples, the number of the rise that admits each. A sample newly accepted by several
    metrics at once is found with the first of them.
    """
    before = np.array([rise.before for rise in rises], np.int64)  # [rises, metrics]
    after = np.array([rise.after for rise in rises], np.int64)
    for number, pool in enumerate(pools):
        first, last = int(before[0, number]), int(after[-1, number])
        for start in range(first, last, _PIECE_SAMPLES):
            places = np.arange(start, min(start + _PIECE_SAMPLES, last))
            # [at most _PIECE_SAMPLES], fewer after each other metric
            samples = pool.order[start : start + len(places)]
            which = np.searchsorted(after[:, number], places, side="right")
            for other, other_pool in enumerate(pools):
                if other != number and samples.size:
                    sizes = (before if other < number else after)[:, other]
                    is_common = other_pool.contains(samples, sizes, which)
                    samples, which = samples[is_common], which[is_common]
            if samples.size:
                yield samples, which


def explain_empty_pool(pools: Sequence[MetricPool], step: int) -> str:
    """Which metric admits nothing up to a step, and the smallest difficulty that would."""
    rises = PoolGrowth(pools).advance(step)
    sizes = rises[-1].after if rises else (0,) * len(pools)
    accepted = [
        f"{pool.metric.name!r} (difficulty {pool.metric.schedule.difficulty(step)})"
        for pool in pools
    ]
    for pool, size, name in zip(pools, sizes, accepted, strict=True):
        if size == 0:
            return (
                f"metric {name} admits no sample at step {step}: difficulty "
                f"{pool.difficulty_that_accepts(0)} is the smallest that does; let it start there"
            )
    remedies = []
    for number, pool in enumerate(pools):
        place = _first_common_place(pools, sizes, number)
        if place is not None:
            difficulty = pool.difficulty_that_accepts(place)
            remedies.append(f"{pool.metric.name!r} at {difficulty}")
    remedy = f"start {' or '.join(remedies)}" if remedies else "start more than one of them higher"
    return f"metrics {' and '.join(accepted)} admit no common sample at step {step}: {remedy}"


def _first_common_place(
    pools: Sequence[MetricPool], sizes: Sequence[int], number: int
) -> int | None:
    """The place of the easiest sample of one metric that all the others accept."""
    order = pools[number].order
    for start in range(0, len(order), _PIECE_SAMPLES):
        samples = order[start : start + _PIECE_SAMPLES]
        is_common = np.ones(samples.shape, np.bool_)
        for other, other_pool in enumerate(pools):
            if other != number:
                is_common &= other_pool.contains(samples, np.array([sizes[other]]))
        if is_common.any():
            return start + int(np.argmax(is_common))
    return None
