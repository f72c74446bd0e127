"""Clusters: the samples that the metrics' schedules admit together, as slices of one order.

Samples sorted by the step that admits them make the growing pool a prefix of the order, and the
samples of one admission step a slice. With one selecting metric that order is the difficulty index's
own, so nothing is copied; without any, all samples are admitted at step 1 in their own order. Several
metrics have an order of their own: prepared once on disk, or, where a schedule has no known end, in
memory as the steps go by.

A worked example: difficulties 1, 3, 2, 3 and a schedule that accepts 1 at step 1 and 3 at step 10:
the order is samples 0, 2, 1, 3; cluster 0 is order[0:1], admitted at step 1; cluster 1 is order[1:4],
admitted at step 10.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_efficiency.sampling.admission import (
    MetricPool,
    PoolGrowth,
    Rise,
    admitted_at,
    explain_empty_pool,
    in_groups,
)
from data_efficiency.sampling.draw import Arrange, ClusterChoice, choose_by_size, shuffled_passes
from data_efficiency.sampling.prepared_clusters import ClusterArrays, Fill, open_or_prepare
from data_efficiency.sampling.window import window_of

Int64Array = NDArray[np.int64]


class Clusters:
    """Slices of the samples' order, with the step that admits each.

    Args:
        pools: one for each metric that selects samples; none admits them all at step 1.
        folder: where clusters of several metrics are kept; None: beside the first metric's index.
    """

    def __init__(
        self, num_samples: int, pools: Sequence[MetricPool], folder: Path | None = None
    ) -> None:
        # By name, so that the order of the metrics in the configuration changes nothing.
        self._pools = sorted(pools, key=lambda pool: pool.metric.name)
        self._is_growing = not all(pool.metric.schedule.ends for pool in pools)
        self._growth = PoolGrowth(self._pools)
        self._order: NDArray[Any] | None = None
        self.admission_steps: Int64Array = np.zeros(0, np.int64)
        """int64 [num_clusters]: the step that admits each cluster, increasing."""
        self._retirement_steps: Int64Array = np.zeros(0, np.int64)
        """int64 [num_clusters], not decreasing; empty: nothing retires."""
        self.starts: Int64Array = np.zeros(1, np.int64)
        """int64 [num_clusters + 1]: cluster k is order[starts[k]:starts[k + 1]], as far as known."""
        if len(pools) == 1 or self._is_growing:
            self._check_files()
        if not pools:
            self.admission_steps = np.ones(1, np.int64)
            self.starts = np.array([0, num_samples], np.int64)
        elif len(pools) == 1:
            self._order = self._pools[0].order
            if self._pools[0].metric.window_size is not None:
                window = window_of(self._pools[0])
                self.admission_steps, self._retirement_steps, self.starts = window
            elif not self._is_growing:
                self._append(self._growth.advance(None))
        elif self._is_growing:
            # Takes memory only as far as it is filled.
            self._order = np.empty(num_samples, self._dtype)
        else:
            arrays = self._prepared(folder or self._pools[0].index.path.parent / "clusters")
            self._order, self.admission_steps, self.starts = arrays

    @property
    def parts(self) -> Int64Array:
        """int64 [clusters so far]: the part of a blend that each belongs to; the one there is."""
        return np.zeros(len(self.admission_steps), np.int64)

    def boundaries(self, step: int) -> Int64Array:
        """Where the clusters admitted at `step` start in the order, and where the last one ends.

        Returns:
            int64 [clusters admitted + 1]; the last one is the pool's size.

        Raises:
            ValueError: if none is; the message names a difficulty that would admit a sample.
        """
        if self._is_growing:
            self._append(self._growth.advance(step))
        count = int(np.searchsorted(self.admission_steps, step, side="right"))
        if count == 0:
            raise ValueError(explain_empty_pool(self._pools, step))
        return self.starts[: count + 1]

    def change_steps(self, until_step: int) -> Int64Array:
        """The steps up to `until_step` at which the pool changes, ascending."""
        count = len(self.boundaries(until_step)) - 1
        steps = np.append(self.admission_steps[:count], self._retirement_steps)
        return np.unique(steps[steps <= until_step])

    def num_retired(self, step: int) -> int:
        """Clusters, from the first on, that nothing is drawn from any more at `step`."""
        return int(np.searchsorted(self._retirement_steps, step, side="right"))

    def chooser(self, step: int) -> ClusterChoice:
        """What chooses the clusters of a step's rows: each sample of the pool is equally likely."""
        return partial(choose_by_size, num_retired=self.num_retired(step))

    def arranger(self, _step: int) -> Arrange:
        """Passes through each cluster, each in another random order."""
        return shuffled_passes

    def samples_at(self, places: Int64Array) -> Int64Array:
        """The sample numbers at some places of the order, int64 like `places`."""
        if self._order is None:
            return places
        return self._order[places].astype(np.int64)

    @property
    def _dtype(self) -> np.dtype:
        """Of the sample numbers; the indexes of one dataset agree."""
        return self._pools[0].index.order.dtype

    def _append(self, rises: list[Rise]) -> None:
        """Adds the clusters of some rises, a cluster for each that admits a sample."""
        if not rises:
            return
        assert self._order is not None
        if len(self._pools) == 1:
            ends = [rise.after[0] for rise in rises]
        else:
            ends = _fill(self._order, int(self.starts[-1]), self._pools, rises)
        bounds = np.append(self.starts[-1], ends)
        grows = bounds[1:] > bounds[:-1]
        steps = np.array([rise.step for rise in rises], np.int64)
        self.admission_steps = np.append(self.admission_steps, steps[grows])
        self.starts = np.append(self.starts, bounds[1:][grows])

    def _prepared(self, folder: Path) -> ClusterArrays:
        """The clusters of several metrics whose schedules end, from disk if they are there."""
        made_from = {"metrics": [describe_pool(pool) | exact_order(pool) for pool in self._pools]}
        return open_or_prepare(folder, made_from, self._dtype, self._begin)

    def _check_files(self) -> None:
        for pool in self._pools:
            pool.index.check_files()

    def _begin(self) -> tuple[int, Fill]:
        """How many samples all metrics admit at most, and what writes them down."""
        self._check_files()
        rises = PoolGrowth(self._pools).advance(None)

        def fill(order: NDArray[Any]) -> tuple[Int64Array, Int64Array]:
            self._order = order
            self.admission_steps, self.starts = np.zeros(0, np.int64), np.zeros(1, np.int64)
            self._append(rises)
            if self.starts[-1] == 0:
                raise ValueError(explain_empty_pool(self._pools, rises[0].step if rises else 1))
            return self.admission_steps, self.starts

        return (max(1, min(rises[-1].after)) if rises else 1), fill


