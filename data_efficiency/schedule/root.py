"""Growth along a root of the step: `fixed_root`, `fixed_linear` and, for kept lengths, `constant`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from data_efficiency.json_section import ConfigError, Given, Positive, Section
from data_efficiency.schedule.protocol import Schedule

_FIXED_BY_KIND = {
    "fixed_linear": {"root_degree": 1},
    "constant": {"root_degree": 1, "total_curriculum_step": 1, "difficulty_step": 1},
}


@dataclass(frozen=True, kw_only=True)
class RootSchedule(Schedule):
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
        >>> length.next_change(1), length.next_change(10)
        (2, None)
    """

    min_difficulty: Given[int]
    """Difficulty at step 0."""
    max_difficulty: Given[int]
    """Difficulty at the end."""
    total_curriculum_step: Positive
    """Steps from the minimum to the maximum (linear, root)."""
    difficulty_step: Positive
    """The value is rounded down to a multiple of this (linear, root)."""
    root_degree: Positive = 1
    """Degree of the root (root), required there; 1 is linear."""

    @classmethod
    def from_section(cls, kind: str, low: int, high: int, section: Section) -> Self:
        """As `Schedule.from_section`, with the keys that the kind leaves open."""
        fixed = _FIXED_BY_KIND.get(kind, {})
        if kind == "constant" and low != high:
            raise ConfigError(
                f"{section.path} is constant, but the values go from {low} to {high}: give one"
            )
        bounds = {"min_difficulty": low, "max_difficulty": high}
        return section.read(cls, needed=("root_degree",), **bounds, **fixed)

    def difficulty(self, step: int) -> int:
        """The accepted difficulty at `step` >= 0."""
        progress = (float(step) / self.total_curriculum_step) ** (1.0 / self.root_degree)
        span = self.max_difficulty - self.min_difficulty
        value = math.floor(progress * span + self.min_difficulty)
        value -= value % self.difficulty_step
        return min(max(value, self.first_difficulty), self.max_difficulty)

    def next_change(self, step: int) -> int | None:
        """The first step after `step` with a higher difficulty; None at the maximum."""
        return self.first_step_above(self.difficulty(step), step)

    def first_step_above(
        self, difficulty: int, after_step: int, until_step: int | None = None
    ) -> int | None:
        """As `Schedule.first_step_above`, in a few calls around where the formula says it is."""
        if difficulty >= self.max_difficulty:
            return None
        low, high = after_step, max(after_step + 1, self._step_near(difficulty))
        reach = 1
        while self.difficulty(high) <= difficulty:
            if until_step is not None and high >= until_step:
                return None
            low, high, reach = high, high + reach, 2 * reach
        reach = 1
        while high - reach > low and self.difficulty(high - reach) > difficulty:
            high, reach = high - reach, 2 * reach
        low = max(low, high - reach)
        while high - low > 1:
            middle = (low + high) // 2
            if self.difficulty(middle) <= difficulty:
                low = middle
            else:
                high = middle
        return high if until_step is None or high <= until_step else None

    def _step_near(self, difficulty: int) -> int:
        """About the first step above a difficulty, by the formula turned round; 0 where it tells nothing."""
        unit, low = self.difficulty_step, self.min_difficulty
        progress = ((difficulty // unit + 1) * unit - low) / max(1, self.max_difficulty - low)
        try:
            return math.ceil(self.total_curriculum_step * max(progress, 0.0) ** self.root_degree)
        except OverflowError:
            return 0

    def describe(self) -> str:
        """The course of the difficulty in a few words."""
        first = min(self.first_difficulty, self.max_difficulty)
        if first == self.max_difficulty:
            return f"always {first}"
        root = "" if self.root_degree == 1 else f" along a root of degree {self.root_degree}"
        return f"from {first} to {self.max_difficulty} in {self.total_curriculum_step} steps{root}"

    @property
    def first_difficulty(self) -> int:
        """The smallest multiple of the step that is not below the minimum."""
        return -(-self.min_difficulty // self.difficulty_step) * self.difficulty_step

    @property
    def corrections(self) -> Sequence[str]:
        """One text for each written value that the published rounding moves."""
        unit, texts = self.difficulty_step, []
        if self.first_difficulty != self.min_difficulty:
            first = min(self.first_difficulty, self.max_difficulty)
            texts.append(
                f"the minimum {self.min_difficulty} is no multiple of the step {unit}; the schedule "
                f"starts at {first}"
            )
        if self.max_difficulty % unit and self.first_difficulty < self.max_difficulty:
            reached = self.first_step_above(self.max_difficulty - 1, 0)
            texts.append(
                f"the maximum {self.max_difficulty} is no multiple of the step {unit}; it is reached "
                f"at step {reached}, after the {self.total_curriculum_step} steps that are written"
            )
        return texts
