"""Difficulty metrics on batches of samples, and the contract a metric of your own fits into."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np

MetricKind = Literal["single_value_per_sample", "accumulate_value_over_samples"]


class TokenBatch(NamedTuple):
    """Samples as spans of one flat run of tokens; spans may overlap, be empty or leave gaps.

    `tokens` is an integer array [T]; sample i holds `tokens[starts[i] : starts[i] + lengths[i]]`.
    `starts` and `lengths` are int64 [B].
    """

    tokens: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray


_TOKENS_A_TAKE = 2**15
"""NumPy widens the tokens of a `take` to 64 bits: so few stay in the cache, in memory that is used again."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A named function from a batch to numbers."""

    name: str
    """Also the name of the folder that the result is written to."""
    kind: MetricKind
    """`single_value_per_sample`: the function gives one number for each sample of the batch.
    `accumulate_value_over_samples`: it gives an array of one shape, added up over all batches."""
    function: Callable[[Any], Any]
    """Takes a batch, gives an array or tensor of integers or floats."""
    dtype: Any = "int64"
    """Integer or float dtype (anything `numpy.dtype` takes) that every result must fit."""
    reads: Literal["token_spans", "items"] = "token_spans"
    """What a batch is: a `TokenBatch`, or the dataset's own items put together by `collate_fn`."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Plain JSON data that the numbers depend on; unfinished work with other parameters is redone."""


def _check_vocabulary(tokens: np.ndarray, vocab_size: int) -> None:
    """Raise ValueError unless every token is a number from 0 to `vocab_size`."""
    if tokens.size == 0:
        return
    low = 0 if tokens.dtype.kind == "u" else int(tokens.min())
    high = int(tokens.max())
    if low < 0 or high > vocab_size:
        raise ValueError(
            f"token {low if low < 0 else high} is outside the vocabulary of {vocab_size} entries; "
            "give the size of the tokenizer's vocabulary"
        )


def _places_not_read_once(batch: TokenBatch) -> tuple[np.ndarray, np.ndarray]:
    """Places in `batch.tokens` that no span or several spans hold, and how many spans do.

    Returns:
        places, int64 [P], and the number of spans that hold each, int64 [P].
    """
    num_spans = len(batch.starts)
    edges = np.concatenate([[0], batch.starts, batch.starts + batch.lengths, [len(batch.tokens)]])
    change = np.zeros(len(edges), dtype=np.int64)
    change[1 : num_spans + 1] = 1
    change[num_spans + 1 : -1] = -1
    order = np.argsort(edges, kind="stable")
    edges = edges[order]
    num_readers = np.cumsum(change[order])[:-1]
    lengths = np.diff(edges)
    chosen = (num_readers != 1) & (lengths > 0)
    first, lengths, num_readers = edges[:-1][chosen], lengths[chosen], num_readers[chosen]
    ends = np.cumsum(lengths)
    places = np.arange(ends[-1] if len(ends) else 0) + np.repeat(first - ends + lengths, lengths)
    return places, np.repeat(num_readers, lengths)


def count_tokens(batch: TokenBatch, vocab_size: int) -> np.ndarray:
    """How often each token occurs in the samples of a batch, int64 [vocab_size + 1].

    A token held by two samples counts twice.

    Example:
        >>> batch = TokenBatch(np.array([1, 2, 2]), np.array([0, 1]), np.array([2, 2]))
        >>> count_tokens(batch, 3).tolist()
        [0, 1, 3, 0]
    """
    _check_vocabulary(batch.tokens, vocab_size)
    counts = np.bincount(batch.tokens, minlength=vocab_size + 1)
    places, num_readers = _places_not_read_once(batch)
    np.add.at(counts, batch.tokens[places], num_readers - 1)
    return counts


def total_vocab_freq(vocab_size: int) -> Metric:
    """The metric that counts every token of every sample.

    Its result is an int64 array [vocab_size + 1].

    Source: DeepSpeed Data Efficiency (Li et al. 2022, arXiv:2212.03597), metric `total_vocab_freq`.
    """
    return Metric(
        name="total_vocab_freq",
        kind="accumulate_value_over_samples",
        function=partial(count_tokens, vocab_size=vocab_size),
        parameters={"vocab_size": vocab_size},
    )


def sample_lengths(batch: TokenBatch) -> np.ndarray:
    """Tokens of each sample, int64 [B]."""
    return batch.lengths


