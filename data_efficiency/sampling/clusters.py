"""Clusters: the samples that a metric's schedule admits together, as slices of one order.

Samples sorted by the step that admits them make the growing pool a prefix of the order, and the
samples of one admission step a slice. With one selecting metric that order is the difficulty index's
own, so nothing is copied; without any, all samples are admitted at step 1 in their own order.

A worked example: difficulties 1, 3, 2, 3 and a schedule that accepts 1 at step 1 and 3 at step 10:
the order is samples 0, 2, 1, 3; cluster 0 is order[0:1], admitted at step 1; cluster 1 is order[1:4],
admitted at step 10.
"""

import numpy as np
from numpy.typing import NDArray

from data_efficiency.config import MetricConfig
from data_efficiency.difficulty_index import DifficultyIndex
from data_efficiency.schedule import CustomSchedule, Schedule, growth

Int64Array = NDArray[np.int64]


class Clusters:
    """Slices of the samples' order, with the step that admits each.

    Args:
        num_samples: samples of the dataset.
        metric: the metric that selects samples; None admits them all at step 1.
        index: the metric's difficulty index.
    """

    def __init__(
        self, num_samples: int, metric: MetricConfig | None, index: DifficultyIndex | None
    ) -> None:
        self._metric, self._index = metric, index
        self._last_step = 0
        self._last_difficulty: int | None = None
        self.admission_steps: Int64Array = np.zeros(0, np.int64)
        """int64 [num_clusters]: the step that admits each cluster, increasing."""
        self.starts: Int64Array = np.zeros(1, np.int64)
        """int64 [num_clusters + 1]: cluster k is order[starts[k]:starts[k + 1]], as far as known."""
        if metric is None:
            self.admission_steps = np.ones(1, np.int64)
            self.starts = np.array([0, num_samples], np.int64)
        elif not isinstance(metric.schedule, CustomSchedule):
            self._extend(metric.schedule, until_step=None)

    def boundaries(self, step: int) -> Int64Array:
        """Where the clusters admitted at `step` start in the order, and where the last one ends.

        Raises:
            ValueError: if none is; the message names a difficulty that would admit a sample.
        """
        if self._metric is not None and isinstance(self._metric.schedule, CustomSchedule):
            self._extend(self._metric.schedule, until_step=step)
        count = int(np.searchsorted(self.admission_steps, step, side="right"))
        if count == 0:
            raise ValueError(self._empty_pool(step))
        return self.starts[: count + 1]

    def samples_at(self, places: Int64Array) -> Int64Array:
        """The sample numbers at some places of the order, int64 like `places`."""
        if self._index is None:
            return places
        return self._index.order[places].astype(np.int64)

    def _extend(self, schedule: Schedule, until_step: int | None) -> None:
        """Adds the clusters admitted after the last step looked at."""
        if until_step is not None and until_step <= self._last_step:
            return
        rises = list(growth(schedule, self._last_step, self._last_difficulty, until_step))
        self._last_step = until_step if until_step is not None else 2**62
        if not rises:
            return
        steps = np.array([step for step, _ in rises], np.int64)
        difficulties = np.array([difficulty for _, difficulty in rises], np.int64)
        self._last_difficulty = int(difficulties[-1])
        ends = np.append(self.starts[-1], self._pool_sizes(difficulties))
        grows = ends[1:] > ends[:-1]
        self.admission_steps = np.append(self.admission_steps, steps[grows])
        self.starts = np.append(self.starts, ends[1:][grows])

    def _pool_sizes(self, difficulties: Int64Array) -> Int64Array:
        """Samples accepted at each difficulty, int64 like `difficulties`."""
        assert self._metric is not None
        assert self._index is not None
        if self._metric.difficulty_type == "value":
            return np.asarray(self._index.num_at_most(difficulties), np.int64)
        maximum = self._metric.max_difficulty
        return np.asarray(
            self._index.num_in_percentile(np.minimum(difficulties, maximum), maximum), np.int64
        )

    def _empty_pool(self, step: int) -> str:
        assert self._metric is not None
        assert self._index is not None
        metric, index = self._metric, self._index
        accepted = metric.schedule.difficulty(step)
        if metric.difficulty_type == "value":
            remedy = f"its easiest sample has {index.min_value}; let the schedule start there"
        else:
            remedy = (
                f"its index has {index.num_samples} samples, fewer than max_difficulty "
                f"({metric.max_difficulty}); lower max_difficulty"
            )
        return f"metric {metric.name!r} admits no sample at step {step} (difficulty {accepted}): {remedy}"
