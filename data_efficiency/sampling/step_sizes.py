"""How many samples each step draws: several take the place of one row in bags of tokens, or where rows are short."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from data_efficiency.config import DataEfficiencyConfig, LengthPlan

Int64Array = NDArray[np.int64]


class StepSizes:
    """A number of samples a row that changes at some steps.

    Args:
        starts: the steps, counted from 1, from which each number holds; ascending, the first is 1.
        per_row: the numbers.

    Example:
        >>> sizes = StepSizes([1, 3], [4, 1])
        >>> [sizes.per_row(step) for step in (1, 2, 3, 9)], sizes.rows_before(4)
        ([4, 4, 1, 1], 9)
    """

    def __init__(self, starts: Sequence[int], per_row: Sequence[int]) -> None:
        self._starts = np.array(starts, np.int64)
        self._per_row = np.array(per_row, np.int64)
        whole = np.diff(self._starts) * self._per_row[:-1]
        self._before = np.append(0, np.cumsum(whole)).astype(np.int64)

    @classmethod
    def of(cls, config: DataEfficiencyConfig) -> "StepSizes":
        """Those of a configuration, its lengths closed."""
        superposition = config.token_superposition
        if superposition is not None:
            return cls([1, superposition.num_steps + 1], [superposition.samples_per_row(0), 1])
        plan = next((one for one in config.length_plans if one.constant_tokens), None)
        return cls([1], [1]) if plan is None else cls(*_of_ramp(plan))

    def per_row(self, step: int) -> int:
        """Samples in the place of one row at `step`, counted from 1."""
        return int(self._per_row[np.searchsorted(self._starts, step, "right") - 1])

    def rows_before(self, step: int) -> int:
        """The sum of `per_row` over the steps before `step`."""
        number = int(np.searchsorted(self._starts, step, "right")) - 1
        return int(self._before[number] + (step - self._starts[number]) * self._per_row[number])

    def steps_in(self, num_rows: int) -> int:
        """The most steps whose sum of `per_row` is no more than `num_rows`."""
        number = int(np.searchsorted(self._before, num_rows, "right")) - 1
        left = (num_rows - int(self._before[number])) // int(self._per_row[number])
        return int(self._starts[number]) - 1 + left


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
