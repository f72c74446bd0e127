"""Pacing functions: the difficulty that is accepted at a step, pure and without state.

Steps count from 1 for the curriculum (its first batch is step 1) and from 0 for token dropping (its
first forward is step 0), as the published configurations mean them.

Source: DeepSpeed's `fixed_linear`, `fixed_root`, `fixed_discrete` and `custom` schedules.
Differs: the value does not depend on which steps were asked before. The published class is asked no
more once it has returned its maximum, so what comes later depends on its history; here a schedule
that goes down goes down, and the pool of samples keeps the running maximum.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol


class Schedule(Protocol):
    """A pure function from the step to a difficulty."""

    def difficulty(self, step: int) -> int:
        """The accepted difficulty at `step`."""


@dataclass(frozen=True, kw_only=True)
class RootSchedule:
    """Growth from `min_difficulty` to `max_difficulty` along a root of the step.

    difficulty(t) = floor((t / T)^(1 / degree) * (max - min) + min), rounded down to a multiple of
    `difficulty_step`, at least the first multiple that is not below `min_difficulty` and at most
    `max_difficulty`. Degree 1 is `fixed_linear`. A maximum that is no multiple of the step is
    reached some steps after T.

    Example:
        >>> length = RootSchedule(
        ...     min_difficulty=8, max_difficulty=64, total_curriculum_step=10, difficulty_step=8
        ... )
        >>> [length.difficulty(step) for step in (0, 1, 5, 10, 11)]
        [8, 8, 32, 64, 64]
    """

    min_difficulty: int
    max_difficulty: int
    total_curriculum_step: int
    difficulty_step: int
    root_degree: int = 1

    def difficulty(self, step: int) -> int:
        """The accepted difficulty at `step` >= 0."""
        progress = (float(step) / self.total_curriculum_step) ** (1.0 / self.root_degree)
        span = self.max_difficulty - self.min_difficulty
        value = math.floor(progress * span + self.min_difficulty)
        value -= value % self.difficulty_step
        return min(max(value, self.first_difficulty), self.max_difficulty)

    @property
    def first_difficulty(self) -> int:
        """The smallest multiple of the step that is not below the minimum."""
        return -(-self.min_difficulty // self.difficulty_step) * self.difficulty_step

    @property
    def corrections(self) -> list[str]:
        """One text for each written value that the published rounding moves."""
        unit, texts = self.difficulty_step, []
        if self.first_difficulty != self.min_difficulty:
            first = min(self.first_difficulty, self.max_difficulty)
            texts.append(
                f"the minimum {self.min_difficulty} is no multiple of the step {unit}; the schedule "
                f"starts at {first}"
            )
        if self.max_difficulty % unit and self.first_difficulty < self.max_difficulty:
            reached = _next_rise(self, 0, self.max_difficulty - 1)
            texts.append(
                f"the maximum {self.max_difficulty} is no multiple of the step {unit}; it is reached "
                f"at step {reached}, after the {self.total_curriculum_step} steps that are written"
            )
        return texts


@dataclass(frozen=True, kw_only=True)
class DiscreteSchedule:
    """`difficulties[i]` for the steps up to `max_steps[i]`, the last difficulty after them all.

    Differs: never above `max_difficulty`; the published class returns such an entry once or for ever.

    Example:
        >>> stages = DiscreteSchedule(difficulties=(1, 2, 3), max_steps=(2, 4), max_difficulty=3)
        >>> [stages.difficulty(step) for step in (1, 2, 3, 4, 5)]
        [1, 1, 2, 2, 3]
    """

    difficulties: tuple[int, ...]
    max_steps: tuple[int, ...]
    max_difficulty: int

    def difficulty(self, step: int) -> int:
        """The accepted difficulty at `step`."""
        for value, last_step in zip(self.difficulties, self.max_steps, strict=False):
            if step <= last_step:
                return min(value, self.max_difficulty)
        return min(self.difficulties[-1], self.max_difficulty)

    @property
    def corrections(self) -> list[str]:
        """One text for each written value that is not reached, or not kept, as it is written."""
        highest, texts = max(self.difficulties), []
        if highest > self.max_difficulty:
            texts.append(
                f"difficulty {highest} is above the maximum {self.max_difficulty}, which is used"
            )
        if highest < self.max_difficulty:
            texts.append(f"the maximum {self.max_difficulty} is never reached, only {highest}")
        if list(self.difficulties) != sorted(self.difficulties):
            texts.append(
                f"the difficulties {list(self.difficulties)} go down; sequence lengths follow them, "
                "the pool of samples keeps the highest so far"
            )
        return texts


@dataclass(frozen=True, kw_only=True)
class CustomSchedule:
    """The user's own pure function of the step, used as it is: it may go down, or past the maximum."""

    function: Callable[[int], int] | None = None

    def difficulty(self, step: int) -> int:
        """The user's value at `step`.

        Raises:
            ValueError: if no function was set, or its value is no whole number.
        """
        if self.function is None:
            raise ValueError(
                "schedule_type is 'custom' but no function was set: call "
                "engine.set_custom_curriculum_learning_schedule({metric: function_of_step}) "
                "before the first batch"
            )
        value = self.function(step)
        if int(value) != value:
            raise ValueError(
                f"a custom schedule gives {value!r} at step {step}: difficulties are whole numbers; "
                "round it in the function"
            )
        return int(value)