def describe_pool(pool: MetricPool) -> dict[str, Any]:
    """What the samples that a metric accepts depend on, plain JSON data."""
    metric = pool.metric
    return {
        "name": metric.name,
        "difficulty_type": metric.difficulty_type,
        "max_difficulty": metric.max_difficulty,
        "schedule": metric.schedule.identity(),
        "values": pool.index.manifest["files"]["values.npy"]["sha256"],
        # Left out where they are not used, so that states and folders of before still fit.
        **({} if metric.window_size is None else {"window_size": metric.window_size}),
        **({"num_bands": metric.num_bands} if metric.sorts else {}),
    }


def exact_order(pool: MetricPool) -> dict[str, Any]:
    """What says the order of samples whose difficulties are quantised, plain JSON data; others follow from the values."""
    files = pool.index.manifest["files"]
    return {"order": files["order.npy"]["sha256"]} if pool.index.is_quantised else {}


def _fill(
    order: NDArray[Any], end: int, pools: Sequence[MetricPool], rises: list[Rise]
) -> list[int]:
    """Writes the samples of some rises behind `end`; where each rise ends in the order."""
    ends: list[int] = []
    for group in in_groups(rises):
        counts, start, found = np.zeros(len(group), np.int64), end, []
        for samples, which in admitted_at(pools, group):
            order[end : end + samples.size] = samples
            end += samples.size
            counts += np.bincount(which, minlength=len(group))
            if len(group) > 1:
                found.append(which)
        if found:
            # Those of one rise together, in the order in which they were found.
            by_rise = np.argsort(np.concatenate(found), kind="stable")
            order[start:end] = order[start:end][by_rise]
        ends += (start + np.cumsum(counts)).tolist()
    return ends
