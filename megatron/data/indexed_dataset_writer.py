"""Writer of token corpora in Megatron's memory-mapped form.

The layout is described in `indexed_format.py`.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
import numpy.typing as npt

from megatron.data.index_writer import IndexWriter
from megatron.data.indexed_format import CODE_OF_DTYPE, MAX_SEQUENCE_TOKENS, path_of

_BLOCK_TOKENS = 4 * 1024 * 1024


class IndexedDatasetWriter:
    """Streaming writer of a token corpus; the files appear whole or not at all.

    Everything goes to `PREFIX.bin.partial` first. `finish` syncs the files and renames them, `.bin`
    first and `.idx` last, so wherever an `.idx` is, its `.bin` is complete. As a context manager it
    finishes on success and deletes its partial files on failure. What a killed run leaves, the next
    writer of the same prefix overwrites.

    Args:
        prefix: path without the endings; missing folders are made.
        dtype: integer type of a token, one of the format's table.

    Raises:
        ValueError: if the format has no such integer type.
        OSError: if the files cannot be written or another process is writing them.
    """

    def __init__(self, prefix: str | os.PathLike[str], dtype: npt.DTypeLike) -> None:
        self.prefix = os.fspath(prefix)
        self.dtype = np.dtype(dtype).newbyteorder("<")
        if self.dtype not in CODE_OF_DTYPE or self.dtype.kind not in "iu":
            allowed = [name.name for name in CODE_OF_DTYPE if name.kind in "iu"]
            raise ValueError(f"dtype {self.dtype.name} cannot hold tokens; take one of {allowed}")
        self.num_tokens = 0
        self._digest = hashlib.sha256()
        self._partials = {
            ending: path_of(self.prefix, f"{ending}.partial")
            for ending in ("bin", "meta.json", "idx")
        }
        self._file = _open_exclusively(self._partials["bin"])
        try:
            self._partials["meta.json"].unlink(missing_ok=True)
            with self._failure_told():
                self._index = IndexWriter(self._partials["idx"], self.dtype)
        except OSError:
            self._partials["bin"].unlink(missing_ok=True)
            self._file.close()
            raise

    def add_documents(
        self,
        tokens: npt.NDArray[Any],
        sequence_lengths: npt.ArrayLike,
        sequences_per_document: npt.ArrayLike | None = None,
    ) -> None:
        """Appends documents.

        Args:
            tokens: ids of all documents back to back, 1-D, any integer type.
            sequence_lengths: tokens of each sequence; their sum is the length of `tokens`.
            sequences_per_document: how the sequences group into documents; by default each sequence
                is a document.

        Raises:
            ValueError: if the numbers do not add up or an id does not fit the writer's dtype.
            OSError: if the disk is full or cannot be written.
        """
        lengths = np.asarray(sequence_lengths, dtype=np.int64)
        if len(lengths) and not 0 <= lengths.min() <= lengths.max() <= MAX_SEQUENCE_TOKENS:
            raise ValueError(f"a sequence must have 0 to {MAX_SEQUENCE_TOKENS} tokens")
        if lengths.sum() != len(tokens):
            raise ValueError(f"{len(tokens)} tokens, but the lengths add up to {lengths.sum()}")
        counts = np.ones(len(lengths), dtype=np.int64)
        if sequences_per_document is not None:
            counts = np.asarray(sequences_per_document, dtype=np.int64)
        if counts.sum() != len(lengths) or (len(counts) and counts.min() < 0):
            raise ValueError(f"{len(lengths)} sequences cannot group as {counts.sum()}")
        with self._failure_told():
            self._append(self._cast(tokens))
            self._index.add(lengths, counts)
        self.num_tokens += len(tokens)

    def _cast(self, tokens: npt.NDArray[Any]) -> npt.NDArray[Any]:
        bounds = np.iinfo(self.dtype)
        if len(tokens) and tokens.dtype != self.dtype:
            for token in (tokens.min(), tokens.max()):
                if not bounds.min <= token <= bounds.max:
                    raise ValueError(f"token id {token} does not fit {self.dtype.name}")
        return tokens.astype(self.dtype, copy=False)

    def _append(self, tokens: npt.NDArray[Any]) -> None:
        # In blocks, so that a memory-mapped corpus passes through without being held whole.
        for start in range(0, len(tokens), _BLOCK_TOKENS):
            content = np.ascontiguousarray(tokens[start : start + _BLOCK_TOKENS]).data.cast("B")
            self._digest.update(content)
            self._file.write(content)

    def finish(self, metadata: dict[str, Any] | None = None) -> None:
        """Makes the corpus appear under its name, replacing an older one.

        Args:
            metadata: what the sidecar shall say; counts, dtype and checksums are added. Without it
                there is no sidecar.

        Raises:
            OSError: if the disk is full or cannot be written.
        """
        if not self._file.closed:
            with self._failure_told():
                self._finish(metadata)

    def _finish(self, metadata: dict[str, Any] | None) -> None:
        self._file.flush()
        index_sum = self._index.finish()
        for file in (self._file, self._index):
            os.fsync(file.fileno())
        if metadata is not None:
            facts = metadata | {
                "dtype": self.dtype.name,
                "num_documents": self._index.num_documents,
                "num_sequences": self._index.num_sequences,
                "num_tokens": self.num_tokens,
                "bin_sha256": self._digest.hexdigest(),
                "idx_sha256": index_sum,
            }
            text = json.dumps(facts, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
            _write_synced(self._partials["meta.json"], text.encode())
        # The old index goes first: at no moment does it stand beside the new tokens.
        for ending in ("idx", "meta.json"):
            path_of(self.prefix, ending).unlink(missing_ok=True)
        for ending, partial in self._partials.items():
            if partial.exists():
                partial.replace(path_of(self.prefix, ending))
        _sync_folder(self._partials["bin"].parent)
        self._close()

    @contextmanager
    def _failure_told(self) -> Iterator[None]:
        """Names the corpus where the system only says that, say, no space is left."""
        try:
            yield
        except OSError as error:
            raise OSError(
                f"{self.prefix}: the corpus cannot be written ({error.strerror}); nothing"
                " half-written is left"
            ) from None

    def abort(self) -> None:
        """Deletes the partial files, leaving whatever stood under the prefix before."""
        if not self._file.closed:
            for partial in self._partials.values():
                partial.unlink(missing_ok=True)
            self._close()

    def _close(self) -> None:
        self._index.close()
        # On a full disk closing fails as well, and the error is told already.
        with suppress(OSError):
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self.finish()
        finally:
            self.abort()


def _open_exclusively(path: Path) -> BinaryIO:
    """A file emptied for writing that no other process writes through this function."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab")
    except OSError as error:
        raise OSError(f"{path.parent}: cannot be written to ({error.strerror})") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Between opening and locking, another writer may have renamed the file to its final name.
        if not os.path.samestat(os.fstat(file.fileno()), path.stat()):
            raise BlockingIOError
    except (BlockingIOError, FileNotFoundError):
        file.close()
        raise BlockingIOError(f"{path}: another process is writing this corpus") from None
    file.truncate(0)
    return file


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
