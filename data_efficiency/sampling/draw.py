"""One step's draw: which places of the clusters' order it takes, as a pure function.

A batch draws places uniformly from the pool, so clusters take part in proportion to their size; which
of the cluster's samples a draw becomes is told by the cluster's position and a keyed permutation, so
that no sample comes twice within one pass of its cluster. A cluster smaller than its share of a batch
is passed through more than once.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_efficiency.hashing import hash_numbers
from data_efficiency.sampling.permutation import permute

Int64Array = NDArray[np.int64]
_DRAW = 1


class Arranged(NamedTuple):
    """Which samples some draws become."""

    places: Int64Array
    """int64 [rows]: places of the clusters' order."""
    visits: Int64Array
    """int64 [rows]: how often the place was drawn before, or its cluster passed through."""


class Draw(NamedTuple):
    """What a step takes from the pool."""

    places: Int64Array
    """int64 [rows]: places of the clusters' order."""
    visits: Int64Array
    """int64 [rows]: how often the place's cluster was passed through before."""
    positions: Int64Array
    """int64 [clusters]: samples drawn from each cluster, this step's included."""


ClusterChoice = Callable[[np.random.Generator, Int64Array, Int64Array, int], Int64Array]


Arrange = Callable[[int, Int64Array, Int64Array, Int64Array], Arranged]


def choose_by_size(
    generator: np.random.Generator,
    starts: Int64Array,
    positions: Int64Array,
    num_rows: int,
    *,
    num_retired: int = 0,
) -> Int64Array:
    """The cluster that each row is drawn from, int64 [num_rows]: each sample is equally likely.

    Args:
        num_retired: clusters, from the first on, that nothing is drawn from any more.
    """
    places = generator.integers(starts[num_retired], starts[-1], num_rows)
    return np.searchsorted(starts, places, "right") - 1


def shuffled_passes(
    seed: int, starts: Int64Array, cluster: Int64Array, drawn: Int64Array
) -> Arranged:
    """The places of some draws in passes through each cluster, each pass in another random order.

    Args:
        cluster: int64 [rows].
        drawn: int64 [rows], what was drawn from the row's cluster before.
    """
    sizes = np.diff(starts)
    visits, place_in_pass = np.divmod(drawn, sizes[cluster])
    keys = hash_numbers(seed, cluster, visits)
    return Arranged(starts[cluster] + permute(place_in_pass, sizes[cluster], keys), visits)


def draw_places(
    seed: int,
    step: int,
    starts: Int64Array,
    positions: Int64Array,
    num_rows: int,
    choose: ClusterChoice = choose_by_size,
    arrange: Arrange = shuffled_passes,
) -> Draw:
    """The places that a step draws.

    Args:
        starts: int64 [clusters + 1], `Clusters.boundaries` of the step.
        positions: int64 [at most clusters], samples drawn from each before; 0 for the others.
    """
    num_clusters = len(starts) - 1
    drawn_before = np.zeros(num_clusters, np.int64)
    drawn_before[: len(positions)] = positions
    generator = np.random.default_rng([seed, _DRAW, step])
    cluster = choose(generator, starts, drawn_before, num_rows)  # [rows], as all that follows
    drawn = drawn_before[cluster] + _occurrence_numbers(cluster)
    arranged = arrange(seed, starts, cluster, drawn)
    return Draw(
        places=arranged.places,
        visits=arranged.visits,
        positions=drawn_before + np.bincount(cluster, minlength=num_clusters),
    )


def _occurrence_numbers(values: Int64Array) -> Int64Array:
    """How often each element's value stands before it.

    Example:
        >>> _occurrence_numbers(np.array([3, 1, 3, 3, 1])).tolist()
        [0, 0, 1, 2, 1]
    """
    order = np.argsort(values, kind="stable")
    in_order = values[order]
    group_starts = np.flatnonzero(np.append(True, in_order[1:] != in_order[:-1]))
    lengths = np.diff(np.append(group_starts, len(values)))
    numbers = np.empty(len(values), np.int64)
    numbers[order] = np.arange(len(values)) - np.repeat(group_starts, lengths)
    return numbers
