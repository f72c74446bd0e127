"""Pieces of documents as samples: each document cut into lengths that are powers of two times the shortest.

A document of n tokens has n - 1 places, each with the token that follows it as label. As many longest pieces as fit are cut
from its beginning, then at most one of each shorter length, the longest first; what is left below the shortest length is
left out. Like the windows of running text a piece holds one token more than its length, so neighbours share one and every
label of a piece is in the loss. No piece holds two documents.

Samples are numbered by length, the shortest pieces first, and by place in the corpus. Nothing is stored but, for each 128
documents, how many pieces of each length lie before them: the rest is looked up where a sample is read.

A worked example: lengths 2, 4 and 8, a document of 24 tokens, so 23 places: pieces of 8, 8, 4 and 2 places, 1 is left out.

Source: "Dataset Decomposition", Pouransari et al. 2024, arXiv 2405.13226. Differs: pieces do not share a token there, so that
one label is lost between two; and documents above the longest length may be cut at random there.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_efficiency.analysis.token_windows import (
    MEGATRON_SPLIT,
    EmptySplitError,
    split_boundaries,
)
from megatron.config import DataConfig
from megatron.data.indexed_dataset import IndexedDataset
from megatron.data.row_dataset import RowDataset
from megatron.setting_rules import require

Int64Array = NDArray[np.int64]
_BLOCK = 128
"""Documents whose pieces are counted together; of a sample's block all documents are looked at."""
_AT_ONCE = _BLOCK * 8192
_READ_AT_ONCE = 8192


def open_pieces(data: DataConfig) -> "DocumentPieces":
    """Pieces of the training documents that settings name.

    Raises:
        ValueError: for a blend, and as `DocumentPieces`.
    """
    require(
        len(data.data_path) == 1,
        "shortest_piece",
        data.shortest_piece,
        "lengths of pieces are drawn, and a blend's corpora would be too: make one corpus of them (tools/merge_datasets.py)",
    )
    return DocumentPieces(data.data_path[0], split=data.split, lengths=data.piece_lengths)


