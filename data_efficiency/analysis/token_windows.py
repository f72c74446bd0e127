"""Samples that are windows of a corpus: documents end to end, cut every `sequence_length` tokens.

A sample's number is its place in the corpus. Window i starts at token i * sequence_length of its
split and holds one token more than the sequence, so that inputs and labels are the window without its
last and without its first token; neighbours share that one token. Nothing is shuffled, built or
cached: where a sample lies is arithmetic. Tokens after the last whole window are not used.

A worked example: 11 tokens, sequence_length 4: windows 0:5 and 4:9, so 2 samples.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_efficiency.files.indexed_dataset import IndexedDataset

MEGATRON_SPLIT = "969,30,1"
"""Megatron's own proportions."""
SPLIT_NAMES = ("train", "valid", "test")


class EmptySplitError(ValueError):
    """A split of a corpus that holds no sample."""


def split_boundaries(split: str, num_documents: int) -> dict[str, tuple[int, int]]:
    """First and last (exclusive) document of each split.

    Args:
        split: proportions of train, valid and test, such as "969,30,1"; missing ones are 0.

    Raises:
        ValueError: if the proportions are not up to three numbers >= 0 with a positive sum.

    Example:
        >>> split_boundaries("8,1,1", 10)
        {'train': (0, 8), 'valid': (8, 9), 'test': (9, 10)}
    """
    try:
        parts = [float(part) for part in split.split(",")]
    except ValueError:
        parts = []
    if not 1 <= len(parts) <= 3 or not min(parts) >= 0 or not 0 < sum(parts) < math.inf:
        raise ValueError(
            f"--split is {split!r}: must be up to three numbers >= 0, separated by commas, "
            "such as 969,30,1"
        )
    parts += [0.0] * (3 - len(parts))
    ends = np.rint(np.cumsum(parts) / sum(parts) * num_documents).astype(int).tolist()
    starts = [0, *ends[:-1]]
    return dict(zip(SPLIT_NAMES, zip(starts, ends, strict=True), strict=True))


class TokenWindows:
    """The windows of one split of a corpus.

    Args:
        prefix: path or URL of the corpus without `.bin` and `.idx`.
        split_name: "train", "valid" or "test".
        sequence_length: positions of a sample, >= 1.

    Raises:
        FileNotFoundError: if the corpus is missing.
        EmptySplitError: if the split has no whole sample.
        ValueError: if the corpus is damaged.
    """

    def __init__(
        self,
        prefix: str,
        *,
        split_name: str = "train",
        split: str = MEGATRON_SPLIT,
        sequence_length: int,
    ) -> None:
        corpus = IndexedDataset(prefix)
        self.sequence_length = sequence_length
        self.vocab_size: int | None = None
        """Entries of the vocabulary the corpus was made with, where it is known."""
        # Before anything of the index is used.
        content_hash = corpus.content_hash()
        first, last = split_boundaries(split, corpus.num_documents)[split_name]
        self._span = begin, end = corpus.offsets_of(corpus.document_index[[first, last]]).tolist()
        self._corpus = corpus
        self.documents = range(first, last)
        """Which documents of the corpus the split holds."""
        self.num_corpus_documents = corpus.num_documents
        self.tokens = corpus.tokens[begin:end]
        """Of the split, one after the other, memory-mapped read-only, or as `IndexedDataset` has them of a URL."""
        self._num_samples = max(0, (end - begin - 1) // sequence_length)
        if self._num_samples == 0:
            raise EmptySplitError(
                f"the {split_name} split of {prefix} has {end - begin} tokens: too few for one "
                f"sample of {sequence_length} + 1; use more text, a shorter --seq-length or "
                f"another --split (now {split})"
            )
        metadata = corpus.metadata or {}
        self.vocab_size = metadata.get("vocab_size")
        self.identity: Mapping[str, Any] = {
            "type": "GPTDataset",
            "corpus": content_hash,
            "num_tokens": corpus.num_tokens,
            "tokenizer": metadata.get("tokenizer_fingerprint"),
            "split": split,
            "split_name": split_name,
            "sequence_length": sequence_length,
            "num_samples": self._num_samples,
        }
        """What the difficulty index and the checkpoint must agree on."""

    def __len__(self) -> int:
        return self._num_samples

    def __getstate__(self) -> dict[str, Any]:
        """Without the tokens, which another process maps anew."""
        return {**self.__dict__, "tokens": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        begin, end = self._span
        self.tokens = self._corpus.tokens[begin:end]

    def token_spans(
        self, first: int, last: int
    ) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[np.int64]]:
        """Samples first..last-1 as one stretch of the corpus, for analysis without a Python loop.

        Returns:
            The tokens of all of them (a view), where each sample starts in it (int64 [last - first])
            and how long each is (int64 [last - first], sequence_length + 1 throughout).
        """
        length = self.sequence_length
        tokens = np.asarray(self.tokens[first * length : last * length + 1])
        starts = np.arange(last - first, dtype=np.int64) * length
        return tokens, starts, np.full(last - first, length + 1, np.int64)

    def document_offsets(self) -> NDArray[np.int64]:
        """Place of each document's first token in the split, and of its end, [documents + 1]."""
        documents = self._corpus.document_index[self.documents.start : self.documents.stop + 1]
        offsets = self._corpus.offsets_of(documents)
        return offsets - offsets[0]
