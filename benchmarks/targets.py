"""What the figures of a benchmark must be: a limit, its side, and the reason for it."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """What a figure must be, and why."""

    limit: float
    at_least: bool
    reason: str

    def is_missed(self, figure: float) -> bool:
        """Whether a figure is on the wrong side of the limit."""
        return figure < self.limit if self.at_least else figure > self.limit


def missed(targets: Mapping[str, Target], figures: Mapping[str, float]) -> list[str]:
    """One text for each target that a figure misses; one that was not measured misses none."""
    return [
        f"{name} is {figures[name]:.3g}, must be at {'least' if target.at_least else 'most'} "
        f"{target.limit}: {target.reason}"
        for name, target in targets.items()
        if name in figures and target.is_missed(figures[name])
    ]
