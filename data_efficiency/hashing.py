"""Random numbers that are functions of where they are used: of a seed, a purpose and counters.

No generator, no state: the number is the same whoever asks for it, and when.

Source: splitmix64's finalizer (Steele et al. 2014), chained over the parts.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

UInt64Array = NDArray[np.uint64]
Int64Array = NDArray[np.int64]

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_STEPS = (
    (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)),
    (np.uint64(27), np.uint64(0x94D049BB133111EB)),
)
_LAST_SHIFT, _HALF_BITS = np.uint64(31), np.uint64(32)


def mix_in_place(value: UInt64Array, shifted: UInt64Array) -> None:
    """Apply splitmix64's finalizer: every input bit changes about half the output bits.

    Args:
        value: uint64, any shape.
        shifted: of the same shape, only room to work in: for a few hundred numbers, making arrays costs
            as much as computing with them.
    """
    for shift, factor in _MIX_STEPS:
        np.right_shift(value, shift, out=shifted)
        value ^= shifted
        value *= factor
    np.right_shift(value, _LAST_SHIFT, out=shifted)
    value ^= shifted


def hash_numbers(*parts: ArrayLike) -> UInt64Array:
    """64 random bits for each element of the broadcast parts, uint64, at least one-dimensional.

    Args:
        parts: integers; put those with few elements first, they are hashed before they broadcast.

    Example:
        >>> hash_numbers(1234, [0, 1]).tolist()
        [11391823781456656621, 4804070155190381543]
    """
    # One-dimensional, since numpy warns of the wanted overflow of single numbers.
    value = np.zeros(1, np.uint64)
    for part in parts:
        value = value ^ np.asarray(part).astype(np.uint64)
        value += GOLDEN
        mix_in_place(value, np.empty_like(value))
    return value


def below(hashes: UInt64Array, limits: ArrayLike) -> Int64Array:
    """An integer from 0 to limit - 1 for each hash, int64; limits are at most 2**32.

    Example:
        >>> below(np.array([0, 2**63, 2**64 - 1], np.uint64), 10).tolist()
        [0, 5, 9]
    """
    scaled = (hashes >> _HALF_BITS) * np.asarray(limits).astype(np.uint64)
    return (scaled >> _HALF_BITS).astype(np.int64)


def happens(hashes: UInt64Array, probability: float) -> NDArray[np.bool_]:
    """Whether something of this probability happens, for each hash."""
    return (hashes >> _HALF_BITS) < np.uint64(round(probability * 2**32))
