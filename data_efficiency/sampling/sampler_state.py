"""What a sampler gives, and what it stands on: plain data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Int64Array = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class GlobalBatch:
    """The samples of one step, the same on every rank."""

    step: int
    """Counted from 1."""
    samples: Int64Array
    """int64 [rows x samples of a row]: sample numbers."""
    visits: Int64Array
    """int64 [rows x samples of a row]: how often the sample's cluster was passed through before."""
    difficulties: Mapping[str, int]
    """What each metric's schedule accepts at this step; of the first that sorts, the rank that is played, in percent."""
    pool_size: int
    """Samples that could have been drawn."""
    part_epochs: tuple[float, ...] | None = None
    """How often each part of a blend, or bucket of rows, was passed through at the end of the step; None without parts."""


@dataclass(frozen=True, kw_only=True)
class SamplerState:
    """Where the sampler stands: plain integers."""

    step: int = 0
    positions: Int64Array = field(default_factory=lambda: np.zeros(0, np.int64))
    """int64 [clusters admitted so far]: samples drawn from each cluster."""


@dataclass(frozen=True, kw_only=True)
class SamplerIdentity:
    """What the positions of a sampler's state depend on: a state of another identity is of no use."""

    seed: int
    dataset: str
    """Fingerprint of the dataset."""
    metrics: Mapping[str, Mapping[str, Any]]
    """Selecting metric -> what the samples that it accepts depend on, plain JSON data."""
    part_weights: list[float] | dict[str, Any] | None
    """Of a blend's parts, or the mix that they follow; None without a blend."""
    feedback: Mapping[str, Any] | None = None
    """How samples follow what is observed; None: they do not."""

    length_buckets: Mapping[str, Any] | None = None
    """How rows of several lengths are drawn; None: they have one."""

    @property
    def index_checksums(self) -> dict[str, str]:
        """Selecting metric -> SHA-256 of its difficulty index's values."""
        return {name: pool["values"] for name, pool in self.metrics.items()}
