"""Megatron's `.bin` and `.idx`: rows of numbers, for token corpora and for DeepSpeed's indexes.

`.bin` holds the numbers of all rows back to back. `.idx` is little-endian:

    offset   size   content
    0        9      "MMIDIDX" and two zero bytes
    9        8      version, 1
    17       1      code of the number type
    18       8      N, number of rows (a corpus: sequences)
    26       8      D, number of entries of the document index
    34       4 N    numbers in each row, int32
    34+4N    8 N    byte offset of each row in .bin, int64
    34+12N   8 D    document index, int64; starts with 0, ends with N. A corpus: first sequence of each
                    document. DeepSpeed: the end of each merged file.

Megatron and DeepSpeed give the codes from 6 on different meanings, DeepSpeed two of them, and nothing
in the header tells them apart; the size of `.bin` does.
"""

import hashlib
import mmap
import os
import shutil
import struct
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data_efficiency.files.remote import Location, RemotePath

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
HEADER = struct.Struct("<9sQBQQ")
MAX_ROW_LENGTH = 2**31 - 1
_SIGNED_AND_BYTES = {"uint8": 1, "int8": 2, "int16": 3, "int32": 4, "int64": 5}
MEGATRON_CODES = {**_SIGNED_AND_BYTES, "float64": 6, "float32": 7, "uint16": 8}
"""Code of each number type in a corpus."""
DEEPSPEED_CODES = {**_SIGNED_AND_BYTES, "uint16": 6, "uint32": 7, "uint64": 8}
"""Code of each number type in DeepSpeed's index files, from DeepSpeed 0.13.3 on."""
OLD_DEEPSPEED_CODES = {**_SIGNED_AND_BYTES, "uint16": 8, "uint32": 9, "uint64": 10}
"""The same before DeepSpeed 0.13.3."""
_BLOCK_ROWS = 1024 * 1024


class Index(NamedTuple):
    """The content of an `.idx` of N rows, memory-mapped read-only."""

    path: Location
    code: int
    lengths: npt.NDArray[np.int32]
    """Numbers in each row, int32 [N]."""
    offsets: npt.NDArray[np.int64]
    """Where each row starts in `.bin`, in bytes, int64 [N]."""
    documents: npt.NDArray[np.int64]
    """The document index, int64."""

    def verify(self, item_bytes: int) -> None:
        """Raise ValueError unless the rows lie back to back and the document index never falls."""
        end = 0
        for start in range(0, len(self.lengths), _BLOCK_ROWS):
            lengths = self.lengths[start : start + _BLOCK_ROWS].astype(np.int64)
            if lengths.min() < 0:
                row = start + int(lengths.argmin())
                raise ValueError(f"{self.path}: row {row} has a negative length")
            ends = end + np.cumsum(lengths) * item_bytes
            expected = ends - lengths * item_bytes
            found = self.offsets[start : start + _BLOCK_ROWS]
            wrong = np.flatnonzero(found != expected)
            if len(wrong):
                raise ValueError(
                    f"{self.path}: row {start + wrong[0]} starts at byte {found[wrong[0]]}, but the"
                    f" lengths before it end at byte {expected[wrong[0]]}"
                )
            end = int(ends[-1])
        for start in range(0, len(self.documents), _BLOCK_ROWS):
            falling = np.flatnonzero(np.diff(self.documents[start : start + _BLOCK_ROWS + 1]) < 0)
            if len(falling):
                raise ValueError(
                    f"{self.path}: the document index falls after document {start + falling[0]}"
                )


def map_bytes(path: Location) -> npt.NDArray[np.uint8]:
    """All bytes of a file, memory-mapped read-only; an empty array for an empty file.

    Of a file on other storage they are read into memory.
    """
    if isinstance(path, RemotePath):
        return np.frombuffer(path.read_bytes(), dtype=np.uint8)
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return np.empty(0, dtype=np.uint8)
        return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), dtype=np.uint8)


