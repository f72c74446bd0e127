"""How large each step is, and which rows of its global batch a rank takes.

Rank r's micro-batch m of a step holds the rows from (r * micro-batches of the step + m) * micro batch.
"""

from data_efficiency.config import DataEfficiencyConfig
from data_efficiency.sampling.step_sizes import StepSizes


class RankRows:
    """The share of each global batch that one data-parallel rank takes, as micro-batches.

    Args:
        config: closed by the length of the rows.
        micro_batch_size: rows of one forward pass on one rank.
        gradient_accumulation_steps: micro-batches of a step on one rank, where `batch_size` does not say it.

    Raises:
        ConfigError: if a step is no whole number of micro-batches.
        ValueError: for a rank that there is not, or micro-batches without rows.
    """

    def __init__(
        self,
        config: DataEfficiencyConfig,
        *,
        micro_batch_size: int,
        gradient_accumulation_steps: int = 1,
        data_parallel_rank: int = 0,
        data_parallel_size: int = 1,
    ) -> None:
        if not 0 <= data_parallel_rank < data_parallel_size:
            raise ValueError(
                f"data_parallel_rank is {data_parallel_rank}: must be at least 0 and below "
                f"data_parallel_size ({data_parallel_size})"
            )
        for name, number in (
            ("micro_batch_size", micro_batch_size),
            ("gradient_accumulation_steps", gradient_accumulation_steps),
        ):
            if number < 1:
                raise ValueError(f"{name} is {number}: must be at least 1")
        self.micro_batch_size = self.batch_size = micro_batch_size
        self.gradient_accumulation_steps = gradient_accumulation_steps
        self.data_parallel_rank, self.data_parallel_size = data_parallel_rank, data_parallel_size
        self.rows_per_rank = micro_batch_size * gradient_accumulation_steps
        self.global_batch_size = data_parallel_size * self.rows_per_rank
        """Rows of a step where `batch_size` does not say it."""
        self._sizes = StepSizes.of(config, self.global_batch_size, self._rows_together)

    def micro_batches_before(self, step: int) -> int:
        """Of all steps before `step`, counted from 1, on each rank."""
        return self._sizes.rows_before(step) // self._rows_together

    def num_micro_batches(self, step: int) -> int:
        """Of `step`, counted from 1, on each rank."""
        return self._sizes.rows(step) // self._rows_together

    @property
    def fewest_micro_batches(self) -> int:
        """Of the smallest step, on each rank."""
        return self._sizes.fewest_rows // self._rows_together

    @property
    def _rows_together(self) -> int:
        """Rows of one micro-batch of all ranks."""
        return self.micro_batch_size * self.data_parallel_size

    def micro_batch_rows(self, number: int, step: int) -> slice:
        """The rows of the step's global batch that make this rank's micro-batch `number`."""
        place = self.data_parallel_rank * self.num_micro_batches(step) + number
        return slice(place * self.micro_batch_size, (place + 1) * self.micro_batch_size)

    def micro_batch_samples(self, number: int, step: int) -> slice:
        """Their samples, among those of the step's global batch."""
        rows, per_row = self.micro_batch_rows(number, step), self.samples_per_row(step)
        return slice(rows.start * per_row, rows.stop * per_row)

    def samples_per_row(self, step: int) -> int:
        """Samples in the place of one row at `step`, counted from 1: of bags, or of shorter rows."""
        return self._sizes.per_row(step)

    def batch_rows(self, step: int) -> int:
        """Rows of the global batch at `step`, counted from 1, before several samples take the place of one."""
        return self._sizes.rows(step)

    def samples_before(self, step: int) -> int:
        """Samples of all steps before `step`, counted from 1."""
        return self._sizes.samples_before(step)

    def steps_in(self, num_samples: int, *, drop_last: bool) -> int:
        """Steps that so many samples are enough for; without drop_last the last one may want more."""
        steps = self._sizes.steps_in(num_samples)
        return steps + (not drop_last and self.samples_before(steps + 1) < num_samples)
