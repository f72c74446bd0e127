"""A blend: a dataset of several parts, drawn in given proportions.

A dataset says that it is one by `part_sizes` and `part_weights`; its sample numbers run through the
parts one after the other. The weights are those of the configuration's mix, or the dataset's own all the time. Clusters are split where a part ends, and a batch takes from each part what
brings all that was ever drawn nearest to the weights; within a part every admitted sample is equally
likely, as without a blend. What was drawn of each part is the sum of its clusters' positions, so there
is no state of its own.

A worked example: weights 0.75 and 0.25 give the parts 0 0 1 0, and again 0 0 1 0.
"""

import math
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from data_efficiency.config import Mix, normalised
from data_efficiency.json_section import ConfigError
from data_efficiency.sampling.clusters import Clusters
from data_efficiency.sampling.draw import Arrange, ClusterChoice, shuffled_passes
from data_efficiency.sampling.mix_course import MixCourse

Int64Array = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Blend:
    """How large the parts are, and in which proportions they are drawn."""

    sizes: tuple[int, ...]
    mix: Mix
    """The weights, by samples drawn."""
    title: str = "the blend"
    """In an error."""

    @cached_property
    def course(self) -> MixCourse:
        """How much of each part the weights come to."""
        return MixCourse(self.mix)

    @property
    def ends(self) -> Int64Array:
        """int64 [parts]: the number after each part's last sample."""
        return np.cumsum(self.sizes)

    def identity(self) -> list[float] | dict[str, Any]:
        """What a run and its continuation must agree on: the weights, or the mix where they change."""
        is_constant = len(self.mix.points) == 1
        return list(self.mix.weights[0]) if is_constant else self.mix.section()

    def targets(self, num_drawn: float) -> NDArray[np.float64]:
        """float64 [parts]: how many samples of each part there are among the first `num_drawn`."""
        return self.course.targets(num_drawn)

    def parts_of(self, _step: int, drawn: Int64Array, num_rows: int) -> Int64Array:
        """The part that each row of a step is drawn from, as `next_parts`."""
        return next_parts(self.course, drawn, num_rows)

    def chooser(self, _step: int) -> ClusterChoice:
        """What chooses the part of each row, where every part is a cluster."""
        return self._choose_parts

    @property
    def drawn_parts(self) -> set[int]:
        """All of them."""
        return set(range(len(self.sizes)))

    def _choose_parts(
        self,
        _generator: np.random.Generator,
        _starts: Int64Array,
        positions: Int64Array,
        num_rows: int,
    ) -> Int64Array:
        return next_parts(self.course, positions, num_rows)


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


def blend_of(dataset: Any, mix: Mix | None = None) -> Blend | None:
    """How a dataset is blended; None where it is not.

    Args:
        mix: of the configuration, its points in samples; None: the dataset's weights, all the time.

    Raises:
        ValueError: if weights are not positive, or sizes are not those of the dataset.
        ConfigError: if the mix is of other parts, or does not begin with the dataset's weights.
    """
    weights = getattr(dataset, "part_weights", None)
    if weights is None and mix is not None:
        raise ConfigError(
            f"data_sampling.mix weighs the parts of a blend, but the dataset ({type(dataset).__name__}) has no "
            "part_sizes and part_weights: give a blend, or remove it"
        )
    if weights is None:
        return None
    sizes = tuple(dataset.part_sizes)
    if (
        len(sizes) != len(weights)
        or sum(sizes) != len(dataset)
        or not all(0 < weight < math.inf for weight in weights)
    ):
        raise ValueError(
            f"part_sizes is {sizes} and part_weights {tuple(weights)} for {len(dataset)} samples: "
            "each part needs a weight above 0, and the sizes must add up"
        )
    shares = normalised(weights)
    if mix is not None:
        _refuse_other_weights(shares, mix)
    return Blend(sizes=sizes, mix=mix or Mix(weights=(shares,), points=(0.0,)))


def _refuse_other_weights(shares: tuple[float, ...], mix: Mix) -> None:
    first = mix.weights[0]
    if len(first) != len(shares) or not np.allclose(first, shares):
        raise ConfigError(
            f"data_sampling.mix begins with the weights {list(first)}, but those of the dataset's {len(shares)} "
            f"parts are {list(shares)}: begin the mix with these, or give the dataset (--data-path) the others"
        )


def next_parts(course: MixCourse, drawn: Int64Array, num_rows: int) -> Int64Array:
    """The part that each row is drawn from, so that the totals stay at what the weights come to.

    The k-th draw of a part, counted from 1, is due when the part's target reaches k - 1/2; rows take what is
    due first. So after n draws a part of constant weight w in m parts has n * w samples, up to
    (1 + w * m) / 2.

    Args:
        drawn: int64 [parts], samples taken from each part before.

    Returns:
        int64 [num_rows].

    Example:
        >>> course = MixCourse(Mix(weights=((0.75, 0.25),), points=(0.0,)))
        >>> next_parts(course, np.array([0, 0]), 8).tolist()
        [0, 0, 1, 0, 0, 0, 1, 0]

    Source: the divisor method of Sainte-Laguë.
    """
    # By then the targets hold as many draws as there are rows, and one half for each part.
    horizon = int(drawn.sum()) + num_rows + len(drawn)
    counts = np.maximum(np.floor(course.targets(horizon) + 0.5).astype(np.int64) - drawn, 0)
    parts = np.repeat(np.arange(len(drawn)), counts)
    due = [
        course.reached_at(part, before + np.arange(1, count + 1) - 0.5)
        for part, (before, count) in enumerate(zip(drawn.tolist(), counts.tolist(), strict=True))
    ]
    return parts[np.argsort(np.concatenate(due), kind="stable")[:num_rows]]


class BlendedClusters:
    """Clusters that hold samples of one part each.

    Takes memory for the order of the admitted samples, but for the one cluster of a run without
    selecting metrics. A pool that was not looked at yet is split when it is, one cluster at a time.
    """

    def __init__(self, clusters: Clusters, blend: Parts, *, is_in_order: bool) -> None:
        self._clusters, self._blend = clusters, blend
        self._num_split = 0
        """Clusters of the whole dataset that are split."""
        self._order: NDArray[Any] | None = None
        if not is_in_order:
            total = sum(blend.sizes)
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
        missing = self._blend.drawn_parts - set(drawn_from.tolist())
        if missing:
            raise ValueError(
                f"no sample of part {min(missing)} of {self._blend.title} is admitted at step {step}, so it "
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
        """What chooses the clusters of a step's rows: parts by weight, clusters within them by size."""
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
        num_parts = len(self._blend.sizes)
        drawn = np.bincount(parts, positions, num_parts).astype(np.int64)
        chosen = self._blend.parts_of(step, drawn, num_rows)
        by_part = np.argsort(parts, kind="stable")
        ends = np.cumsum(sizes[by_part])
        pools = np.bincount(parts, sizes, num_parts).astype(np.int64)
        places = (np.cumsum(pools) - pools)[chosen] + generator.integers(0, pools[chosen])
        return by_part[np.searchsorted(ends, places, side="right")]

    def _split(self, first: int, last: int) -> None:
        """Adds the clusters of the parts that a cluster of the whole dataset holds samples of."""
        ends = self._blend.ends
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
