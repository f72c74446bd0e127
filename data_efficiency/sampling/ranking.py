"""Samples sorted by one metric, or by bands of several, inside each part of a blend.

With one metric and one part that is the difficulty index's own order, and nothing is copied. Anything else is
sorted once and kept on disk beside the clusters of other configurations.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_efficiency.sampling.admission import MetricPool
from data_efficiency.sampling.clusters import describe_pool, exact_order
from data_efficiency.sampling.prepared_clusters import Fill, open_or_prepare

Int64Array = NDArray[np.int64]


class Ranking(NamedTuple):
    """Sorted samples."""

    order: NDArray[Any]
    """Integers [samples]: part after part, in each from the first rank to the last."""
    groups: Int64Array | None
    """int64 [parts, groups]: samples of each group of bands; None: the metrics sort exactly."""


def sorted_by(
    pools: Sequence[MetricPool], part_sizes: Sequence[int], folder: Path | None
) -> Ranking:
    """The samples sorted by metrics, the first one outermost.

    Args:
        part_sizes: of a blend; else the number of samples alone.
        folder: where a ranking is kept; None: beside the first metric's index.
    """
    has_groups = all(pool.metric.num_bands for pool in pools)
    if len(pools) == 1 and len(part_sizes) == 1 and not has_groups:
        pools[0].index.check_files()
        return Ranking(pools[0].order, None)
    made_from = {
        "sorted_by": [
            {
                "values": describe_pool(pool)["values"],
                "num_bands": pool.metric.num_bands,
                **exact_order(pool),
            }
            for pool in pools
        ],
        "part_sizes": list(part_sizes),
    }

    def begin() -> tuple[int, Fill]:
        for pool in pools:
            pool.index.check_files()

        def fill(order: NDArray[Any]) -> tuple[Int64Array, Int64Array]:
            groups = _sort(pools, part_sizes, order)
            # Group after group, part after part; exact metrics have no group but the part itself.
            return np.ones(groups.size, np.int64), np.append(0, np.cumsum(groups))

        return sum(part_sizes), fill

    parent = folder or pools[0].index.path.parent / "clusters"
    prepared = open_or_prepare(parent, made_from, pools[0].index.order.dtype, begin)
    groups = np.diff(prepared.starts).reshape(len(part_sizes), -1)
    return Ranking(np.asarray(prepared.order), groups if has_groups else None)


def _sort(
    pools: Sequence[MetricPool], part_sizes: Sequence[int], order: NDArray[Any]
) -> Int64Array:
    """Writes the sorted samples; int64 [parts, groups], the samples of each group."""
    ends = np.cumsum(part_sizes)
    part_of = np.repeat(np.arange(len(part_sizes), dtype=np.uint16), part_sizes)
    group, num_groups = np.zeros(len(order), np.uint16), 1
    found: NDArray[Any] = np.arange(len(order), dtype=order.dtype)
    for pool in pools:
        by_part = pool.order[np.argsort(part_of[pool.order], kind="stable")]
        bands = pool.metric.num_bands
        if bands is None:
            found = by_part
            break
        group *= np.uint16(bands)
        num_groups *= bands
        for end, size in zip(ends.tolist(), part_sizes, strict=True):
            band = np.arange(size, dtype=np.int64) * bands // max(1, size)
            group[by_part[end - size : end]] += band.astype(np.uint16)
    found = found[np.argsort(group[found], kind="stable")]
    order[:] = found[np.argsort(part_of[found], kind="stable")]
    if pools[-1].metric.num_bands is None:
        return np.array(part_sizes, np.int64)[:, np.newaxis]
    return np.stack(
        [
            np.bincount(group[end - size : end], minlength=num_groups)
            for end, size in zip(ends.tolist(), part_sizes, strict=True)
        ]
    ).astype(np.int64)
