"""Which bucket of rows each step draws from: a table of one pass, made of the seed, known before the first step.

A worked example: one cycle of 4 steps of bucket 0 with odds 2, and 2 steps of bucket 1 with odds 1. Their steps are due
at (0, 1, 2, 3) / 8 and (0, 1) / 2 of it, each later by a random part of the step's own time: mostly 0 0 0 1 0 1.

Source: "Dataset Decomposition", Pouransari et al. 2024, arXiv 2405.13226. Differs: batches are drawn there at random with
probabilities in proportion to share times odds; here their times are spread by these, so that shares hold at any step.
"""

import numpy as np
from numpy.typing import NDArray

from data_efficiency.config import LengthBuckets
from data_efficiency.hashing import hash_numbers
from data_efficiency.json_section import ConfigError

Int64Array = NDArray[np.int64]
_DUE = 1 << 60


def steps_of_buckets(buckets: LengthBuckets, base: int) -> Int64Array:
    """int64 [buckets]: the steps that a pass has of each bucket.

    Args:
        buckets: with their lengths.
        base: rows of a step, were they of the longest bucket.

    Raises:
        ConfigError: for shares that are not known, or fewer steps than cycles.

    Example:
        >>> buckets = LengthBuckets(lengths=(2, 4, 8), sizes=(32, 8, 4))
        >>> steps_of_buckets(buckets, 2).tolist()
        [4, 2, 2]
    """
    shares = np.array(buckets.shares_of_buckets())
    if buckets.pass_steps is not None:
        steps = _apportioned(buckets.pass_steps, shares)
    else:
        if not buckets.sizes:
            raise ConfigError(
                "data_sampling.length_buckets: how many steps a pass has is not known without the data: give pass_steps, or sizes"
            )
        per_row = [buckets.rows_in_place_of_one(number) for number in range(len(shares))]
        whole = np.array(buckets.sizes) / (base * np.array(per_row))
        steps = np.maximum(np.rint(whole).astype(np.int64), np.sign(shares).astype(np.int64))
        if buckets.token_shares != "natural":
            steps = _apportioned(int(steps.sum()), shares)
    if steps.sum() < buckets.num_cycles:
        raise ConfigError(
            f"data_sampling.length_buckets.num_cycles is {buckets.num_cycles}, but a pass has {steps.sum()} steps: take fewer "
            "cycles, or say pass_steps"
        )
    return steps


def _apportioned(total: int, shares: NDArray[np.float64]) -> Int64Array:
    """Whole numbers in proportion to the shares; those of the largest remainders are rounded up."""
    exact = total * shares
    counts = np.floor(exact).astype(np.int64)
    order = np.argsort(counts - exact, kind="stable")
    counts[order[: total - int(counts.sum())]] += 1
    return counts


def bucket_table(buckets: LengthBuckets, base: int, seed: int) -> NDArray[np.uint8]:
    """The bucket of each step of a pass, uint8 [steps]; each pass has the same.

    In each cycle the steps of a bucket are due at times spread evenly, each at a random place of its own, up to 1 / odds.

    Raises:
        ConfigError: as `steps_of_buckets`.

    Example:
        >>> buckets = LengthBuckets(lengths=(4, 8), sizes=(16, 8), odds="grow_p2", num_cycles=2)
        >>> bucket_table(buckets, 1, seed=0).tolist()
        [0, 1, 0, 0, 1, 0, 1, 1, 0, 0, 1, 0, 1, 0, 1, 1]
    """
    cycles, dues, numbers = [], [], []
    num_buckets = len(buckets.lengths)
    for number, (count, odds) in enumerate(
        zip(steps_of_buckets(buckets, base).tolist(), buckets.odds_of_buckets(), strict=True)
    ):
        # Cycle c ends with the step before or behind its part of the bucket's; some buckets early, some late, so that cycles
        # are about equally long.
        ends = np.arange(1, buckets.num_cycles + 1) * 2 * num_buckets * count
        ends += (2 * number + 1) * buckets.num_cycles
        ends //= 2 * num_buckets * buckets.num_cycles
        in_cycle = np.diff(ends, prepend=0)
        cycle = np.repeat(np.arange(buckets.num_cycles), in_cycle)
        step = np.arange(count)
        place = step - (ends - in_cycle)[cycle]
        random = hash_numbers(seed, _DUE, number, step) / 2.0**64 if count else np.zeros(0)
        cycles.append(cycle)
        dues.append((place + random) / (in_cycle[cycle] * odds))
        numbers.append(np.full(count, number, np.uint8))
    order = np.lexsort((np.concatenate(dues), np.concatenate(cycles)))
    return np.concatenate(numbers)[order]
