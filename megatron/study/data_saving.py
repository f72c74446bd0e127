"""How much of the baseline's cost an arm's result is worth.

The baseline is trained to several budgets, each with its learning rate decayed to the end: its curve
of final loss over cost. An arm's loss is looked up on that curve; the cost found there, divided by the
arm's own cost, is the saving factor: 1.3 says that the baseline needs 1.3 times as much for the same.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from megatron.study.statistics import LEVEL, jackknife

FARTHEST = 2.0
"""How far beyond the baseline's smallest and largest budget its curve is trusted, as a factor."""
NEAR = 1.1
"""Up to this factor beyond them a result is not called extrapolated."""


@dataclass(frozen=True, kw_only=True)
class SeedCosts:
    """One seed's runs: of the baseline at each budget, and of the arm."""

    baseline: Sequence[tuple[float, float]]
    """(cost, final loss) at each budget, by cost."""
    arm: tuple[float, float]
    """Likewise."""


@dataclass(frozen=True, kw_only=True)
class Saving:
    """A saving factor and its interval."""

    factor: float
    low: float | None
    high: float | None
    num_seeds: int
    bound: str = ""
    """"at least" or "at most" where the arm's loss lies outside of what the curve is trusted for."""
    extrapolated: bool = False
    """Whether the loss lies outside of the measured budgets."""

    @property
    def decided(self) -> bool:
        """Whether the interval leaves out 1."""
        return self.low is not None and self.high is not None and not self.low <= 1 <= self.high


def saving_factor(seeds: Sequence[SeedCosts], level: float = LEVEL) -> Saving:
    """The factor over seeds, as one number with an interval.

    The means over seeds are looked up (a mean of look-ups would be biased by noise); the interval is the
    jackknife's on the logarithm, so noise that arm and baseline share cancels, and the curve's own
    uncertainty is in it.

    Raises:
        ValueError: if there is no seed, the baseline has one budget only, or its loss does not fall.
    """
    if not seeds:
        raise ValueError("no seed has both the baseline at every budget and the arm")
    found = jackknife(seeds, _log_factor, level)
    curve, _, loss = _means(seeds)
    return Saving(
        factor=math.exp(_log_factor(seeds)),
        low=None if found.low is None else math.exp(found.low),
        high=None if found.high is None else math.exp(found.high),
        num_seeds=len(seeds),
        bound=curve.bound(loss),
        extrapolated=not curve.near(curve.cost_of(loss)),
    )


class LossCurve:
    """Final loss over the logarithm of the cost: a line through two budgets, a parabola for more.

    A power law with a floor is so smooth in the logarithm that a parabola over a few budgets follows it
    within a small part of the loss's fall, and it has no parameters that noise sends to infinity.

    Args:
        costs: of the budgets, rising.
        losses: the mean final loss at each.

    Raises:
        ValueError: for less than two budgets, or losses that do not fall from the first to the last.
    """

    def __init__(self, costs: Sequence[float], losses: Sequence[float]) -> None:
        if len(costs) < 2:
            raise ValueError(
                "the saving factor needs the baseline at two budgets at least: add to `budgets`"
            )
        if not losses[-1] < losses[0]:
            raise ValueError(
                f"the baseline's loss is {losses[0]:.4f} at its smallest and {losses[-1]:.4f} at its "
                "largest budget: it does not fall, so no loss can be looked up"
            )
        self._costs = costs
        logs = np.log(np.asarray(costs, float))
        shape = np.polynomial.Polynomial.fit(logs, losses, min(2, len(costs) - 1))
        reach = math.log(FARTHEST)
        grid = np.linspace(logs[0] - reach, logs[-1] + reach, 4001)
        found = shape(grid)
        # A parabola falls on one side of its vertex alone: from its highest point on, to the lowest behind that.
        start = int(found[grid <= logs[-1]].argmax())
        falling = slice(start, start + int(found[start:].argmin()) + 1)
        # np.interp wants rising losses.
        self._losses, self._logs = found[falling][::-1], grid[falling][::-1]

    def cost_of(self, loss: float) -> float:
        """The cost at which the curve has this loss, at most `FARTHEST` beyond the budgets."""
        return float(np.exp(np.interp(loss, self._losses, self._logs)))

    def near(self, cost: float) -> bool:
        """Whether a cost lies among the budgets."""
        return self._costs[0] / NEAR <= cost <= self._costs[-1] * NEAR

    def bound(self, loss: float) -> str:
        """Say "at least" or "at most" where the curve never has this loss, so that `cost_of` is its end."""
        if loss <= self._losses[0]:
            return "at least"
        return "at most" if loss >= self._losses[-1] else ""


def _means(seeds: Sequence[SeedCosts]) -> tuple[LossCurve, float, float]:
    """The baseline's mean curve, and the arm's mean cost and loss."""
    points = np.array([seed.baseline for seed in seeds], float).mean(0)
    cost, loss = np.array([seed.arm for seed in seeds], float).mean(0)
    return LossCurve(points[:, 0], points[:, 1]), float(cost), float(loss)


def _log_factor(seeds: Sequence[SeedCosts]) -> float:
    curve, cost, loss = _means(seeds)
    return math.log(curve.cost_of(loss) / cost)


def seeds_in_common(
    baseline: Mapping[int, Mapping[float, tuple[float, float]]],
    arm: Mapping[int, tuple[float, float]],
) -> list[SeedCosts]:
    """The seeds that both have; the baseline at the same budgets in all of them, its costs sorted.

    In a study that is not finished some seeds lack a budget: as many seeds count as have two budgets in common,
    and all the budgets that these have.

    Args:
        baseline: seed -> budget -> (cost, loss).
        arm: seed -> (cost, loss).
    """
    budgets = sorted({budget for seed in arm for budget in baseline.get(seed, ())})
    # The first of those with equally many seeds has the most budgets.
    sets = [s for size in range(len(budgets), 1, -1) for s in combinations(budgets, size)]

    def seeds_with(some: Iterable[float]) -> list[int]:
        return [seed for seed in sorted(arm) if {*some} <= {*baseline.get(seed, ())}]

    chosen = max(sets, key=lambda some: len(seeds_with(some)), default=tuple(budgets))
    return [
        SeedCosts(baseline=sorted(baseline[seed][one] for one in chosen), arm=arm[seed])
        for seed in (seeds_with(chosen) if chosen else ())
    ]