class DocumentPieces(RowDataset):
    """The pieces of one split of a corpus.

    Args:
        prefix: path of the corpus without `.bin` and `.idx`.
        split_name: "train", "valid" or "test".
        lengths: places of the pieces, ascending, each twice as many as the one before.

    Attributes:
        part_lengths: places of a piece of each length, ascending.
        part_sizes: how many pieces there are of each.
        num_left_out: places of the split's documents that are in no piece.

    Raises:
        FileNotFoundError: if the corpus is missing.
        EmptySplitError: if no document of the split is long enough.
        ValueError: if the corpus is damaged, or for other lengths.
    """

    def __init__(
        self,
        prefix: str,
        *,
        split_name: str = "train",
        split: str = MEGATRON_SPLIT,
        lengths: Sequence[int],
    ) -> None:
        corpus = IndexedDataset(prefix)
        # Before anything of the index is used.
        content_hash = corpus.content_hash()
        self._first, self._last = split_boundaries(split, corpus.num_documents)[split_name]
        self._corpus = corpus
        if list(lengths) != [lengths[0] << place for place in range(len(lengths))]:
            raise ValueError(f"lengths is {list(lengths)}: each must be twice the one before")
        self.part_lengths = tuple(lengths)
        self.sequence_length = lengths[-1]
        self._before, num_places = self._count()
        self.part_sizes = tuple(self._before[:, -1].tolist())
        self._ends = np.cumsum(self.part_sizes)
        self.num_places = num_places
        """Of all documents of the split."""
        in_pieces = sum(map(int.__mul__, self.part_sizes, self.part_lengths))
        self.num_left_out = num_places - in_pieces
        if not len(self):
            raise EmptySplitError(
                f"the {split_name} split of {prefix} has no document of more than {lengths[0]} tokens, which --shortest-piece "
                f"wants; take a shorter one, or another --split (now {split})"
            )
        metadata = corpus.metadata or {}
        self.vocab_size: int | None = metadata.get("vocab_size")
        self.identity: Mapping[str, Any] = {
            "type": "DocumentPieces",
            "corpus": content_hash,
            "num_tokens": corpus.num_tokens,
            "tokenizer": metadata.get("tokenizer_fingerprint"),
            "split": split,
            "split_name": split_name,
            "sequence_length": lengths[-1],
            "shortest_piece": lengths[0],
            "num_samples": len(self),
        }
        """What the difficulty index and the checkpoint must agree on."""

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def pieces_record(self) -> dict[str, Any]:
        """What a log says of them: how many of each length, and what is left out."""
        return {
            "sizes": dict(zip(map(str, self.part_lengths), self.part_sizes, strict=True)),
            "left_out_tokens": self.num_left_out,
            "left_out_share": self.num_left_out / self.num_places,
        }

    def get_batch(
        self, samples: Int64Array, visits: Int64Array | None = None
    ) -> dict[str, Int64Array]:
        """`tokens` and `labels` of some samples of one length, int64 [batch, length].

        Raises:
            ValueError: for samples of several lengths, which are no rows of one batch.
        """
        samples = np.asarray(samples, np.int64)
        number = int(np.searchsorted(self._ends, samples[0], "right"))
        first = int(self._ends[number]) - self.part_sizes[number]
        if samples.min() < first or samples.max() >= self._ends[number]:
            raise ValueError(
                f"samples {int(samples.min())} to {int(samples.max())} are pieces of several lengths, which no batch may mix: "
                "draw each step from one of the dataset's part_sizes"
            )
        tokens = self._read(number, samples - first).astype(np.int64)
        return {"tokens": tokens[:, :-1], "labels": tokens[:, 1:]}

    def token_spans(self, first: int, last: int) -> tuple[NDArray[Any], Int64Array, Int64Array]:
        """As `TokenWindows.token_spans`, copied: pieces of one length lie all over the corpus."""
        spans, lengths = [np.zeros(0, self._corpus.dtype)], [np.zeros(0, np.int64)]
        for number, (end, size) in enumerate(zip(self._ends, self.part_sizes, strict=True)):
            begin = int(end) - size
            for low in range(max(first, begin), min(last, int(end)), _READ_AT_ONCE):
                wanted = np.arange(low, min(low + _READ_AT_ONCE, last, int(end))) - begin
                tokens = self._read(number, wanted)
                spans.append(tokens.flatten())
                lengths.append(np.full(len(tokens), tokens.shape[1], np.int64))
        sizes = np.concatenate(lengths)
        return np.concatenate(spans), np.cumsum(sizes) - sizes, sizes

    def _read(self, number: int, wanted: Int64Array) -> NDArray[Any]:
        """[batch, length + 1]: tokens of some pieces of one length, counted from the first."""
        starts = self._starts(number, wanted)
        return self._corpus.tokens[starts[:, None] + np.arange(self.part_lengths[number] + 1)]

    def _count(self) -> tuple[Int64Array, int]:
        """[lengths, blocks + 1]: pieces before each block of documents, and after the last; and the places of all documents."""
        columns, num_places = [np.zeros((len(self.part_lengths), 1), np.int64)], 0
        for begin in range(self._first, self._last, _AT_ONCE):
            documents = np.arange(begin, min(begin + _AT_ONCE, self._last) + 1)
            places = _places(self._offsets(documents))
            num_places += int(places.sum())
            blocks = np.arange(0, len(places), _BLOCK)
            counts = [
                np.add.reduceat(self._pieces(number, places), blocks)
                for number in range(len(self.part_lengths))
            ]
            columns.append(np.array(counts, np.int64))
        return np.cumsum(np.concatenate(columns, axis=1), axis=1), num_places

    def _pieces(self, number: int, places: Int64Array) -> Int64Array:
        """How many pieces of a length documents of so many places have."""
        whole = places // self.part_lengths[number]
        return whole if number == len(self.part_lengths) - 1 else whole & 1

    def _starts(self, number: int, wanted: Int64Array) -> Int64Array:
        """Where pieces of one length begin in the corpus; `wanted` counts them from the first."""
        before = self._before[number]
        block = np.searchsorted(before, wanted, "right") - 1
        documents = self._first + block[:, None] * _BLOCK + np.arange(_BLOCK + 1)  # [batch, 129]
        offsets = self._offsets(np.minimum(documents, self._last))
        places = _places(offsets)
        behind = np.cumsum(self._pieces(number, places), axis=1)
        in_block = wanted - before[block]
        document = (behind <= in_block[:, None]).sum(1)[:, None]
        in_document = in_block - np.where(
            document > 0, np.take_along_axis(behind, np.maximum(document - 1, 0), 1), 0
        ).squeeze(1)
        own, start = (np.take_along_axis(one, document, 1).squeeze(1) for one in (places, offsets))
        length = self.part_lengths[number]
        # Longer pieces come first; of the longest there may be several.
        longer = 0 if number == len(self.part_lengths) - 1 else own // (2 * length) * (2 * length)
        return start + longer + in_document * length

    def _offsets(self, documents: Int64Array) -> Int64Array:
        return self._corpus.offsets_of(self._corpus.document_index[documents])


def _places(offsets: Int64Array) -> Int64Array:
    """Places of documents that begin at some offsets, the next one's among them; an empty document has none."""
    places: Int64Array = np.maximum(np.diff(offsets) - 1, 0)
    return places
