"""Reader of token corpora in Megatron's memory-mapped form.

The layout is described in `indexed_format.py`.
"""

import hashlib
import json
import mmap
import os
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from megatron.data.indexed_dataset_writer import IndexedDatasetWriter
from megatron.data.indexed_format import (
    DEEPSPEED_DTYPE_OF_CODE,
    DTYPE_OF_CODE,
    HEADER,
    MAGIC,
    VERSION,
    dtype_for_vocabulary,
    path_of,
)

__all__ = ["IndexedDataset", "IndexedDatasetWriter", "dtype_for_vocabulary"]

NUM_HASHED_BLOCKS = 64
HASHED_BLOCK_BYTES = 64 * 1024
_READ_BYTES = 16 * 1024 * 1024
_READ_SEQUENCES = 1024 * 1024


def _map_bytes(path: Path) -> npt.NDArray[np.uint8]:
    """All bytes of a file, memory-mapped read-only; an empty array for an empty file."""
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return np.empty(0, dtype=np.uint8)
        return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), dtype=np.uint8)


class IndexedDataset:
    """Memory-mapped reader of a token corpus. Opening reads the header and a few entries only.

    Args:
        prefix: path of the corpus without `.bin` and `.idx`.

    Attributes:
        dtype: type of a token.
        num_tokens, num_documents: totals; `len()` is the number of sequences.
        tokens: all tokens, 1-D, memory-mapped read-only.
        sequence_lengths: tokens of each sequence, int32 [N].
        byte_offsets: where each sequence starts in `.bin`, in bytes, int64 [N].
        document_index: first sequence of each document, int64 [documents + 1], last entry N.

    Raises:
        FileNotFoundError: if one of the two files is missing.
        ValueError: if the files are truncated, foreign or do not belong together.
    """

    def __init__(self, prefix: str | os.PathLike[str]) -> None:
        self.prefix = os.fspath(prefix)
        for path in (self._path("bin"), self._path("idx")):
            if not path.is_file():
                raise FileNotFoundError(
                    f"{path}: no such file; a corpus is PREFIX.bin and PREFIX.idx, and its path is"
                    " given as the PREFIX alone"
                )
        self._open_index(self._path("idx"))
        self._open_tokens(self._path("bin"))

    def _path(self, ending: str) -> Path:
        return path_of(self.prefix, ending)

    def _open_index(self, path: Path) -> None:
        content = _map_bytes(path)
        if len(content) < HEADER.size or content[: len(MAGIC)].tobytes() != MAGIC:
            raise ValueError(
                f"{path}: not a Megatron index (it must start with {MAGIC!r} and have at least"
                f" {HEADER.size} bytes); make it with tools/preprocess_data.py"
            )
        header = HEADER.unpack_from(content[: HEADER.size].tobytes())
        _, version, self._code, num_sequences, num_entries = header
        if version != VERSION:
            raise ValueError(f"{path}: version {version} of the format, only {VERSION} is known")
        if self._code not in DTYPE_OF_CODE:
            raise ValueError(f"{path}: unknown dtype code {self._code}, Megatron's are 1 to 8")
        expected = HEADER.size + 12 * num_sequences + 8 * num_entries
        if len(content) != expected:
            raise ValueError(
                f"{path}: {len(content)} bytes, but {num_sequences} sequences and {num_entries}"
                f" document entries take {expected}; the file is truncated or damaged"
            )
        self.dtype = DTYPE_OF_CODE[self._code]
        offsets_at = HEADER.size + 4 * num_sequences
        documents_at = offsets_at + 8 * num_sequences
        self.sequence_lengths = content[HEADER.size : offsets_at].view("<i4")
        self.byte_offsets = content[offsets_at:documents_at].view("<i8")
        self.document_index = content[documents_at:].view("<i8")
        self.num_documents = num_entries - 1
        ends = (int(self.document_index[0]), int(self.document_index[-1])) if num_entries else None
        if ends != (0, num_sequences):
            raise ValueError(
                f"{path}: the document index must run from 0 to {num_sequences}, not {ends}"
            )

    def _open_tokens(self, path: Path) -> None:
        content = _map_bytes(path)
        num_bytes, item_bytes = len(content), self.dtype.itemsize
        expected = 0
        if len(self):
            expected = int(self.byte_offsets[-1]) + int(self.sequence_lengths[-1]) * item_bytes
        # With an empty last sequence the end says nothing about the item size, so count them all.
        if len(self) and not self.sequence_lengths[-1]:
            expected = int(self.sequence_lengths.sum(dtype=np.int64)) * item_bytes
        if num_bytes != expected:
            raise ValueError(self._explain_size(path, num_bytes))
        self.tokens = content.view(self.dtype)
        self.num_tokens = len(self.tokens)

    def _explain_size(self, path: Path, num_bytes: int) -> str:
        num_tokens = int(self.sequence_lengths.sum(dtype=np.int64))
        other = DEEPSPEED_DTYPE_OF_CODE.get(self._code)
        if other and num_tokens and num_bytes == num_tokens * np.dtype(other).itemsize:
            return (
                f"{path}: {num_bytes // num_tokens} bytes a token, but dtype code {self._code} is"
                f" {self.dtype.name} in Megatron's table; DeepSpeed's writer uses that code for"
                f" {other}, so this is one of its index files, not a Megatron corpus"
            )
        expected = num_tokens * self.dtype.itemsize
        what = "truncated" if num_bytes < expected else "not the one that belongs to this .idx"
        return (
            f"{path}: {num_bytes} bytes, but {self._path('idx')} lists {num_tokens}"
            f" {self.dtype.name} tokens ({expected} bytes); the .bin is {what}"
        )

    def __len__(self) -> int:
        return len(self.sequence_lengths)

    def __getitem__(self, index: int) -> npt.NDArray[Any]:
        """Tokens of one sequence, a read-only view that keeps the memory map alive."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"sequence {index} of a corpus of {len(self)}")
        start = int(self.byte_offsets[index]) // self.dtype.itemsize
        return self.tokens[start : start + int(self.sequence_lengths[index])]

    def __reduce__(self) -> tuple[type[Self], tuple[str]]:
        return type(self), (self.prefix,)

    @property
    def token_offsets(self) -> npt.NDArray[np.int64]:
        """Place of each sequence's first token in `tokens`, int64 [N], computed anew."""
        return self.byte_offsets // self.dtype.itemsize

    def offsets_of(self, sequences: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Place of the first token of each of some sequences in `tokens`, int64, in their shape.

        Args:
            sequences: integers from 0 to `len()`; the last stands for the end of all tokens.
        """
        offsets = np.full(np.shape(sequences), self.num_tokens, np.int64)
        is_sequence = sequences < len(self)
        offsets[is_sequence] = self.byte_offsets[sequences[is_sequence]] // self.dtype.itemsize
        return offsets

    @property
    def metadata(self) -> dict[str, Any] | None:
        """Content of the sidecar `PREFIX.meta.json`, or None where there is none."""
        path = self._path("meta.json")
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise ValueError(f"{path}: not valid JSON ({error}); delete or remake it") from None

    def content_hash(self) -> str:
        """SHA-256 of the index, the size of `.bin` and 64 evenly spaced blocks of 64 KiB of it.

        Costs milliseconds at any size of `.bin`, and sees every change of a document's length; a
        changed token between the blocks only a full checksum sees (`preprocess_data.py --verify`).
        """
        digest = hashlib.sha256()
        with self._path("idx").open("rb") as file:
            while block := file.read(_READ_BYTES):
                digest.update(block)
        num_bytes = self.tokens.nbytes
        digest.update(num_bytes.to_bytes(8, "little"))
        content = self.tokens.view(np.uint8).data
        if num_bytes <= NUM_HASHED_BLOCKS * HASHED_BLOCK_BYTES:
            digest.update(content)
        else:
            last = num_bytes - HASHED_BLOCK_BYTES
            for number in range(NUM_HASHED_BLOCKS):
                start = number * last // (NUM_HASHED_BLOCKS - 1)
                digest.update(content[start : start + HASHED_BLOCK_BYTES])
        return digest.hexdigest()

    def verify(self, vocab_size: int | None = None) -> None:
        """Nothing, if all offsets, the document index and all token ids are sound; reads all.

        Raises:
            ValueError: naming the first thing that is wrong.
        """
        path = self._path("idx")
        end = 0
        for start in range(0, len(self), _READ_SEQUENCES):
            end = self._verify_offsets(start, end)
        for start in range(0, self.num_documents, _READ_SEQUENCES):
            entries = self.document_index[start : start + _READ_SEQUENCES + 1]
            falling = np.flatnonzero(np.diff(entries) < 0)
            if len(falling):
                raise ValueError(
                    f"{path}: the document index falls after document {start + falling[0]}"
                )
        if vocab_size is not None:
            self._verify_tokens(vocab_size)

    def _verify_offsets(self, start: int, end: int) -> int:
        """Where the sequences of the block that begins at `start` end, if the one before ends at `end`."""
        path = self._path("idx")
        lengths = self.sequence_lengths[start : start + _READ_SEQUENCES].astype(np.int64)
        if lengths.min() < 0:
            raise ValueError(
                f"{path}: sequence {start + int(lengths.argmin())} has a negative length"
            )
        ends = end + np.cumsum(lengths) * self.dtype.itemsize
        expected = ends - lengths * self.dtype.itemsize
        found = self.byte_offsets[start : start + _READ_SEQUENCES]
        wrong = np.flatnonzero(found != expected)
        if len(wrong):
            raise ValueError(
                f"{path}: sequence {start + wrong[0]} starts at byte {found[wrong[0]]}, but the"
                f" lengths before it end at byte {expected[wrong[0]]}"
            )
        return int(ends[-1])

    def _verify_tokens(self, vocab_size: int) -> None:
        for start in range(0, self.num_tokens, _READ_BYTES):
            block = self.tokens[start : start + _READ_BYTES]
            low, high = block.min(), block.max()
            if low < 0 or high >= vocab_size:
                raise ValueError(
                    f"{self._path('bin')}: token id {low if low < 0 else high} is outside the"
                    f" vocabulary of {vocab_size}"
                )
