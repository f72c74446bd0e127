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


class Draw(NamedTuple):
    """What a step takes from the pool."""

    places: Int64Array
    """int64 [rows]: places of the clusters' order."""
    visits: Int64Array
    """int64 [rows]: how often the place's cluster was passed through before."""
    positions: Int64Array
    """int64 [clusters]: samples drawn from each cluster, this step's included."""


ClusterChoice = Callable[[np.random.Generator, Int64Array, Int64Array, int], Int64Array]


def choose_by_size(
    generator: np.random.Generator, starts: Int64Array, positions: Int64Array, num_rows: int
) -> Int64Array:
    """The cluster that each row is drawn from, int64 [num_rows]: each sample is equally likely."""
    return np.searchsorted(starts, generator.integers(0, starts[-1], num_rows), "right") - 1


def draw_places(
    seed: int,
    step: int,
    starts: Int64Array,
    positions: Int64Array,
    num_rows: int,
    choose: ClusterChoice = choose_by_size,
) -> Draw:
    """The places that a step draws.

    Args:
        starts: int64 [clusters + 1], `Clusters.boundaries` of the step.
        positions: int64 [at most clusters], samples drawn from each before; 0 for the others.
    """
    sizes = np.diff(starts)  # [clusters]
    drawn_before = np.zeros(len(sizes), np.int64)
    drawn_before[: len(positions)] = positions
    generator = np.random.default_rng([seed, _DRAW, step])
    cluster = choose(generator, starts, drawn_before, num_rows)  # [rows], as all that follows
    drawn = drawn_before[cluster] + _occurrence_numbers(cluster)
    visits, place_in_pass = np.divmod(drawn, sizes[cluster])
    keys = hash_numbers(seed, cluster, visits)
    return Draw(
        places=starts[cluster] + permute(place_in_pass, sizes[cluster], keys),
        visits=visits,
        positions=drawn_before + np.bincount(cluster, minlength=len(sizes)),
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