def seqlen() -> Metric:
    """The metric that counts the tokens of a sample, without padding, int64.

    Source: DeepSpeed Data Efficiency (Li et al. 2022, arXiv:2212.03597), metric `seqlen`.
    """
    return Metric(name="seqlen", kind="single_value_per_sample", function=sample_lengths)


def negative_log_probabilities(frequency: np.ndarray) -> np.ndarray:
    """-ln p of each token, float64 [V + 1], with unseen tokens counted as seen once.

    Args:
        frequency: occurrences of each token, integers [V + 1].
    """
    seen = np.maximum(np.asarray(frequency, dtype=np.float64), 1.0)
    return -np.log(seen / seen.sum())


def sum_over_spans(batch: TokenBatch, table: np.ndarray) -> np.ndarray:
    """Sum of `table[token]` over each sample's tokens, float64 [B], 0 for an empty sample.

    Args:
        table: one float64 number for each token of the vocabulary.
    """
    if len(batch.starts) == 0:
        return np.zeros(0)
    # `reduceat` with start, end, start, end, ... gives the span sums at even places even where
    # spans overlap. An end may be one past the last token, hence the zero.
    numbers = np.empty(len(batch.tokens) + 1)
    numbers[-1] = 0.0
    for first in range(0, len(batch.tokens), _TOKENS_A_TAKE):
        piece = slice(first, min(first + _TOKENS_A_TAKE, len(batch.tokens)))
        np.take(table, batch.tokens[piece], out=numbers[piece], mode="clip")
    edges = np.stack([batch.starts, batch.starts + batch.lengths], axis=1).ravel()
    sums = np.add.reduceat(numbers, edges)[::2]
    return np.where(batch.lengths > 0, sums, 0.0)


def rarities(batch: TokenBatch, table: np.ndarray) -> np.ndarray:
    """Sum of -ln p over each sample's tokens, rounded down, int64 [B].

    Args:
        table: -ln p of each token, float64 [V + 1].
    """
    _check_vocabulary(batch.tokens, len(table) - 1)
    return np.floor(sum_over_spans(batch, table)).astype(np.int64)


def vocab_rarity(frequency: np.ndarray, parameters: Mapping[str, Any] | None = None) -> Metric:
    """The metric `floor(sum of -ln p(token))` over all tokens of a sample, int64.

    Rare words make a sample hard; so does length.

    Args:
        parameters: plain JSON data that identifies `frequency`.

    Source: DeepSpeed Data Efficiency (Li et al. 2022, arXiv:2212.03597), metric `vocab_rarity`.
    """
    return Metric(
        name="vocab_rarity",
        kind="single_value_per_sample",
        function=partial(rarities, table=negative_log_probabilities(frequency)),
        parameters=dict(parameters or {}),
    )


def lengths_then_rarities(batch: TokenBatch, table: np.ndarray, length_factor: int) -> np.ndarray:
    """Tokens of each sample times `length_factor`, plus its rarity, int64 [B]."""
    return batch.lengths * length_factor + rarities(batch, table)


def seqlen_vocab_rarity(
    frequency: np.ndarray, max_length: int, parameters: Mapping[str, Any] | None = None
) -> Metric:
    """The metric `length * C + rarity`, int64: short samples first, and by rarity among equals.

    C is the power of ten above ten times the largest rarity that a sample can have.

    Args:
        max_length: tokens of the longest sample there can be.
        parameters: plain JSON data that identifies `frequency`.

    Raises:
        ValueError: if `max_length` is below 1, or the values do not fit 64 bits.

    Source: DeepSpeed Data Efficiency (Li et al. 2022, arXiv:2212.03597), metric
        `seqlen_vocab_rarity`.
    """
    if max_length < 1:
        raise ValueError(f"max_length is {max_length}: at least 1 is needed")
    table = negative_log_probabilities(frequency)
    largest_rarity = max_length * float(table.max())
    # With a vocabulary of one token every rarity is 0, which has no logarithm.
    length_factor = 10 ** (math.ceil(math.log10(max(largest_rarity, 1.0))) + 1)
    if max_length * length_factor > 2**62:
        raise ValueError(
            f"seqlen_vocab_rarity of samples of up to {max_length} tokens does not fit 64 bits; "
            "use vocab_rarity"
        )
    return Metric(
        name="seqlen_vocab_rarity",
        kind="single_value_per_sample",
        function=partial(lengths_then_rarities, table=table, length_factor=length_factor),
        parameters={**(parameters or {}), "max_length": max_length},
    )
