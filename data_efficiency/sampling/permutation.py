"""Keyed pseudo-random permutations of 0..n-1, computed element by element.

A generalized Feistel network over Z_a x Z_b with a * b just above n: each round adds a keyed hash of
one half to the other, which can be undone, so the whole is a permutation of a * b numbers; results
outside 0..n-1 are fed in again until they fall inside (cycle walking), which keeps it a permutation.
Nothing is shuffled in memory: any element of any permutation costs the same handful of operations.

Source: J. Black and P. Rogaway, "Ciphers with Arbitrary Finite Domains" (2002), method 3 and cycle
walking.
"""

import numpy as np

from data_efficiency.hashing import GOLDEN, Int64Array, UInt64Array, mix_in_place

NUM_ROUNDS = 16
_HALF_BITS = np.uint64(32)
_ROUND_KEYS = np.arange(1, NUM_ROUNDS + 1, dtype=np.uint64) * GOLDEN


def permute(positions: Int64Array, sizes: Int64Array, keys: UInt64Array) -> Int64Array:
    """The place of each position in the permutation of 0..size-1 that its key names.

    Args:
        positions: int64 [n], 0 <= position < size.
        sizes: int64 [n], at most 2**62; elements of different permutations may be mixed.

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
    round_keys = keys + _ROUND_KEYS[:, np.newaxis]
    hashed, shifted = np.empty_like(left), np.empty_like(left)
    for number in range(0, NUM_ROUNDS, 2):
        _add_hash(left, right, round_keys[number], width, hashed, shifted)
        _add_hash(right, left, round_keys[number + 1], height, hashed, shifted)
    return left + right * width


def _add_hash(
    half: UInt64Array,
    other: UInt64Array,
    keys: UInt64Array,
    limit: UInt64Array,
    hashed: UInt64Array,
    shifted: UInt64Array,
) -> None:
    """Adds a keyed hash of the other half to one half, modulo `limit`, in place.

    The last two arguments are only room to work in.
    """
    np.bitwise_xor(keys, other, out=hashed)
    mix_in_place(hashed, shifted)
    # The upper half of the hash is scaled into 0..limit-1 without a division.
    hashed >>= _HALF_BITS
    hashed *= limit
    hashed >>= _HALF_BITS
    half += hashed
    # Below the limit the difference wraps around and is the larger of the two.
    np.subtract(half, limit, out=shifted)
    np.minimum(half, shifted, out=half)
