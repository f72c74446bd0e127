"""Parts of a dataset that rows are drawn from in turn: of a blend, or buckets of rows of one length.

Its samples are numbered part by part. Who says which part each row of a step is drawn from is a `Parts`; clusters of
the whole dataset are split so that each holds samples of one part.
"""

from functools import partial
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from data_efficiency.sampling.clusters import Clusters
from data_efficiency.sampling.draw import Arrange, ClusterChoice, shuffled_passes

Int64Array = NDArray[np.int64]


class Parts(Protocol):
    """Parts of a dataset: of a blend, or buckets of rows."""

    @property
    def title(self) -> str:
        """What they are parts of, in an error."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Samples of each."""

    @property
    def ends(self) -> Int64Array:
        """int64 [parts]: the number after each part's last sample."""

    @property
    def drawn_parts(self) -> set[int]:
        """Those that are drawn from."""

    def targets(self, num_drawn: float, /) -> NDArray[Any]:
        """[parts]: how many samples of each there are among the first `num_drawn`."""

    def parts_of(self, step: int, drawn: Int64Array, num_rows: int, /) -> Int64Array:
        """The part that each row of a step is drawn from, int64 [num_rows].

        Args:
            drawn: int64 [parts], samples taken from each part before.
        """

    def chooser(self, step: int, /) -> ClusterChoice:
        """What chooses the part of each row, where every part is a cluster."""


class PartedClusters:
    """Clusters that hold samples of one part each.

    Takes memory for the order of the admitted samples, but for the one cluster of a run without
    selecting metrics. A pool that was not looked at yet is split when it is, one cluster at a time.
    """

    def __init__(self, clusters: Clusters, whole: Parts, *, is_in_order: bool) -> None:
        self._clusters, self._whole = clusters, whole
        self._num_split = 0
        """Clusters of the whole dataset that are split."""
        self._order: NDArray[Any] | None = None
        if not is_in_order:
            total = sum(whole.sizes)
            self._order = np.empty(total, np.min_scalar_type(total - 1))
        self._starts = np.zeros(1, np.int64)
        self._num_after: list[int] = [0]
        """Clusters of the parts after each cluster of the whole dataset."""
        self.parts: Int64Array = np.zeros(0, np.int64)
        """int64 [clusters]: the part of each."""

    def boundaries(self, step: int) -> Int64Array:
        """As `Clusters.boundaries`.

        Raises:
            ValueError: if a part has no admitted sample.
        """
        starts = self._clusters.boundaries(step)
        for first, last in pairwise(starts[self._num_split :].tolist()):
            self._split(first, last)
        count = self._num_after[len(starts) - 1]
        drawn_from = self.parts[self.num_retired(step) : count]
        missing = self._whole.drawn_parts - set(drawn_from.tolist())
        if missing:
            raise ValueError(
                f"no sample of part {min(missing)} of {self._whole.title} is admitted at step {step}, so it "
                "cannot be drawn by its weight: start the curriculum at a higher difficulty"
            )
        return self._starts[: count + 1]

    def change_steps(self, until_step: int) -> Int64Array:
        """As `Clusters.change_steps`."""
        return self._clusters.change_steps(until_step)

    def num_retired(self, step: int) -> int:
        """As `Clusters.num_retired`."""
        return self._num_after[self._clusters.num_retired(step)]

    def samples_at(self, places: Int64Array) -> Int64Array:
        """The sample numbers at some places of the order, int64 like `places`."""
        return places if self._order is None else self._order[places].astype(np.int64)

    def chooser(self, step: int) -> ClusterChoice:
        """What chooses the clusters of a step's rows: parts as the whole says, clusters within them by size."""
        return partial(self._choose, step)

    def arranger(self, _step: int) -> Arrange:
        """Passes through each cluster, each in another random order."""
        return shuffled_passes

    def _choose(
        self,
        step: int,
        generator: np.random.Generator,
        starts: Int64Array,
        positions: Int64Array,
        num_rows: int,
    ) -> Int64Array:
        sizes, parts = np.diff(starts), self.parts[: len(starts) - 1]
        sizes[: self.num_retired(step)] = 0
        num_parts = len(self._whole.sizes)
        drawn = np.bincount(parts, positions, num_parts).astype(np.int64)
        chosen = self._whole.parts_of(step, drawn, num_rows)
        by_part = np.argsort(parts, kind="stable")
        ends = np.cumsum(sizes[by_part])
        pools = np.bincount(parts, sizes, num_parts).astype(np.int64)
        places = (np.cumsum(pools) - pools)[chosen] + generator.integers(0, pools[chosen])
        return by_part[np.searchsorted(ends, places, side="right")]

    def _split(self, first: int, last: int) -> None:
        """Adds the clusters of the parts that a cluster of the whole dataset holds samples of."""
        ends = self._whole.ends
        if self._order is None:
            # Samples in their own order: a part's lie together, and nothing need be looked at.
            edges = np.clip(np.append(0, ends), first, last)
            counts = np.diff(edges)
            present = np.flatnonzero(counts)
            counts = counts[present]
        else:
            samples = self._clusters.samples_at(np.arange(first, last))
            parts = np.searchsorted(ends, samples, side="right")
            self._order[first:last] = samples[np.argsort(parts, kind="stable")]
            present, counts = np.unique(parts, return_counts=True)
        self.parts = np.append(self.parts, present)
        self._starts = np.append(self._starts, first + np.cumsum(counts))
        self._num_split += 1
        self._num_after.append(len(self.parts))
