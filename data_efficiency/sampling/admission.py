"""Which samples the metrics accept at a step, and which ones become admitted when a schedule rises.

A metric accepts a prefix of its index's order, and its prefix never shrinks: a schedule that goes down
keeps the pool of its running maximum. The pool is what all metrics accept, so a sample is admitted at
the step at which the last of them accepts it.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from data_efficiency.config import Selection
from data_efficiency.difficulty_index import DifficultyIndex
from data_efficiency.schedule import growth

Int64Array = NDArray[np.int64]
_PIECE_SAMPLES = 2**20
_FEWEST_RISES = 16


class MetricPool:
    """The samples that one metric accepts: the first ones of its index's order."""

    def __init__(self, metric: Selection, index: DifficultyIndex) -> None:
        self.metric, self.index = metric, index

    def sizes(self, difficulties: Int64Array) -> Int64Array:
        """Samples accepted at each difficulty, int64 like `difficulties`."""
        if self.metric.difficulty_type == "value":
            return np.asarray(self.index.num_at_most(difficulties), np.int64)
        maximum = self.metric.max_difficulty
        parts = np.clip(difficulties, 0, maximum)
        return np.asarray(self.index.num_in_percentile(parts, maximum), np.int64)

    def contains(self, samples: NDArray[np.unsignedinteger], size: int) -> NDArray[np.bool_]:
        """Whether each sample is one of the first `size` of the order, bool like `samples`.

        The order is sorted by (difficulty, sample number), so the first sample outside decides.
        """
        if size >= self.index.num_samples:
            return np.ones(samples.shape, np.bool_)
        outside = self.index.order[size]
        values, limit = self.index.values[samples], self.index.values[outside]
        return (values < limit) | ((values == limit) & (samples < outside))

    def growth(
        self, after_step: int, after_size: int | None, until_step: int | None
    ) -> Iterator[tuple[int, int]]:
        """The steps at which more samples are accepted, with their number.

        The work goes by the samples' distinct difficulties: rises of the schedule between two of them
        are jumped over, apart from a few.

        Args:
            after_size: samples accepted up to then; None at the beginning.
            until_step: last step looked at; None goes on to the end of the schedule.
        """
        step, size, num_wanted = after_step, after_size, _FEWEST_RISES
        while size is None or size < self.index.num_samples:
            # Up to here, a rise accepts no sample that was not accepted before.
            highest = None if size is None else self.difficulty_that_accepts(size) - 1
            rises = list(
                islice(growth(self.metric.schedule, step, highest, until_step), num_wanted)
            )
            if not rises:
                return
            sizes = self.sizes(np.array([difficulty for _, difficulty in rises], np.int64))
            num_used = 0
            for (step, _), found in zip(rises, sizes.tolist(), strict=True):
                if size is None or found > size:
                    size = found
                    num_used += 1
                    yield step, found
            if len(rises) < num_wanted:
                return
            num_wanted = max(_FEWEST_RISES, 4 * num_used)

    def difficulty_that_accepts(self, place: int) -> int:
        """The smallest difficulty at which the sample at this place of the order is accepted."""
        if self.metric.difficulty_type == "value":
            return math.ceil(self.index.values[self.index.order[place]])
        maximum = self.metric.max_difficulty
        per_part = self.index.num_samples // maximum
        return min(place // per_part + 1, maximum) if per_part else maximum


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


def admitted_at(pools: Sequence[MetricPool], rise: Rise) -> Iterator[NDArray[np.unsignedinteger]]:
    """The samples that all metrics accept after a rise and not all before, each once, in pieces.

    A sample newly accepted by several metrics is found with the first of them.
    """
    for number, pool in enumerate(pools):
        first, last = rise.before[number], rise.after[number]
        for start in range(first, last, _PIECE_SAMPLES):
            # [at most _PIECE_SAMPLES], fewer after each other metric
            samples = np.asarray(pool.index.order[start : min(start + _PIECE_SAMPLES, last)])
            for other, other_pool in enumerate(pools):
                if other != number and samples.size:
                    size = rise.before[other] if other < number else rise.after[other]
                    samples = samples[other_pool.contains(samples, size)]
            if samples.size:
                yield samples


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
    order = pools[number].index.order
    for start in range(0, len(order), _PIECE_SAMPLES):
        samples = np.asarray(order[start : start + _PIECE_SAMPLES])
        is_common = np.ones(samples.shape, np.bool_)
        for other, other_pool in enumerate(pools):
            if other != number:
                is_common &= other_pool.contains(samples, sizes[other])
        if is_common.any():
            return start + int(np.argmax(is_common))
    return None
