"""Sorted samples as clusters: one for each part, whose passes are played bucket after bucket.

What was drawn from a part so far is its position; which bucket that lies in, and which of the bucket's samples
comes next, follows from the position alone. A bucket is passed through in a keyed pseudo-random order, and
again in another one where a pass draws more samples than there are.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from data_efficiency.config import Order
from data_efficiency.hashing import hash_numbers
from data_efficiency.sampling.buckets import Buckets, make_buckets
from data_efficiency.sampling.draw import Arrange, Arranged, ClusterChoice
from data_efficiency.sampling.permutation import permute
from data_efficiency.sampling.ranking import Ranking

Int64Array = NDArray[np.int64]
_BUCKET = 1 << 61
"""Where `draw` has the number of a cluster."""


class PlayedOrder:
    """The clusters of an order; `Clusters` says what the members mean.

    Args:
        part_sizes: of a blend; else the number of samples alone.
        pass_draws: samples that a pass draws from each part.
        chooser: step -> what chooses the part of each of its rows.
    """

    def __init__(
        self,
        ranking: Ranking,
        order: Order,
        part_sizes: Sequence[int],
        pass_draws: Sequence[int],
        chooser: Callable[[int], ClusterChoice],
    ) -> None:
        self._ranking, self._chooser = ranking, chooser
        self.parts: Int64Array = np.arange(len(part_sizes))
        self._starts = np.append(0, np.cumsum(part_sizes)).astype(np.int64)
        self._pass_draws = np.array(pass_draws, np.int64)
        groups = [None] * len(part_sizes) if ranking.groups is None else [*ranking.groups]
        parts = [make_buckets(order, *each) for each in zip(part_sizes, groups, strict=True)]
        self._buckets = Buckets(*(np.concatenate(each) for each in zip(*parts, strict=True)))
        begins = [
            _scaled(np.cumsum(part.sizes) - part.sizes, draws, size)
            for part, draws, size in zip(parts, pass_draws, part_sizes, strict=True)
        ]
        before = np.cumsum(self._pass_draws) - self._pass_draws
        self._part_begins = before
        self._begins = np.concatenate([a + b for a, b in zip(before, begins, strict=True)])
        """int64 [buckets of all parts]: draws of a pass before each bucket, those of earlier parts among them."""
        ends = np.append(self._begins[1:], before[-1] + self._pass_draws[-1])
        self._visits_in_pass = int((-(-(ends - self._begins) // self._buckets.sizes)).max())

    def boundaries(self, _step: int) -> Int64Array:
        """Where the parts start, and where the last one ends."""
        return self._starts

    def change_steps(self, _until_step: int) -> Int64Array:
        """All samples are there from the first step on."""
        return np.ones(1, np.int64)

    def num_retired(self, _step: int) -> int:
        """None ever is."""
        return 0

    def samples_at(self, places: Int64Array) -> Int64Array:
        """The sample numbers at some places of the order, int64 like `places`."""
        return self._ranking.order[places].astype(np.int64)

    def chooser(self, step: int) -> ClusterChoice:
        """What chooses the part of each row."""
        return self._chooser(step)

    def arranger(self, _step: int) -> Arrange:
        """Bucket after bucket, in every step."""
        return self._arrange

    def _arrange(
        self, seed: int, starts: Int64Array, cluster: Int64Array, drawn: Int64Array
    ) -> Arranged:
        """As `draw.shuffled_passes`."""
        passes, place = np.divmod(drawn, self._pass_draws[cluster])
        bucket = self._bucket_at(cluster, place)
        count = self._buckets.sizes[bucket]
        drawn_of_bucket = self._part_begins[cluster] + place - self._begins[bucket]
        again, in_bucket = np.divmod(drawn_of_bucket, count)
        visits = passes * self._visits_in_pass + again
        keys = hash_numbers(seed, _BUCKET, bucket, visits)
        ranks = self._buckets.ranks(bucket, permute(in_bucket, count, keys))
        return Arranged(starts[cluster] + ranks, visits)

    def percent_at(self, positions: Int64Array) -> int:
        """How far up the sorted samples the next draws are: rank in percent, the middle of their buckets.

        Args:
            positions: int64 [parts], drawn from each so far; none before the first step.
        """
        parts = np.arange(len(self._pass_draws))
        drawn = np.zeros(len(parts), np.int64)
        drawn[: len(positions)] = positions
        place = drawn % self._pass_draws
        bucket = self._bucket_at(parts, place)
        middle = self._buckets.middle_ranks(bucket)
        sizes = np.diff(self._starts)
        return round(float(np.average(100 * middle / sizes, weights=self._pass_draws)))

    def _bucket_at(self, cluster: Int64Array, place: Int64Array) -> Int64Array:
        return np.searchsorted(self._begins, self._part_begins[cluster] + place, "right") - 1


def _scaled(numbers: Int64Array, factor: int, divisor: int) -> Int64Array:
    """What numbers * factor // divisor is, for numbers up to the divisor, without larger products."""
    whole, rest = divmod(factor, divisor)
    return numbers * whole + numbers * rest // divisor
