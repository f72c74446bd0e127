"""Masked tokens for BERT's first task: which are to be guessed, and what stands in their place."""

import numpy as np
from numpy.typing import NDArray

from data_efficiency import IGNORED_LABEL, hashing

Int64Array = NDArray[np.int64]

_ORDER, _FATE, _REPLACEMENT = range(3)


def mask_tokens(
    tokens: Int64Array,
    may_be_masked: NDArray[np.bool_],
    keys: hashing.UInt64Array,
    *,
    mask_prob: float,
    mask_token: int,
    vocab_size: int,
    continuations: NDArray[np.bool_] | None = None,
) -> tuple[Int64Array, Int64Array]:
    """Tokens with some of them hidden, and the labels: the original there, -100 elsewhere.

    In each row `mask_prob` of the tokens that may be masked are chosen (rounded, at least one). Of
    them 8 in 10 become the mask token, 1 in 10 any token of the vocabulary, 1 in 10 stays.

    Args:
        tokens: int64 [batch, length].
        may_be_masked: bool [batch, length].
        keys: uint64 [batch], of which all choices in the row are a function.
        continuations: bool [vocab_size], for each token whether it continues a word. If given, words
            are masked whole, and a word for which no room is left ends the choice.

    Returns:
        tokens and labels, int64 [batch, length] each.

    Source: BERT (Devlin et al. 2019), section 3.1; whole words as in its later release. Differs: no
    runs of several words.
    """
    num_allowed = may_be_masked.sum(1)
    num_chosen = np.rint(num_allowed * mask_prob).astype(np.int64)
    if mask_prob > 0:
        num_chosen = np.maximum(num_chosen, np.minimum(num_allowed, 1))
    unit = np.arange(tokens.shape[1])
    if continuations is not None:
        unit = np.cumsum(~continuations[tokens], axis=1)
    # Tokens are chosen in the order of their hashes; those of a word share one.
    order = hashing.hash_numbers(keys[:, None], _ORDER, unit)
    last = np.iinfo(np.uint64).max
    order = np.where(may_be_masked, order, last)
    in_order = np.pad(np.sort(order, axis=1), ((0, 0), (0, 1)), constant_values=last)
    limit = np.take_along_axis(in_order, num_chosen[:, None], 1)
    rows, columns = np.nonzero(order < limit)
    original = tokens[rows, columns]
    labels = np.full_like(tokens, IGNORED_LABEL)
    labels[rows, columns] = original
    fate = hashing.below(hashing.hash_numbers(keys[rows], _FATE, columns), 10)
    other = hashing.below(hashing.hash_numbers(keys[rows], _REPLACEMENT, columns), vocab_size)
    hidden = tokens.copy()
    hidden[rows, columns] = np.where(fate < 8, mask_token, np.where(fate == 8, other, original))
    return hidden, labels
