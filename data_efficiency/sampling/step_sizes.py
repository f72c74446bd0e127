"""How large each step is: its rows, and how many samples take the place of a row in bags of tokens, or where rows are short."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from data_efficiency.config import BatchSize, DataEfficiencyConfig, LengthBuckets, LengthPlan
from data_efficiency.json_section import ConfigError
from data_efficiency.sampling.length_buckets import bucket_table

Int64Array = NDArray[np.int64]
_NO_END = 2**62


class StepSizes:
    """Rows of a step and samples a row, which change at some steps.

    Args:
        starts: the steps, counted from 1, from which each number holds; ascending, the first is 1.
        rows: rows of the global batch, before several samples take the place of one.
        per_row: samples in the place of a row.
        period: the steps after which all begins anew; None: never.

    Example:
        >>> sizes = StepSizes([1, 3], rows=[2, 2], per_row=[4, 1])
        >>> [sizes.samples(step) for step in (1, 2, 3, 9)], sizes.samples_before(4), sizes.rows_before(4)
        ([8, 8, 2, 2], 18, 6)
    """

    def __init__(
        self,
        starts: Sequence[int] | Int64Array,
        rows: Sequence[int] | Int64Array,
        per_row: Sequence[int] | Int64Array,
        period: int | None = None,
    ) -> None:
        self._starts = np.array(starts, np.int64)
        self._rows = np.array(rows, np.int64)
        self._per_row = np.array(per_row, np.int64)
        self._samples = self._rows * self._per_row
        self._period = period or _NO_END
        num_steps = np.diff(self._starts)
        self._rows_before = _sums_before(num_steps * self._rows[:-1])
        self._samples_before = _sums_before(num_steps * self._samples[:-1])

    @classmethod
    def of(cls, config: DataEfficiencyConfig, base: int, multiple: int = 1) -> "StepSizes":
        """Those of a configuration, its lengths closed.

        Args:
            base: rows of a step where nothing says otherwise.
            multiple: rows of one forward of all data-parallel processes together.

        Raises:
            ConfigError: for a batch that is no whole number of such forwards.
        """
        if config.length_buckets is not None:
            return cls._of_buckets(config.length_buckets, base, config.seed)
        starts, per_row = _samples_for_rows(config)
        batch = config.batch_size
        if batch is None:
            return cls(starts, [base] * len(starts), per_row)
        return cls(*_with_batches(batch, starts, per_row, multiple))

    @classmethod
    def _of_buckets(cls, buckets: LengthBuckets, base: int, seed: int) -> "StepSizes":
        table = bucket_table(buckets, base, seed)
        starts = np.flatnonzero(np.diff(table, prepend=255))
        per_bucket = [buckets.rows_in_place_of_one(one) for one in range(len(buckets.lengths))]
        per_row = np.array(per_bucket)[table[starts]]
        return cls(starts + 1, np.full(len(starts), base), per_row, len(table))

    def rows(self, step: int) -> int:
        """Rows of the global batch at `step`, counted from 1."""
        return int(self._rows[self._number_at(step)])

    def per_row(self, step: int) -> int:
        """Samples in the place of one row at `step`, counted from 1."""
        return int(self._per_row[self._number_at(step)])

    def samples(self, step: int) -> int:
        """Samples of `step`, counted from 1."""
        return int(self._samples[self._number_at(step)])

    def rows_before(self, step: int) -> int:
        """The sum of `rows` over the steps before `step`."""
        return self._sum_before(step, self._rows, self._rows_before)

    def samples_before(self, step: int, per_row: int | None = None) -> int:
        """Samples of all steps before `step`, counted from 1.

        Args:
            per_row: of the steps alone that have so many samples in the place of a row.
        """
        if per_row is None:
            return self._sum_before(step, self._samples, self._samples_before)
        samples = np.where(self._per_row == per_row, self._samples, 0)
        before = _sums_before(np.diff(self._starts) * samples[:-1])
        return self._sum_before(step, samples, before)

    def _sum_before(self, step: int, each: Int64Array, before: Int64Array) -> int:
        """The sum of what each step has over the steps before `step`."""
        periods, place = divmod(step - 1, self._period)
        number = int(np.searchsorted(self._starts, place + 1, "right")) - 1
        done = place + 1 - int(self._starts[number])
        whole = periods * self._of_a_period(each, before) if periods else 0
        return whole + int(before[number]) + done * int(each[number])

    def _of_a_period(self, each: Int64Array, before: Int64Array) -> int:
        last = self._period - int(self._starts[-1]) + 1
        return int(before[-1]) + last * int(each[-1])

    def steps_in(self, num_samples: int) -> int:
        """The most steps that have no more than `num_samples` together."""
        periods, left = divmod(num_samples, self._of_a_period(self._samples, self._samples_before))
        number = int(np.searchsorted(self._samples_before, left, "right")) - 1
        left -= int(self._samples_before[number])
        in_period = int(self._starts[number]) - 1 + left // int(self._samples[number])
        return periods * self._period + in_period

    def next_change(self, step: int) -> int | None:
        """The first step after `step` that may be of another size; None: all are alike."""
        number = self._number_at(step) + 1
        if number < len(self._starts):
            return step - (step - 1) % self._period - 1 + int(self._starts[number])
        if self._period == _NO_END or len(self._starts) == 1:
            return None
        return step - (step - 1) % self._period + self._period

    @property
    def fewest_rows(self) -> int:
        """Of the smallest step."""
        return int(self._rows.min())

    def _number_at(self, step: int) -> int:
        place = (step - 1) % self._period + 1
        return int(np.searchsorted(self._starts, place, "right")) - 1


def _sums_before(numbers: Int64Array) -> Int64Array:
    sums: Int64Array = np.append(0, np.cumsum(numbers)).astype(np.int64)
    return sums


def _samples_for_rows(config: DataEfficiencyConfig) -> tuple[list[int], list[int]]:
    """Steps from which a number of samples takes the place of a row, and the numbers."""
    superposition = config.token_superposition
    if superposition is not None:
        return [1, superposition.num_steps + 1], [superposition.samples_per_row(0), 1]
    plan = next((one for one in config.length_plans if one.constant_tokens), None)
    return ([1], [1]) if plan is None else _of_ramp(plan)


def _of_ramp(plan: LengthPlan) -> tuple[list[int], list[int]]:
    """Starts and numbers of a length that grows, joined where the number stays."""
    starts: list[int] = []
    numbers: list[int] = []
    step: int | None = 1
    while step is not None:
        number = plan.rows_in_place_of_one(plan.schedule.difficulty(step))
        if not numbers or number != numbers[-1]:
            starts.append(step)
            numbers.append(number)
        step = plan.schedule.next_change(step)
    return starts, numbers


def _with_batches(
    batch: BatchSize, starts: Sequence[int], per_row: Sequence[int], multiple: int
) -> tuple[list[int], list[int], list[int]]:
    """Starts, rows and samples a row of batches that change beside the samples for a row."""
    found: tuple[list[int], list[int], list[int]] = ([], [], [])
    step, drawn, number = 1, 0, 0
    while True:
        rows = batch.samples_at(step, drawn)
        if rows % multiple:
            raise ConfigError(
                f"data_sampling.batch_size gives step {step} {rows} samples: must be a multiple of micro-batch x "
                f"data-parallel processes ({multiple}); change its schedule, or take a smaller micro-batch"
            )
        for column, value in zip(found, (step, rows, per_row[number]), strict=True):
            column.append(value)
        samples = rows * per_row[number]
        following = batch.steps_until_change(step, drawn, samples)
        ends = [] if following is None else [step + following]
        if number + 1 < len(starts):
            ends.append(starts[number + 1])
        if not ends:
            return found
        drawn += samples * (min(ends) - step)
        step = min(ends)
        number += number + 1 < len(starts) and starts[number + 1] == step
