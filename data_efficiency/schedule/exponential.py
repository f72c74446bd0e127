"""A fall that slows down: what DeepSpeed's Progressive Layer Drop did to the share of layers kept."""

import math
from dataclasses import dataclass

from data_efficiency.json_section import Given
from data_efficiency.schedule.protocol import Schedule


@dataclass(frozen=True, kw_only=True)
class ExponentialFall(Schedule):
    """A fall from `max_difficulty` towards `min_difficulty`.

    difficulty(t) = round((max - min) * exp(-rate * t) + min), halves rounded up.

    Example:
        >>> kept = ExponentialFall(min_difficulty=50, max_difficulty=100, rate=0.1)
        >>> [kept.difficulty(step) for step in (0, 1, 10, 100)]
        [100, 95, 68, 50]
        >>> kept.next_change(0), kept.next_change(100)
        (1, None)

    Source: Zhang and He, "Accelerating Training of Transformer-Based Language Models with Progressive Layer
    Dropping" (arXiv 2010.13369), equation 5, with theta and gamma as DeepSpeed named them.
    """

    min_difficulty: Given[int]
    """What it comes to."""
    max_difficulty: Given[int]
    """Difficulty at step 0."""
    rate: float
    """Share of what is left that is lost in a step (exponential), required there."""

    def difficulty(self, step: int) -> int:
        """The accepted difficulty at `step` >= 0."""
        span = self.max_difficulty - self.min_difficulty
        return math.floor(span * math.exp(-self.rate * step) + self.min_difficulty + 0.5)

    def next_change(self, step: int) -> int | None:
        """The first step after `step` with a lower difficulty; None where it stays."""
        now = self.difficulty(step)
        if now == self.min_difficulty or not self.rate:
            return None
        low, reach = step, 1
        while self.difficulty(low + reach) == now:
            low, reach = low + reach, 2 * reach
        high = low + reach
        while high - low > 1:
            middle = (low + high) // 2
            if self.difficulty(middle) == now:
                low = middle
            else:
                high = middle
        return high

    def describe(self) -> str:
        """The course of the difficulty in a few words."""
        return f"from {self.max_difficulty} towards {self.min_difficulty}, exponentially by {self.rate:g}"
