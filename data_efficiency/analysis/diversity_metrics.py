"""Two cheap difficulty metrics: how little a sample repeats itself, in bytes and in tokens.

Both take token numbers in place of words, so they need no text and no tokenizer.
"""

import zlib

import numpy as np

from data_efficiency.analysis.metrics import Metric, TokenBatch
from data_efficiency.analysis.padding import groups_by_length, padded_rows

COMPRESSION_LEVEL = 6
# A factor ends where types / tokens falls to 0.72; as a fraction the comparison is exact.
THRESHOLD_NUMERATOR, THRESHOLD_DENOMINATOR = 18, 25
MAX_PADDED_TOKENS = 2**20


def compressed_shares(batch: TokenBatch) -> np.ndarray:
    """Compressed bytes for each byte of a sample's tokens, float64 [B]; 0 for an empty sample.

    Tokens are written little-endian in 2 bytes each where their dtype has no more, else in 4.
    """
    stored = "<u2" if batch.tokens.dtype.itemsize <= 2 else "<u4"
    content = np.ascontiguousarray(batch.tokens, dtype=stored).view(np.uint8)
    width = np.dtype(stored).itemsize
    edges = np.stack([batch.starts, batch.starts + batch.lengths]) * width
    sizes = [
        len(zlib.compress(content[first:last].data, COMPRESSION_LEVEL)) if last > first else 0
        for first, last in edges.T.tolist()
    ]
    return np.array(sizes, dtype=np.float64) / np.maximum(batch.lengths * width, 1)


def compression_ratio() -> Metric:
    """The metric `compressed bytes / bytes` of a sample's tokens, float32.

    What repeats itself compresses well and is easy.

    Source: Zhang et al. 2025, arXiv:2506.11300, which found it among the best difficulty signals.
    Differs: of token numbers, not of text; zlib (DEFLATE), level 6.
    """
    return Metric(
        name="compression_ratio",
        kind="single_value_per_sample",
        function=compressed_shares,
        dtype="float32",
        parameters={"level": COMPRESSION_LEVEL, "zlib": zlib.ZLIB_RUNTIME_VERSION},
    )


def mtld(batch: TokenBatch) -> np.ndarray:
    """MTLD of each sample, the mean of reading it forwards and backwards, float64 [B].

    The mean length of a stretch of tokens over which types / tokens stays above 0.72. A sample in
    which no token comes twice has its length, an empty one 0.

    Example:
        >>> mtld(TokenBatch(np.array([1, 1, 1, 1]), np.array([0]), np.array([4]))).tolist()
        [2.0]
    """
    backwards = TokenBatch(
        batch.tokens[::-1], len(batch.tokens) - batch.starts - batch.lengths, batch.lengths
    )
    values = np.zeros(len(batch.lengths))
    for places in groups_by_length(batch.lengths, MAX_PADDED_TOKENS):
        rows = np.concatenate([padded_rows(batch, places), padded_rows(backwards, places)])
        lengths = batch.lengths[places]
        factors = _num_factors(rows, np.tile(lengths, 2)).reshape(2, -1)
        means = lengths / np.where(factors > 0, factors, 1.0)
        values[places] = means.mean(axis=0)
    return values


def _num_factors(rows: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Stretches of each row, the last one in part, float64 [rows].

    Args:
        rows: tokens, [rows, longest].
        lengths: tokens of each row that count, int64 [rows].
    """
    previous = np.ascontiguousarray(_previous_places(rows).T)
    lengths = lengths.astype(np.int32)
    first = np.zeros(len(lengths), np.int32)
    num_types = np.zeros(len(lengths), np.int32)
    num_factors = np.zeros(len(lengths), np.int32)
    for place in range(rows.shape[1]):
        is_inside = place < lengths
        num_types += (previous[place] < first) & is_inside
        is_end = num_types * THRESHOLD_DENOMINATOR <= (place + 1 - first) * THRESHOLD_NUMERATOR
        is_end &= is_inside
        num_factors += is_end
        first[is_end] = place + 1
        num_types[is_end] = 0
    num_tokens = lengths - first
    rest = 1.0 - num_types / np.maximum(num_tokens, 1)
    threshold = THRESHOLD_NUMERATOR / THRESHOLD_DENOMINATOR
    return num_factors + np.where(num_tokens > 0, rest / (1.0 - threshold), 0.0)


def _previous_places(rows: np.ndarray) -> np.ndarray:
    """Where in its row each token came last before, -1 for a first time, int32 [rows, longest]."""
    order = np.argsort(rows, axis=1, kind="stable").astype(np.int32)
    in_order = np.take_along_axis(rows, order, axis=1)
    found = np.full(rows.shape, -1, np.int32)
    is_repeated = in_order[:, 1:] == in_order[:, :-1]
    earlier = np.where(is_repeated, order[:, :-1], np.int32(-1))
    np.put_along_axis(found, order[:, 1:], earlier, axis=1)
    return found


def lexical_diversity() -> Metric:
    """The metric MTLD (measure of textual lexical diversity) of a sample's tokens, float32.

    Source: McCarthy and Jarvis 2010, Behavior Research Methods 42; as a difficulty Zhang et al. 2025,
        arXiv:2506.11300.
    Differs: of token numbers, not of words; where no token is repeated, the number of tokens.
    """
    return Metric(
        name="lexical_diversity",
        kind="single_value_per_sample",
        function=mtld,
        dtype="float32",
        parameters={"threshold": f"{THRESHOLD_NUMERATOR}/{THRESHOLD_DENOMINATOR}"},
    )
