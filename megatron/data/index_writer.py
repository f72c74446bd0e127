"""Writer of `.idx` files whose memory does not grow with the number of documents."""

import hashlib
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron.data.indexed_format import CODE_OF_DTYPE, HEADER, MAGIC, VERSION

_BLOCK_SEQUENCES = 1024 * 1024


class IndexWriter:
    """An `.idx` that grows with its corpus: lengths go to their place in the file as they come.

    The document index, which comes last in the file, waits in a nameless file of the same folder,
    which vanishes with the process.

    Args:
        path: the file, replaced if it exists.
        dtype: type of a token, a key of `CODE_OF_DTYPE`.

    Attributes:
        num_sequences, num_documents: how many were added.
    """

    def __init__(self, path: Path, dtype: np.dtype[Any]) -> None:
        self._dtype = dtype
        self._file = path.open("w+b")
        self._file.write(bytes(HEADER.size))
        self._document_ends = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115 - close() does
        self.num_sequences = 0
        self.num_documents = 0

    def add(
        self,
        sequence_lengths: npt.NDArray[np.integer],
        sequences_per_document: npt.NDArray[np.integer],
    ) -> None:
        """Nothing; appends documents.

        Args:
            sequence_lengths: tokens of each sequence, 1-D.
            sequences_per_document: sequences of each document, 1-D, adding up to all.
        """
        ends = self.num_sequences + np.cumsum(sequences_per_document, dtype=np.int64)
        self._file.write(np.ascontiguousarray(sequence_lengths, "<i4").data)
        self._document_ends.write(ends.astype("<i8").data)
        self.num_sequences += len(sequence_lengths)
        self.num_documents += len(sequences_per_document)

    def finish(self) -> str:
        """SHA-256 of the file, which is now complete and handed to the system."""
        place, num_bytes = HEADER.size, 0
        for start in range(0, self.num_sequences, _BLOCK_SEQUENCES):
            num = min(_BLOCK_SEQUENCES, self.num_sequences - start)
            self._file.seek(place)
            lengths = np.frombuffer(self._file.read(4 * num), "<i4").astype(np.int64)
            place = self._file.tell()
            ends = num_bytes + np.cumsum(lengths) * self._dtype.itemsize
            self._file.seek(0, 2)
            self._file.write((ends - lengths * self._dtype.itemsize).astype("<i8").data)
            num_bytes = int(ends[-1])
        self._file.seek(0, 2)
        self._file.write(bytes(8))
        self._document_ends.seek(0)
        shutil.copyfileobj(self._document_ends, self._file)
        self._file.seek(0)
        counts = (self.num_sequences, self.num_documents + 1)
        self._file.write(HEADER.pack(MAGIC, VERSION, CODE_OF_DTYPE[self._dtype], *counts))
        self._file.flush()
        self._file.seek(0)
        return hashlib.file_digest(self._file, "sha256").hexdigest()

    def fileno(self) -> int:
        """Descriptor of the file."""
        return self._file.fileno()

    def close(self) -> None:
        """Nothing; closes the files, whatever is still unwritten."""
        for file in (self._file, self._document_ends):
            with suppress(OSError):
                file.close()
