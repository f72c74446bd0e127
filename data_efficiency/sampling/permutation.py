"""Keyed pseudo-random permutations of 0..n-1, computed element by element.

A generalized Feistel network over Z_a x Z_b with a * b just above n: each round adds a keyed hash of
one half to the other, which can be undone, so the whole is a permutation of a * b numbers; results
outside 0..n-1 are fed in again until they fall inside (cycle walking), which keeps it a permutation.
Nothing is shuffled in memory: any element of any permutation costs the same handful of operations.

Source: J. Black and P. Rogaway, "Ciphers with Arbitrary Finite Domains" (2002), method 3 and cycle
walking; the hash is splitmix64's finalizer (Steele et al. 2014).
"""

import numpy as np
from numpy.typing import NDArray

NUM_ROUNDS = 16
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ROUND_KEYS = np.arange(1, NUM_ROUNDS + 1, dtype=np.uint64) * _GOLDEN

UInt64Array = NDArray[np.uint64]
Int64Array = NDArray[np.int64]


def mix(value: UInt64Array) -> UInt64Array:
    """splitmix64's finalizer of each element: every input bit changes about half the output bits."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def make_keys(*parts: int | Int64Array) -> UInt64Array:
    """One key for each element of the broadcast parts (seed, cluster, pass, ...).

    Returns:
        uint64, in the parts' broadcast shape, at least one-dimensional.
    """
    arrays = np.broadcast_arrays(*(np.atleast_1d(np.asarray(part, np.int64)) for part in parts))
    key = np.zeros(arrays[0].shape, np.uint64)
    for array in arrays:
        key = mix((key ^ array.astype(np.uint64)) + _GOLDEN)
    return key


def permute(positions: Int64Array, sizes: Int64Array, keys: UInt64Array) -> Int64Array:
    """The place of each position in the permutation of 0..size-1 that its key names.

    Args:
        positions: int64 [n], 0 <= position < size.
        sizes: int64 [n], at most 2**62; elements of different permutations may be mixed.
        keys: uint64 [n].

    Returns:
        int64 [n]; for one key and size, all positions together give each of 0..size-1 once.
    """
    width = np.sqrt(sizes.astype(np.float64)).astype(np.uint64) + np.uint64(1)
    unsigned_sizes = sizes.astype(np.uint64)
    height = (unsigned_sizes + width - np.uint64(1)) // width
    result = _feistel(positions.astype(np.uint64), width, height, keys)
    outside = np.flatnonzero(result >= unsigned_sizes)
    while outside.size:
        result[outside] = _feistel(result[outside], width[outside], height[outside], keys[outside])
        outside = outside[result[outside] >= unsigned_sizes[outside]]
    return result.astype(np.int64)


def _feistel(
    value: UInt64Array, width: UInt64Array, height: UInt64Array, keys: UInt64Array
) -> UInt64Array:
    """One pass of the network over numbers below width * height."""
    right, left = value // width, value % width
    for number, round_key in enumerate(_ROUND_KEYS):
        round_keys = keys + round_key
        if number % 2:
            right = _add_below(right, mix(round_keys ^ left), height)
        else:
            left = _add_below(left, mix(round_keys ^ right), width)
    return left + right * width


def _add_below(half: UInt64Array, hashed: UInt64Array, limit: UInt64Array) -> UInt64Array:
    """(half + hash) mod limit; the hash is scaled into 0..limit-1 without a division."""
    total = half + (((hashed >> np.uint64(32)) * limit) >> np.uint64(32))
    return np.where(total >= limit, total - limit, total)
