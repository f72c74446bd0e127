"""The clusters that a configuration draws from: a growing pool, a blend of parts, or an order."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from data_efficiency.config import DataEfficiencyConfig, Feedback, Order
from data_efficiency.sampling.admission import MetricPool
from data_efficiency.sampling.clusters import Clusters
from data_efficiency.sampling.draw import Arrange, ClusterChoice
from data_efficiency.sampling.feedback import FeedbackClusters
from data_efficiency.sampling.parts import PartedClusters, Parts
from data_efficiency.sampling.played_order import PlayedOrder
from data_efficiency.sampling.ranking import Ranking, sorted_by

Int64Array = NDArray[np.int64]


class DrawnClusters(Protocol):
    """What the sampler asks of clusters; `Clusters` says what the members mean."""

    @property
    def parts(self) -> Int64Array:
        """int64 [clusters so far]: the part of a blend that each belongs to."""

    def boundaries(self, step: int, /) -> Int64Array:
        """Where the clusters admitted at `step` start, and where the last one ends."""

    def change_steps(self, until_step: int, /) -> Int64Array:
        """The steps up to one at which the pool changes, ascending."""

    def num_retired(self, step: int, /) -> int:
        """Clusters, from the first on, that nothing is drawn from any more."""

    def chooser(self, step: int, /) -> ClusterChoice:
        """What chooses the clusters of a step's rows."""

    def arranger(self, step: int, /) -> Arrange:
        """What says which places a step's draws from clusters become."""

    def samples_at(self, places: Int64Array, /) -> Int64Array:
        """The sample numbers at some places."""


def make_clusters(
    num_samples: int,
    pools: Sequence[MetricPool],
    *,
    order: Order | None,
    feedback: Feedback | None,
    parts: Parts | None,
    folder: Path | None,
) -> DrawnClusters:
    """The clusters of feedback, or of metrics that select or sort samples; none draws from all samples alike.

    Args:
        folder: where they are kept if they are prepared; None: beside the first metric's index.
    """
    if feedback is not None:
        return FeedbackClusters(feedback, (num_samples,) if parts is None else parts.sizes, parts)
    if order is not None:
        return _played(num_samples, pools, order, parts, folder)
    clusters = Clusters(num_samples, pools, folder)
    if parts is None:
        return clusters
    return PartedClusters(clusters, parts, is_in_order=not pools)


def _played(
    num_samples: int,
    pools: Sequence[MetricPool],
    order: Order,
    parts: Parts | None,
    folder: Path | None,
) -> PlayedOrder:
    if parts is None:
        draws = [order.pass_samples or num_samples]
        sizes: Sequence[int] = [num_samples]
        return PlayedOrder(sorted_by(pools, sizes, folder), order, sizes, draws, _choose_only_part)
    sizes = parts.sizes
    if not all(sizes):
        raise ValueError(
            f"part {sizes.index(0)} of {parts.title} has no sample, and an order goes through each: leave it out"
        )
    draws = list(sizes)
    if order.pass_samples is not None:
        targets = parts.targets(order.pass_samples).tolist()
        draws = [max(1, round(target)) for target in targets]
    ranking = sorted_by(pools, sizes, folder)
    return PlayedOrder(ranking, order, sizes, draws, parts.chooser)


def order_without_index(settings: DataEfficiencyConfig, num_samples: int) -> PlayedOrder:
    """The order over samples that nobody has sorted yet: where it stands is known, not which samples it plays.

    Groups of bands are taken to be equally large, as they are where the metrics have nothing to do with each other.
    """
    order = settings.order
    assert order is not None
    groups = None
    if all(one.num_bands for one in settings.selections):
        count = math.prod(one.num_bands or 1 for one in settings.selections)
        edges = np.arange(count + 1, dtype=np.int64) * num_samples // count
        groups = np.diff(edges)[np.newaxis]
    ranking = Ranking(np.zeros(0, np.int64), groups)
    return PlayedOrder(
        ranking, order, [num_samples], [order.pass_samples or num_samples], _choose_only_part
    )


def _choose_only_part(_step: int) -> ClusterChoice:
    return _only_part


def _only_part(
    _generator: np.random.Generator, _starts: Int64Array, _positions: Int64Array, num_rows: int
) -> Int64Array:
    return np.zeros(num_rows, np.int64)
