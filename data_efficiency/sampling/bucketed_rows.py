"""Rows of several lengths: buckets as parts of a dataset, of which each step draws from one.

A dataset says that it has them by `part_sizes` and `part_lengths`; its sample numbers run through the buckets one after
the other. Which rows of a bucket come is told by its position, as for a part of a blend.
"""

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_efficiency.config import DataEfficiencyConfig, LengthBuckets
from data_efficiency.json_section import ConfigError
from data_efficiency.sampling.draw import ClusterChoice
from data_efficiency.sampling.step_sizes import StepSizes

Int64Array = NDArray[np.int64]


def with_buckets_of(config: DataEfficiencyConfig, dataset: Any) -> DataEfficiencyConfig:
    """The configuration with the buckets of a dataset's rows, where it has some.

    Raises:
        ConfigError: if one of the two has buckets and the other does not, or they do not agree.
    """
    buckets, lengths = config.length_buckets, getattr(dataset, "part_lengths", None)
    if buckets is None and lengths is None:
        return config
    name = type(dataset).__name__
    if lengths is None:
        raise ConfigError(
            f"data_sampling.length_buckets draws one length of rows a step, but the dataset ({name}) does not say what its "
            "lengths are: give one with part_sizes and part_lengths (pretrain_gpt.py: --shortest-piece), or remove the section"
        )
    if buckets is None:
        raise ConfigError(
            f"the rows of the dataset ({name}) have {len(lengths)} lengths, which no batch may mix: add the section "
            "data_sampling.length_buckets ({} is enough)"
        )
    sizes = tuple(int(size) for size in dataset.part_sizes)
    if sum(sizes) != len(dataset):
        raise ConfigError(
            f"part_sizes of the dataset ({name}) is {list(sizes)}, and it has {len(dataset)} samples: they must add up"
        )
    return config.with_buckets(tuple(int(one) for one in lengths), sizes)


@dataclass(frozen=True, kw_only=True)
class BucketedRows:
    """The buckets that steps draw from; in the place of a `Blend`."""

    buckets: LengthBuckets
    """With lengths and sizes."""
    step_sizes: StepSizes
    title: str = "the length buckets"
    """In an error."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Rows of each bucket."""
        return self.buckets.sizes

    @property
    def ends(self) -> Int64Array:
        """int64 [buckets]: the number after each bucket's last sample."""
        return np.cumsum(self.sizes)

    @property
    def drawn_parts(self) -> set[int]:
        """The buckets that have a share."""
        shares = self.buckets.shares_of_buckets()
        return {number for number, share in enumerate(shares) if share}

    def bucket_at(self, step: int) -> int:
        """The bucket of a step, counted from 1."""
        return self._per_row.index(self.step_sizes.per_row(step))

    def targets(self, num_drawn: float) -> Int64Array:
        """int64 [buckets]: how many samples of each the steps draw that `num_drawn` are enough for."""
        step = self.step_sizes.steps_in(int(num_drawn)) + 1
        return np.array(
            [self.step_sizes.samples_before(step, per_row=one) for one in self._per_row]
        )

    def parts_of(self, step: int, _drawn: Int64Array, num_rows: int) -> Int64Array:
        """The bucket that each row of a step is drawn from."""
        return np.full(num_rows, self.bucket_at(step), np.int64)

    def chooser(self, step: int) -> ClusterChoice:
        """What chooses the part of each row, where every part is a cluster."""
        return partial(_all_of_one, self.bucket_at(step))

    @cached_property
    def _per_row(self) -> list[int]:
        return [self.buckets.rows_in_place_of_one(one) for one in range(len(self.buckets.lengths))]


def _all_of_one(
    bucket: int,
    _generator: np.random.Generator,
    _starts: Int64Array,
    _positions: Int64Array,
    num_rows: int,
) -> Int64Array:
    return np.full(num_rows, bucket, np.int64)