def read_index(path: Location, *, remedy: str) -> Index:
    """The content of an `.idx` whose header and size are right.

    Args:
        remedy: what to do about a file of another format, last words of that error message.

    Raises:
        ValueError: if it is foreign or truncated.
    """
    content = map_bytes(path)
    if len(content) < HEADER.size or content[: len(MAGIC)].tobytes() != MAGIC:
        raise ValueError(
            f"{path}: not an index of Megatron's format (it must start with {MAGIC!r} and have at"
            f" least {HEADER.size} bytes); {remedy}"
        )
    _, version, code, num_rows, num_entries = HEADER.unpack(content[: HEADER.size].tobytes())
    if version != VERSION:
        raise ValueError(f"{path}: version {version} of the format, only {VERSION} is known")
    expected = HEADER.size + 12 * num_rows + 8 * num_entries
    if num_rows and len(content) == expected + num_rows:
        raise ValueError(
            f"{path}: a multimodal index of Megatron core, which ends with a mode for each of its {num_rows} "
            f"sequences; only text without modes is read; {remedy}"
        )
    if len(content) != expected:
        raise ValueError(
            f"{path}: {len(content)} bytes, but {num_rows} rows and {num_entries} document entries"
            f" take {expected}; the file is truncated or damaged"
        )
    lengths, offsets, documents = np.split(
        content[HEADER.size :], np.cumsum([4 * num_rows, 8 * num_rows])
    )
    return Index(path, code, lengths.view("<i4"), offsets.view("<i8"), documents.view("<i8"))


def type_of_size(names: Iterable[str], num_numbers: int, num_bytes: int) -> str | None:
    """The one of some number types of which so many fill so many bytes.

    Example:
        >>> type_of_size(["uint16", "uint64"], 3, 24)
        'uint64'
    """
    return next((x for x in names if np.dtype(x).itemsize * num_numbers == num_bytes), None)


def deepspeed_types(code: int) -> list[str]:
    """The number types that DeepSpeed's writers of all versions mean by a code."""
    tables = (DEEPSPEED_CODES, OLD_DEEPSPEED_CODES)
    return sorted({name for table in tables for name in table if table[name] == code})


class IndexWriter:
    """An `.idx` that grows with its `.bin`, in memory that does not grow with the number of rows.

    The document index, which comes last in the file, waits in a nameless file of the same folder,
    which vanishes with the process.

    Args:
        path: the file, replaced if it exists.

    Attributes:
        num_sequences, num_documents: how many were added.
    """

    def __init__(self, path: Path, code: int, item_bytes: int) -> None:
        self._code = code
        self._item_bytes = item_bytes
        self._file = path.open("w+b")
        self._file.write(bytes(HEADER.size))
        self._document_ends = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115 - close() does
        self.num_sequences = 0
        self.num_documents = 0

    def add(self, sequence_lengths: npt.ArrayLike, sequences_per_document: npt.ArrayLike) -> None:
        """Append documents.

        Args:
            sequence_lengths: numbers in each row, 1-D.
            sequences_per_document: rows of each document, 1-D, adding up to all.
        """
        lengths, counts = np.asarray(sequence_lengths), np.asarray(sequences_per_document)
        ends = self.num_sequences + np.cumsum(counts, dtype=np.int64)
        self._file.write(np.ascontiguousarray(lengths, "<i4").data)
        self._document_ends.write(ends.astype("<i8").data)
        self.num_sequences += len(lengths)
        self.num_documents += len(counts)

    def finish(self) -> str:
        """SHA-256 of the file, which is now complete and handed to the system."""
        position, num_bytes = HEADER.size, 0
        for start in range(0, self.num_sequences, _BLOCK_ROWS):
            num = min(_BLOCK_ROWS, self.num_sequences - start)
            self._file.seek(position)
            lengths = np.frombuffer(self._file.read(4 * num), "<i4").astype(np.int64)
            position = self._file.tell()
            ends = num_bytes + np.cumsum(lengths) * self._item_bytes
            self._file.seek(0, 2)
            self._file.write((ends - lengths * self._item_bytes).astype("<i8").data)
            num_bytes = int(ends[-1])
        self._file.seek(0, 2)
        self._file.write(bytes(8))
        self._document_ends.seek(0)
        shutil.copyfileobj(self._document_ends, self._file)
        self._file.seek(0)
        counts = (self.num_sequences, self.num_documents + 1)
        self._file.write(HEADER.pack(MAGIC, VERSION, self._code, *counts))
        self._file.flush()
        self._file.seek(0)
        return hashlib.file_digest(self._file, "sha256").hexdigest()

    def fileno(self) -> int:
        """Descriptor of the file."""
        return self._file.fileno()

    def close(self) -> None:
        """Close the files, whatever is still unwritten."""
        for file in (self._file, self._document_ends):
            with suppress(OSError):
                file.close()