def growth(
    schedule: Schedule, after_step: int, after_difficulty: int | None, until_step: int | None
) -> Iterator[tuple[int, int]]:
    """The steps at which the schedule's running maximum rises, with the value it rises to.

    Args:
        schedule: the pacing function.
        after_step: only later steps are looked at; 0 starts at the beginning.
        after_difficulty: running maximum up to `after_step`; None at the beginning.
        until_step: last step looked at; None goes on to the maximum and is not possible for a
            custom function, which can be known only by asking it for each step.

    Example:
        >>> line = RootSchedule(
        ...     min_difficulty=1, max_difficulty=4, total_curriculum_step=30, difficulty_step=1
        ... )
        >>> list(growth(line, 0, None, None))
        [(1, 1), (10, 2), (20, 3), (30, 4)]
    """
    if isinstance(schedule, RootSchedule):
        yield from _growth_of_monotone(schedule, after_step, after_difficulty, until_step)
        return
    highest = after_difficulty
    # A resume asks a custom function for every step done, so most of them are not checked twice.
    ask: Callable[[int], int] = schedule.difficulty
    if isinstance(schedule, CustomSchedule) and schedule.function is not None:
        ask = schedule.function
    for step in _steps_of_change(schedule, after_step, until_step):
        if highest is None or ask(step) > highest:
            highest = schedule.difficulty(step)
            yield step, highest


def _steps_of_change(schedule: Schedule, after_step: int, until_step: int | None) -> Iterator[int]:
    """Steps from `after_step` + 1 to `until_step` at which the value can differ from the last one."""
    if isinstance(schedule, DiscreteSchedule):
        stages = (last_step + 1 for last_step in schedule.max_steps)
        later = (step for step in stages if step > after_step + 1)
        for step in (after_step + 1, *later):
            if until_step is None or step <= until_step:
                yield step
        return
    if until_step is None:
        raise ValueError("a custom schedule has no known end; give until_step")
    yield from range(after_step + 1, until_step + 1)


def _growth_of_monotone(
    schedule: RootSchedule, after_step: int, after_difficulty: int | None, until_step: int | None
) -> Iterator[tuple[int, int]]:
    """As `growth`, in a number of calls that does not depend on the number of steps."""
    step, highest = after_step, after_difficulty
    while highest is None or highest < schedule.max_difficulty:
        step = step + 1 if highest is None else _next_rise(schedule, step, highest, until_step)
        if until_step is not None and step > until_step:
            return
        highest = schedule.difficulty(step)
        yield step, highest


def _next_rise(
    schedule: RootSchedule, step: int, highest: int, until_step: int | None = None
) -> int:
    """The first step after `step` with a value above `highest`, below the maximum.

    Where there is none up to `until_step`, some step after `until_step`.
    """
    reach = 1
    while schedule.difficulty(step + reach) <= highest:
        if until_step is not None and step + reach >= until_step:
            return until_step + 1
        reach *= 2
    low, high = step + reach // 2, step + reach
    while high - low > 1:
        middle = (low + high) // 2
        if schedule.difficulty(middle) <= highest:
            low = middle
        else:
            high = middle
    return high
