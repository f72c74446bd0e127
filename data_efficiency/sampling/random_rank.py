"""The control of a curriculum: the same pacing over a random order of the samples.

Every drawn sample is exchanged for the one that a keyed permutation names. So the pool has the size it has
with the metrics' own order at every step, lengths and routing are the same, but which samples are in it
early is chance. What a curriculum gains beside this control it gains by its order; what both gain, by the
pacing: by a small pool that is seen again, for example.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from data_efficiency.hashing import hash_numbers
from data_efficiency.sampling.permutation import permute

Int64Array = NDArray[np.int64]
_RANDOM_RANK = 1 << 62
"""Where `draw` has the number of a cluster."""


def random_rank(samples: Int64Array, seed: int, part_sizes: Sequence[int]) -> Int64Array:
    """The samples that take the place of the drawn ones, int64 [rows].

    Args:
        samples: int64 [rows], sample numbers.
        part_sizes: of a blend, whose parts keep their samples; else the number of samples alone.

    Example:
        >>> sorted(random_rank(np.arange(5), 1234, [3, 2]).tolist()[:3])
        [0, 1, 2]
    """
    sizes = np.asarray(part_sizes, np.int64)
    starts = np.cumsum(sizes) - sizes
    parts = np.searchsorted(starts, samples, side="right") - 1
    keys = hash_numbers(seed, _RANDOM_RANK, np.arange(len(sizes)))
    return starts[parts] + permute(samples - starts[parts], sizes[parts], keys[parts])
