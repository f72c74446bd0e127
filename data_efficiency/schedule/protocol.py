"""What every kind of schedule answers, and its running maximum."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

from data_efficiency.json_section import Section


@dataclass(frozen=True, kw_only=True)
class Schedule(ABC):
    """A pure function from the step to a difficulty.

    A kind is a frozen dataclass that inherits from this class and says at least `difficulty`,
    `next_change` and `describe`; `register_schedule` gives it a name in the JSON file.
    """

    ends: ClassVar[bool] = True
    """Whether `next_change` comes to None after some step, so that all changes can be known beforehand."""
    takes_function: ClassVar[bool] = False
    """Whether `set_custom_schedules` replaces it by a function of the user's."""

    @abstractmethod
    def difficulty(self, step: int) -> int:
        """The accepted difficulty at `step` >= 0."""

    @abstractmethod
    def next_change(self, step: int) -> int | None:
        """The first step after `step` at which the difficulty can be another one; None: it stays."""

    @abstractmethod
    def describe(self) -> str:
        """The course of the difficulty in a few words."""

    @property
    def corrections(self) -> Sequence[str]:
        """One text for each written value that is not reached, or not kept, as it is written."""
        return ()

    @property
    def corrections_of_pools(self) -> Sequence[str]:
        """The same of what only a pool, which keeps the samples that it has, does not follow."""
        return ()

    @classmethod
    def from_section(cls, kind: str, low: int, high: int, section: Section) -> Self:
        """The schedule that a JSON file asks for.

        Args:
            low: the file's minimum.
            high: the file's maximum, at least `low`.
            section: `schedule_config`; each field but `min_difficulty` and `max_difficulty` is a key.
        """
        return section.read(cls, min_difficulty=low, max_difficulty=high)

    def first_step_above(
        self, difficulty: int, after_step: int, until_step: int | None = None
    ) -> int | None:
        """The first step after `after_step` above `difficulty`, a value that `after_step` is not above.

        None: there is none up to `until_step`, or ever. A kind that never goes down can find the step
        without looking at every change before it.
        """
        step = self.next_change(after_step)
        while step is not None and (until_step is None or step <= until_step):
            if self.difficulty(step) > difficulty:
                return step
            step = self.next_change(step)
        return None

    def values(self, first_step: int) -> Iterator[tuple[int, int]]:
        """(step, difficulty) at `first_step` and at each step after it where the difficulty can be another one.

        Without end where the schedule has none.
        """
        step: int | None = first_step
        while step is not None:
            yield step, self.difficulty(step)
            step = self.next_change(step)

    def identity(self) -> Any:
        """What a run and its continuation must agree on, plain JSON data."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
        }


def growth(
    schedule: Schedule, after_step: int, after_difficulty: int | None, until_step: int | None
) -> Iterator[tuple[int, int]]:
    """The steps at which the schedule's running maximum rises, with the value it rises to.

    Args:
        after_step: only later steps are looked at; 0 starts at the beginning.
        after_difficulty: running maximum up to `after_step`; None at the beginning.
        until_step: last step looked at; None goes on to the end, which the schedule must have.

    Example:
        >>> from data_efficiency.schedule import DiscreteSchedule
        >>> stages = DiscreteSchedule(
        ...     difficulties=(3, 1, 4), max_steps=(10, 20), max_difficulty=9
        ... )
        >>> list(growth(stages, 0, None, None))
        [(1, 3), (21, 4)]
    """
    if until_step is None and not schedule.ends:
        raise ValueError(f"{schedule.describe()} has no known end: give until_step")
    step: int | None = after_step
    highest = after_difficulty
    while True:
        assert step is not None
        step = step + 1 if highest is None else schedule.first_step_above(highest, step, until_step)
        if step is None or (until_step is not None and step > until_step):
            return
        highest = schedule.difficulty(step)
        yield step, highest
