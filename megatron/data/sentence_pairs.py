"""Which sentences of a corpus form a sample for BERT, and how they part into two segments.

A sample is a run of at least two sentences of one document, with as many as reach a target length:
the longest there is room for, or, with a small probability, a uniform number from 2 to that. What
would leave a single sentence behind takes it along; so each sentence of a document with at least two
is in exactly one sample. Documents of many sentences are cut into pieces first, as though they were
several, so that all pieces can be cut at once.

The run is parted between two of its sentences; with probability 1/2 the second part goes first. Where
both are longer than the target, the longer one is cut, at random shares of its two ends.

All random choices are functions of the seed and the run's first sentence, not of an epoch or a split.

Source: BERT (Devlin et al. 2019) and Megatron-LM's sample map. Differs: one pass over the corpus in
its own order (shuffling and repeating are the sampler's work), no limit on a sentence's length, and
the share of a cut that is taken from the front is uniform, not binomial.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_efficiency import hashing
from megatron.data.indexed_dataset import IndexedDataset

Int64Array = NDArray[np.int64]

MAX_PIECE_SENTENCES = 4096
# Sentences looked at together: some 128 MB of their offsets.
SENTENCES_PER_BLOCK = 2**24
# What a random number is for.
_IS_SHORT, _SHORT_LENGTH, _PARTING, _IS_SWAPPED, _CUT_OF_FIRST, _CUT_OF_SECOND = range(6)


class Segments(NamedTuple):
    """Where the two segments of some samples lie among the tokens of the corpus, int64 [batch]."""

    first_start: Int64Array
    first_length: Int64Array
    second_start: Int64Array
    second_length: Int64Array
    is_swapped: NDArray[np.bool_]
    """Whether the first segment follows the second in the corpus."""


class SentencePairs:
    """The samples of some documents of a corpus whose sequences are sentences.

    Args:
        max_tokens: room for the tokens of both segments, >= 2.

    Attributes:
        num_skipped_documents: documents with fewer than two sentences, not used.

    Raises:
        ValueError: if a sentence has no tokens.
    """

    def __init__(
        self,
        corpus: IndexedDataset,
        documents: range,
        *,
        max_tokens: int,
        seed: int,
        short_seq_prob: float,
    ) -> None:
        self._corpus = corpus
        self._max_tokens = max_tokens
        self._seed = seed
        self._short_seq_prob = short_seq_prob
        edges = np.array(corpus.document_index[documents.start : documents.stop + 1])
        self.num_skipped_documents = int((np.diff(edges) < 2).sum())
        block_ends = np.arange(edges[0], edges[-1], SENTENCES_PER_BLOCK) + SENTENCES_PER_BLOCK
        places = np.unique([0, *np.searchsorted(edges, block_ends), len(edges) - 1])
        places = places[places < len(edges)].tolist()
        runs = [
            self._runs_of(edges[low : high + 1])
            for low, high in zip(places[:-1], places[1:], strict=True)
        ]
        empty = np.empty(0, np.int64)
        self._first = np.concatenate([empty, *(first for first, _ in runs)])
        self._num_sentences = np.concatenate([empty.astype(np.int32), *(num for _, num in runs)])

    def __len__(self) -> int:
        return len(self._first)

    def sentences(self, samples: Int64Array) -> tuple[Int64Array, Int64Array]:
        """First sentence of each sample in the corpus, and the one after its last, int64 each."""
        first = self._first[samples]
        return first, first + self._num_sentences[samples]

    def targets(self, first_sentences: Int64Array) -> Int64Array:
        """Most tokens of the samples that start at these sentences, int64."""
        is_short = hashing.happens(
            hashing.hash_numbers(self._seed, _IS_SHORT, first_sentences), self._short_seq_prob
        )
        drawn = hashing.hash_numbers(self._seed, _SHORT_LENGTH, first_sentences)
        return np.where(is_short, 2 + hashing.below(drawn, self._max_tokens - 1), self._max_tokens)

    def segments(self, samples: Int64Array) -> Segments:
        """Where the segments of some samples lie."""
        begin, end = self.sentences(samples)
        parting = begin + 1
        parting += hashing.below(hashing.hash_numbers(self._seed, _PARTING, begin), end - begin - 1)
        edges = self._corpus.offsets_of(np.stack([begin, parting, end]))
        is_swapped = hashing.happens(hashing.hash_numbers(self._seed, _IS_SWAPPED, begin), 0.5)
        starts, lengths = edges[:2], np.diff(edges, axis=0)
        order = np.stack([is_swapped, ~is_swapped]).astype(np.int64)
        starts, lengths = (np.take_along_axis(part, order, 0) for part in (starts, lengths))
        kept = _kept_lengths(lengths[0], lengths[1], self.targets(begin))
        for number, purpose in enumerate((_CUT_OF_FIRST, _CUT_OF_SECOND)):
            num_cut = lengths[number] - kept[number]
            starts[number] += hashing.below(
                hashing.hash_numbers(self._seed, purpose, begin), num_cut + 1
            )
        return Segments(starts[0], kept[0], starts[1], kept[1], is_swapped)

    def _runs_of(self, document_edges: Int64Array) -> tuple[Int64Array, NDArray[np.int32]]:
        """First sentence and number of sentences of each sample of neighbouring documents."""
        base, stop = document_edges[[0, -1]].tolist()
        lengths = self._corpus.sequence_lengths[base:stop]
        if len(lengths) and lengths.min() < 1:
            raise ValueError(
                f"{self._corpus.prefix}: sentence {base + int(lengths.argmin())} has no tokens; make "
                "the corpus with tools/preprocess_data.py --split-sentences"
            )
        offsets = self._corpus.offsets_of(np.arange(base, stop + 1))
        at, end = _pieces(document_edges - base)
        firsts, ends = [at[:0]], [at[:0]]
        while len(at):
            reached = np.searchsorted(offsets, offsets[at] + self.targets(base + at))
            after = np.minimum(np.maximum(reached, at + 2), end)
            after = np.where(end - after < 2, end, after)
            firsts.append(at)
            ends.append(after)
            goes_on = after < end
            at, end = after[goes_on], end[goes_on]
        first, after = np.concatenate(firsts), np.concatenate(ends)
        order = np.argsort(first)
        return base + first[order], (after - first)[order].astype(np.int32)


def _pieces(document_edges: Int64Array) -> tuple[Int64Array, Int64Array]:
    """First sentence, and the one after the last, of the pieces of documents with at least two.

    Example:
        >>> _pieces(np.array([0, 3, 4, 4, 4 + 6000]))
        (array([   0,    4, 3004]), array([   3, 3004, 6004]))
    """
    first, num_sentences = document_edges[:-1], np.diff(document_edges)
    first, num_sentences = first[num_sentences > 1], num_sentences[num_sentences > 1]
    num_pieces = -(-num_sentences // MAX_PIECE_SENTENCES)
    number = np.arange(num_pieces.sum()) - np.repeat(np.cumsum(num_pieces) - num_pieces, num_pieces)
    first, num_sentences, num_pieces = (
        np.repeat(part, num_pieces) for part in (first, num_sentences, num_pieces)
    )
    return (
        first + number * num_sentences // num_pieces,
        first + (number + 1) * num_sentences // num_pieces,
    )


def _kept_lengths(first: Int64Array, second: Int64Array, room: Int64Array) -> list[Int64Array]:
    """Lengths after cutting the longer of two, token by token, until both fit the room.

    Example:
        >>> _kept_lengths(np.array([9, 3, 9, 2]), np.array([3, 9, 9, 2]), np.full(4, 7))
        [array([4, 3, 4, 2]), array([3, 4, 3, 2])]
    """
    kept_first = np.minimum(first, np.maximum(room - second, (room + 1) // 2))
    return [kept_first, np.minimum(second, room - kept_first)]
