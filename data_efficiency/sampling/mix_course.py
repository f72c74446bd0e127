"""What a mix comes to: how many samples of each part a run has drawn after any number of them.

The weights are a piecewise constant or linear function of the samples drawn, so the target of a part, their
integral, is a piecewise line or parabola, and the draw at which a target is reached is known in closed form.
Nothing is kept but what was drawn of each part: shares are exact at any step and after any resume.

A worked example: one part from weight 0 to 1 in 10 samples, the other from 1 to 0: after 10 samples 5 of each.
"""

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from data_efficiency.config import Mix

Int64Array = NDArray[np.int64]
Float64Array = NDArray[np.float64]


class MixCourse:
    """The targets of a mix whose points are in samples."""

    def __init__(self, mix: Mix) -> None:
        assert mix.unit == "samples"
        self.mix = mix
        self._begins = np.array(mix.points, np.float64)  # [points]
        self._weights = np.array(mix.weights, np.float64)  # [points, parts]

    def weights_at(self, num_drawn: float) -> Float64Array:
        """float64 [parts]: in which proportions the next samples are drawn; their sum is 1."""
        point = np.searchsorted(self._begins, num_drawn, "right") - 1
        return self._weights[point] + self._slopes[point] * (num_drawn - self._begins[point])

    def targets(self, num_drawn: float) -> Float64Array:
        """float64 [parts]: how many samples of each part there are among the first `num_drawn`."""
        point = np.searchsorted(self._begins, num_drawn, "right") - 1
        after = num_drawn - self._begins[point]
        slope = self._slopes[point]
        return self._targets[point] + (self._weights[point] + slope * (after / 2)) * after

    def reached_at(self, part: int, targets: Float64Array) -> Float64Array:
        """The number of draws at which targets above 0 of one part are reached; infinite where they never are."""
        point = np.searchsorted(self._targets[:, part], targets, "left") - 1
        missing = targets - self._targets[point, part]
        weight, slope = self._weights[point, part], self._slopes[point, part]
        # The root of weight * x + slope * x^2 / 2 = missing, in the form that loses no digits.
        with np.errstate(divide="ignore", invalid="ignore"):
            after = 2 * missing / (weight + np.sqrt(weight * weight + 2 * slope * missing))
        return np.where(np.isnan(after), np.inf, self._begins[point] + after)

    @cached_property
    def _slopes(self) -> Float64Array:
        """float64 [points, parts]: change of the weights for each sample from a point on."""
        slopes = np.zeros_like(self._weights)
        if self.mix.is_linear:
            slopes[:-1] = np.diff(self._weights, axis=0) / np.diff(self._begins)[:, np.newaxis]
        return slopes

    @cached_property
    def _targets(self) -> Float64Array:
        """float64 [points, parts]: the targets at the points."""
        lengths = np.diff(self._begins)[:, np.newaxis]
        means = self._weights[:-1] + self._slopes[:-1] * lengths / 2
        added = np.cumsum(means * lengths, axis=0)
        return np.concatenate([np.zeros_like(self._weights[:1]), added])
