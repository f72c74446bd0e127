"""Curves of several seeds as one: the mean over the seeds, and its interval, along a cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megatron.study.statistics import estimate

POINTS = 60
"""Of a band, where seeds were evaluated at other costs."""

Curve = Sequence[Mapping[str, float]]


@dataclass(frozen=True, kw_only=True)
class Band:
    """The mean of curves and where the true one lies, float64 [points] each."""

    places: NDArray[np.float64]
    """Costs, rising."""
    means: NDArray[np.float64]
    half_widths: NDArray[np.float64] | None
    """Half the interval at each place; None of a single curve."""


def band_of(curves: Sequence[Curve], axis: str, value: str = "value") -> Band:
    """The band of curves, each of them read off at the same costs.

    It covers the costs that all of them reach. Where there are none, it is the first curve alone.

    Args:
        curves: one or more, each with a point or more, by rising cost.
        axis: name of the cost in a point.
        value: name of what is averaged.

    Example:
        >>> flat, steep = [{"t": 0, "value": 1}, {"t": 4, "value": 1}], [{"t": 0, "value": 1}, {"t": 4, "value": 3}]
        >>> found = band_of([flat, steep], "t")
        >>> float(found.places[-1]), float(found.means[-1]), float(found.half_widths[0])
        (4.0, 2.0, 0.0)
    """
    costs = [np.array([point[axis] for point in curve], float) for curve in curves]
    values = [np.array([point[value] for point in curve], float) for curve in curves]
    start, end = max(cost[0] for cost in costs), min(cost[-1] for cost in costs)
    if len(costs) == 1 or not start < end:
        return Band(places=costs[0], means=values[0], half_widths=None)
    places = np.linspace(start, end, POINTS)
    rows = [np.interp(places, *pair) for pair in zip(costs, values, strict=True)]
    halves = [estimate([float(row[i]) for row in rows]).half_width for i in range(POINTS)]
    return Band(places=places, means=np.mean(rows, axis=0), half_widths=np.array(halves, float))
