"""A function of the user's: `custom`."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import ClassVar, Literal

from data_efficiency.schedule.protocol import Schedule


@dataclass(frozen=True, kw_only=True)
class CustomSchedule(Schedule):
    """The user's own pure function of the step, used as it is: it may go down, or past the maximum."""

    ends: ClassVar[bool] = False
    takes_function: ClassVar[bool] = True
    function: Callable[[int], int] | None = None
    """None: not set yet; no key of the JSON file."""

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

    def next_change(self, step: int) -> int:
        """The next step: a function is known only by asking it."""
        return step + 1

    def first_step_above(
        self, difficulty: int, after_step: int, until_step: int | None = None
    ) -> int | None:
        """As `Schedule.first_step_above`; a resume asks for every step done, so values go unchecked."""
        steps = (
            count(after_step + 1) if until_step is None else range(after_step + 1, until_step + 1)
        )
        ask = self.function or self.difficulty
        return next((step for step in steps if ask(step) > difficulty), None)

    def describe(self) -> str:
        """The course of the difficulty in a few words."""
        return "a custom schedule"

    def identity(self) -> Literal["custom"]:
        """No more than its kind: what the function gave is compared by the pools it made."""
        return "custom"
