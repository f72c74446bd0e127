"""The `batch_size` of data_sampling: how many samples a step has, as the run goes on."""

from dataclasses import dataclass, replace
from typing import Any, Literal, Self

from data_efficiency.json_section import ConfigError, Positive, Section
from data_efficiency.schedule.protocol import Schedule
from data_efficiency.schedule.registry import batch_size_kinds, read_schedule

BatchCounter = Literal["steps", "samples", "tokens"]


@dataclass(frozen=True, kw_only=True)
class BatchSizeKeys:
    """`data_efficiency.data_sampling.batch_size`."""

    min_value: Positive
    """Samples of a step at the start. Each size must be a multiple of micro-batch x data-parallel processes: steps
    differ in their number of micro-batches."""
    max_value: Positive
    """Samples of a step at the end."""
    counter: BatchCounter = "samples"
    """What the steps of the schedule are: samples, or tokens (samples x the length of the rows, before anything is
    cut), drawn before the step; or steps themselves, counted from 1."""
    lr_exponent: float = 0.0
    """The learning rate is multiplied by (samples of the step / train_batch_size) ** lr_exponent: 0 not at all, 0.5 by
    the root, 1 in proportion."""
    schedule_type: str
    """fixed_linear, fixed_root, fixed_discrete, or a kind that was registered and whose end is known."""
    schedule_config: Section
    """What the schedule needs, as of METRIC; difficulties are samples."""


@dataclass(frozen=True, kw_only=True)
class BatchSize:
    """Samples of a step as a function of a counter."""

    min_value: int
    max_value: int
    schedule: Schedule
    counter: BatchCounter = "samples"
    lr_exponent: float = 0.0
    row_length: int | None = None
    """Tokens of a sample, where they are counted; None: not known yet."""

    @property
    def needs_length(self) -> bool:
        """Whether it follows from the rows' length, which is not known yet."""
        return self.counter == "tokens" and self.row_length is None

    @property
    def least(self) -> int:
        """The fewest samples of a step."""
        return min(size for _, size in self.schedule.values(0))

    def with_length(self, length: int) -> Self:
        """The same for rows of a length, in tokens."""
        return replace(self, row_length=length) if self.needs_length else self

    def samples_at(self, step: int, num_drawn: int) -> int:
        """Samples of `step`, counted from 1, before which `num_drawn` were drawn."""
        return self.schedule.difficulty(self._place(step, num_drawn))

    def steps_until_change(self, step: int, num_drawn: int, num_samples: int) -> int | None:
        """After how many steps of `num_samples` each it may be another one, at least 1; None: never."""
        place = self._place(step, num_drawn)
        following = self.schedule.next_change(place)
        if following is None:
            return None
        one_step = 1 if self.counter == "steps" else num_samples * self._per_sample
        return -(-(following - place) // one_step)

    def rate_factor(self, num_samples: int, base: int) -> float:
        """What the learning rate of a step of so many samples is multiplied by.

        Example:
            >>> from data_efficiency.schedule import DiscreteSchedule
            >>> stages = DiscreteSchedule(difficulties=(4, 16), max_steps=(9,), max_difficulty=16)
            >>> batch = BatchSize(min_value=4, max_value=16, schedule=stages, lr_exponent=0.5)
            >>> batch.rate_factor(4, 16), batch.rate_factor(16, 16)
            (0.5, 1.0)
        """
        return float((num_samples / base) ** self.lr_exponent)

    def section(self) -> dict[str, Any]:
        """The keys of the JSON file, but for those of the schedule."""
        return {
            "min_value": self.min_value,
            "max_value": self.max_value,
            "counter": self.counter,
            "lr_exponent": self.lr_exponent,
        }

    @property
    def _per_sample(self) -> int:
        """What a sample adds to the counter of samples or tokens."""
        if self.counter == "samples":
            return 1
        assert self.row_length is not None
        return self.row_length

    def _place(self, step: int, num_drawn: int) -> int:
        return step if self.counter == "steps" else num_drawn * self._per_sample


def read_batch_size(section: Section) -> BatchSize:
    """The batch sizes that the section describes.

    Raises:
        ConfigError: for a minimum above the maximum, or a schedule that is none or whose end is not known.
    """
    keys, path = section.read(BatchSizeKeys), section.path
    low, high = keys.min_value, keys.max_value
    if low > high:
        raise ConfigError(f"{path}.min_value is {low}: above max_value ({high})")
    schedule = read_schedule(section, batch_size_kinds(), low, high)
    section.close()
    batch = BatchSize(
        min_value=low,
        max_value=high,
        schedule=schedule,
        counter=keys.counter,
        lr_exponent=keys.lr_exponent,
    )
    if batch.least < 1:
        raise ConfigError(f"{path} gives a step {batch.least} samples: must be at least 1")
    return batch
