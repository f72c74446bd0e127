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
_MIX_STEPS = (
    (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)),
    (np.uint64(27), np.uint64(0x94D049BB133111EB)),
)
_LAST_SHIFT, _HALF_BITS = np.uint64(31), np.uint64(32)
_ROUND_KEYS = np.arange(1, NUM_ROUNDS + 1, dtype=np.uint64) * _GOLDEN

UInt64Array = NDArray[np.uint64]
Int64Array = NDArray[np.int64]


def mix(value: UInt64Array) -> UInt64Array:
    """splitmix64's finalizer of each element: every input bit changes about half the output bits."""
    mixed = value.copy()
    _mix_in_place(mixed, np.empty_like(mixed))
    return mixed


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

    The last two arguments are only room to work in: for a few hundred numbers, making arrays costs as
    much as computing with them.
    """
    np.bitwise_xor(keys, other, out=hashed)
    _mix_in_place(hashed, shifted)
    # The upper half of the hash is scaled into 0..limit-1 without a division.
    hashed >>= _HALF_BITS
    hashed *= limit
    hashed >>= _HALF_BITS
    half += hashed
    # Below the limit the difference wraps around and is the larger of the two.
    np.subtract(half, limit, out=shifted)
    np.minimum(half, shifted, out=half)


def _mix_in_place(value: UInt64Array, shifted: UInt64Array) -> None:
    """splitmix64's finalizer; `shifted` is room to work in."""
    for shift, factor in _MIX_STEPS:
        np.right_shift(value, shift, out=shifted)
        value ^= shifted
        value *= factor
    np.right_shift(value, _LAST_SHIFT, out=shifted)
    value ^= shifted
