"""Samples of a token batch as rows of matrices, with little padding."""

from collections.abc import Iterator

import numpy as np

from data_efficiency.analysis.metrics import TokenBatch


def groups_by_length(lengths: np.ndarray, max_padded_tokens: int) -> Iterator[np.ndarray]:
    """The samples in groups of similar length, short ones first; each comes in one group.

    Args:
        lengths: tokens of each sample, int [B].
        max_padded_tokens: a group's samples times its longest length; one sample may be longer.

    Yields:
        Places in `lengths`, int64.

    Example:
        >>> [group.tolist() for group in groups_by_length(np.array([5, 1, 2, 9]), 6)]
        [[1, 2], [0], [3]]
    """
    order = np.argsort(lengths, kind="stable")
    in_order = lengths[order]
    first = 0
    while first < len(order):
        most = max(1, max_padded_tokens // max(1, int(in_order[first])))
        longest = in_order[first : first + most]
        sizes = longest * np.arange(1, len(longest) + 1)
        num = max(1, int(np.searchsorted(sizes, max_padded_tokens, side="right")))
        yield order[first : first + num]
        first += num


def padded_rows(batch: TokenBatch, places: np.ndarray) -> np.ndarray:
    """The tokens of some samples, a row each, with 0 after a sample's last: [samples, longest].

    Example:
        >>> batch = TokenBatch(np.array([7, 8, 9]), np.array([0, 1]), np.array([1, 2]))
        >>> padded_rows(batch, np.array([1, 0])).tolist()
        [[8, 9], [7, 0]]
    """
    lengths = batch.lengths[places][:, None]
    columns = np.arange(int(lengths.max(initial=0)))
    where = np.minimum(batch.starts[places][:, None] + columns, max(0, len(batch.tokens) - 1))
    if len(columns) == 0:
        return np.empty((len(places), 0), batch.tokens.dtype)
    return np.where(columns < lengths, batch.tokens[where], batch.tokens.dtype.type(0))
