"""Stages: `fixed_discrete`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Self

from data_efficiency.json_section import ConfigError, Given, Section, Written
from data_efficiency.schedule.protocol import Schedule


@dataclass(frozen=True, kw_only=True)
class DiscreteSchedule(Schedule):
    """`difficulties[i]` for the steps up to `max_steps[i]`, the last difficulty after them all.

    Differs: never above `max_difficulty`; the published class returns such an entry once or for ever.

    Example:
        >>> stages = DiscreteSchedule(difficulties=(1, 2, 3), max_steps=(2, 4), max_difficulty=3)
        >>> [stages.difficulty(step) for step in (1, 2, 3, 4, 5)]
        [1, 1, 2, 2, 3]
    """

    difficulties: Annotated[tuple[int, ...], Written("difficulty")]
    """The difficulty of each stage, one more than max_step (discrete)."""
    max_steps: Annotated[tuple[int, ...], Written("max_step")]
    """The last step of each stage but the last, increasing (discrete)."""
    max_difficulty: Given[int]
    """No stage goes above it."""

    @classmethod
    def from_section(cls, kind: str, low: int, high: int, section: Section) -> Self:
        """As `Schedule.from_section`."""
        stages = section.read(cls, max_difficulty=high)
        steps = list(stages.max_steps)
        if not steps or len(stages.difficulties) != len(steps) + 1:
            raise ConfigError(
                f"{section.path}.difficulty has {len(stages.difficulties)} entries and max_step "
                f"{len(steps)}: there must be one difficulty more than steps"
            )
        if steps != sorted(set(steps)):
            raise ConfigError(f"{section.path}.max_step is {steps}: must increase")
        if stages.difficulties[0] != low:
            section.warn(
                f"the schedule starts at {stages.difficulties[0]}, not at the minimum {low}"
            )
        return stages

    def difficulty(self, step: int) -> int:
        """The accepted difficulty at `step`."""
        for value, last_step in zip(self.difficulties, self.max_steps, strict=False):
            if step <= last_step:
                return min(value, self.max_difficulty)
        return min(self.difficulties[-1], self.max_difficulty)

    def next_change(self, step: int) -> int | None:
        """The first step of the next stage; None in the last one."""
        return next((last_step + 1 for last_step in self.max_steps if last_step >= step), None)

    def describe(self) -> str:
        """The course of the difficulty in a few words."""
        return f"{', '.join(map(str, self.difficulties))}, up to the steps {list(self.max_steps)}"

    @property
    def corrections(self) -> Sequence[str]:
        """One text for each written value that is not reached, or not kept, as it is written."""
        highest, texts = max(self.difficulties), []
        if highest > self.max_difficulty:
            texts.append(
                f"difficulty {highest} is above the maximum {self.max_difficulty}, which is used"
            )
        if highest < self.max_difficulty:
            texts.append(f"the maximum {self.max_difficulty} is never reached, only {highest}")
        return texts

    @property
    def corrections_of_pools(self) -> Sequence[str]:
        """As `Schedule.corrections_of_pools`."""
        if list(self.difficulties) == sorted(self.difficulties):
            return ()
        return (
            f"the difficulties {list(self.difficulties)} go down; the pool of samples keeps the highest so far",
        )
