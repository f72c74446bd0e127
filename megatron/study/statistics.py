"""What a few numbers a seed allow to say: means with intervals, verdicts, seeds that are needed.

All intervals are Student's: few seeds make them wide, one seed has none.
"""

import functools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

LEVEL = 0.95
MOST_SEEDS = 10_000

Verdict = Literal["better", "worse", "undecided"]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over seeds and where the true one lies."""

    mean: float
    num_seeds: int
    spread: float | None = None
    """Sample standard deviation over the seeds; None for one seed, as are the next two."""
    low: float | None = None
    """Lower end of the interval."""
    high: float | None = None

    @property
    def half_width(self) -> float | None:
        """Half the interval."""
        return None if self.high is None else self.high - self.mean


def estimate(values: Sequence[float], level: float = LEVEL) -> Estimate:
    """Mean, spread and interval of one number a seed.

    Raises:
        ValueError: for no value.

    Example:
        >>> found = estimate([1.0, 2.0, 3.0])
        >>> found.mean, found.spread, round(found.low, 3), round(found.high, 3)
        (2.0, 1.0, -0.484, 4.484)
    """
    if not values:
        raise ValueError("there is no value to take a mean of: no run of this arm has finished")
    mean, num = statistics.fmean(values), len(values)
    if num == 1:
        return Estimate(mean=mean, num_seeds=1)
    spread = statistics.stdev(values)
    half = _students_t(level, num) * spread / math.sqrt(num)
    return Estimate(mean=mean, num_seeds=num, spread=spread, low=mean - half, high=mean + half)


@functools.cache
def _students_t(level: float, num: int) -> float:
    """Half the interval of a mean of so many, in its standard errors."""
    return float(_distributions().t.ppf((1 + level) / 2, num - 1))


def verdict(difference: Estimate, *, higher_is_better: bool = False) -> Verdict:
    """What a difference to the baseline shows.

    Whatever its mean is, an interval that holds zero decides nothing, and neither does one seed.

    Example:
        >>> verdict(estimate([-0.2, -0.3, -0.25])), verdict(estimate([-0.2])), verdict(estimate([1, -2]))
        ('better', 'undecided', 'undecided')
    """
    if difference.low is None or difference.high is None:
        return "undecided"
    if difference.low <= 0 <= difference.high:
        return "undecided"
    return "better" if (difference.low > 0) == higher_is_better else "worse"


def seeds_needed(
    spread: float, difference: float, *, power: float = 0.8, level: float = LEVEL
) -> int | None:
    """The fewest seeds whose interval leaves out zero with this probability.

    Args:
        spread: standard deviation over seeds of the paired difference, from a pilot.
        difference: the true one that shall be seen, in the same unit.
        power: probability that it is.

    Returns:
        The number; None above 10,000.

    Raises:
        ValueError: for a difference of zero or a negative spread.

    Source: power of the paired t-test, by the noncentral t distribution (Cohen 1988, chapter 2).

    Example:
        >>> seeds_needed(0.05, 0.05), seeds_needed(0.05, 0.2), seeds_needed(0.0, 0.1)
        (10, 3, 2)
    """
    if difference == 0 or spread < 0:
        raise ValueError(
            f"difference is {difference} and spread {spread}: give a difference other than zero, and a "
            "spread that is not negative"
        )
    if spread == 0:
        return 2
    fewest, most = 2, 2
    while _power(most, abs(difference) / spread, level) < power:
        fewest, most = most, 2 * most
        if most > MOST_SEEDS:
            return None
    while fewest < most:
        middle = (fewest + most) // 2
        if _power(middle, abs(difference) / spread, level) < power:
            fewest = middle + 1
        else:
            most = middle
    return most


def _power(num_seeds: int, effect: float, level: float) -> float:
    """Probability that the interval of so many seeds leaves out zero on the effect's side."""
    stats, freedom = _distributions(), num_seeds - 1
    threshold = stats.t.ppf((1 + level) / 2, freedom)
    return float(stats.nct.sf(threshold, freedom, effect * math.sqrt(num_seeds)))


def _distributions() -> Any:
    """Student's t and its relatives."""
    try:
        from scipy import stats  # type: ignore[import-untyped]  # noqa: PLC0415  an optional extra
    except ImportError as error:
        raise ModuleNotFoundError(
            "intervals need scipy: pip install 'data-efficiency[report]'"
        ) from error
    return stats


def jackknife(
    seeds: Sequence[Any], of: Callable[[Sequence[Any]], float], level: float = LEVEL
) -> Estimate:
    """A figure that is no mean over seeds, and its interval, from leaving out one seed at a time.

    Args:
        seeds: the data of each seed.
        of: some seeds' data -> the figure; smooth in the data.

    Source: Tukey 1958: the pseudo-values n·θ - (n-1)·θ₋ᵢ are treated as independent numbers.

    Example:
        >>> jackknife([1.0, 2.0, 3.0], lambda some: sum(some) / len(some)) == estimate([1.0, 2.0, 3.0])
        True
    """
    num = len(seeds)
    whole = of(seeds)
    if num == 1:
        return Estimate(mean=whole, num_seeds=1)
    without = [of([*seeds[:left_out], *seeds[left_out + 1 :]]) for left_out in range(num)]
    return estimate([num * whole - (num - 1) * rest for rest in without], level)
