"""How a pass runs through sorted samples: buckets of ranks, played one after the other.

A rank is a sample's place among the sorted samples of its part. Every rank is in one bucket, and a bucket
is a few integers whatever it holds, so an order over any number of samples is a table of some hundred lines.

A worked example: 8 ranks, folded twice into 2 buckets a fold, give the buckets {0, 2}, {4, 6}, {1, 3}, {5, 7}.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_efficiency.config import Order

Int64Array = NDArray[np.int64]


class Buckets(NamedTuple):
    """Buckets in the order in which they are played, int64 [buckets] each.

    The ranks of one are first + (i % width) * stride + i // width, for i from 0 to sizes - 1.
    """

    first: Int64Array
    sizes: Int64Array
    width: Int64Array
    stride: Int64Array

    def ranks(self, buckets: Int64Array, places: Int64Array) -> Int64Array:
        """The ranks at some places of some buckets, int64 like both."""
        width = self.width[buckets]
        return self.first[buckets] + places % width * self.stride[buckets] + places // width

    def middle_ranks(self, buckets: Int64Array) -> Int64Array:
        """The rank in the middle of those of some buckets, int64 like them."""
        width = self.width[buckets]
        in_run = self.sizes[buckets] // width
        return self.first[buckets] + width // 2 * self.stride[buckets] + in_run // 2


def make_buckets(order: Order, num_ranks: int, groups: Int64Array | None = None) -> Buckets:
    """The buckets of an order over `num_ranks` >= 1 sorted samples; those that would be empty are left out.

    Args:
        groups: int64, how many samples each group of the metrics' bands has; None: the metrics sort exactly.

    Example:
        >>> order = Order(kind="interleaved", num_folds=2, num_buckets=2)
        >>> buckets = make_buckets(order, 8)
        >>> buckets.ranks(np.array([0, 0, 0, 0, 1]), np.array([0, 1, 2, 3, 0])).tolist()
        [0, 4, 1, 5, 2]
    """
    if groups is not None:
        edges = np.append(0, np.cumsum(groups))
        played = _slices(edges)
        if order.kind == "sequence":
            played = _taken(played, np.array(order.sequence, np.int64))
    elif order.kind == "stages":
        played = _in_stages(num_ranks, order)
    elif order.num_folds is None:
        played = _slices(_edges(num_ranks, order.buckets))
    elif order.kind == "interleaved":
        played = _interleaved(num_ranks, order.num_folds, order.buckets)
    else:
        played = _folded(num_ranks, order)
    if order.kind == "descending":
        played = _taken(played, np.arange(len(played.first))[::-1])
    return _taken(played, np.flatnonzero(played.sizes))


def _edges(num_ranks: int, num_buckets: int) -> Int64Array:
    """Where buckets of equally many ranks begin, and where the last one ends."""
    number = min(num_ranks, num_buckets)
    return np.arange(number + 1, dtype=np.int64) * num_ranks // max(1, number)


def _slices(edges: Int64Array) -> Buckets:
    first, count = edges[:-1], np.diff(edges)
    return Buckets(first, count, np.ones_like(first), np.zeros_like(first))


def _folded(num_ranks: int, order: Order) -> Buckets:
    """Fold k has the ranks k, k + folds, k + 2 * folds and so on."""
    folds = []
    assert order.num_folds is not None
    for fold in range(min(order.num_folds, num_ranks)):
        edges = _edges((num_ranks - fold - 1) // order.num_folds + 1, order.buckets)
        count = np.diff(edges)
        stride = np.full_like(count, order.num_folds)
        found = Buckets(fold + edges[:-1] * order.num_folds, count, np.maximum(count, 1), stride)
        if order.kind == "saw" and fold % 2:
            found = _taken(found, np.arange(len(count))[::-1])
        folds.append(found)
    return _joined(folds)


def _in_stages(num_ranks: int, order: Order) -> Buckets:
    """Of each run of so many ranks as all stages have parts, a stage has as many as it has parts.

    Of few ranks a run is shorter, so that there are about as many runs as ranks in one; the shares are nearly kept then.
    """
    ends = np.cumsum([share for _, share in order.stages])
    parts = min(int(ends[-1]), max(len(order.stages), math.isqrt(num_ranks)), num_ranks)
    ends = (2 * ends * parts + ends[-1]) // (2 * ends[-1])
    runs, rest = divmod(num_ranks, parts)
    stages = []
    begin = 0
    for (kind, _), end in zip(order.stages, ends.tolist(), strict=True):
        share = end - begin
        edges = _edges(runs, 1 if kind == "shuffled" else order.buckets)
        count = np.diff(edges)
        whole = Buckets(
            begin + edges[:-1] * parts,
            count * share,
            np.maximum(count, 1),
            np.full_like(count, parts),
        )
        # The last run is not whole: it has the highest ranks of the stages that it reaches.
        last = np.array([min(begin, rest), min(end, rest)], np.int64) + runs * parts
        found = _joined([whole, _slices(last)])
        if kind == "descending":
            found = _taken(found, np.arange(len(found.first))[::-1])
        stages.append(found)
        begin = end
    return _joined(stages)


def _interleaved(num_ranks: int, num_bands: int, num_buckets: int) -> Buckets:
    """Bucket k has the k-th piece of each band; what does not fill a band comes last."""
    in_band = num_ranks // num_bands
    edges = _edges(in_band, num_buckets)
    count = np.diff(edges) * num_bands
    whole = Buckets(edges[:-1], count, np.full_like(count, num_bands), np.full_like(count, in_band))
    return _joined([whole, _slices(np.array([in_band * num_bands, num_ranks], np.int64))])


def _taken(buckets: Buckets, numbers: Int64Array) -> Buckets:
    return Buckets(*(column[numbers] for column in buckets))


def _joined(parts: list[Buckets]) -> Buckets:
    return Buckets(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
