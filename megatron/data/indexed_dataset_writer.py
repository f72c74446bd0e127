"""Writer of token corpora in Megatron's memory-mapped form.

`data_efficiency/files/mmididx.py` describes the files.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from data_efficiency import files
from data_efficiency.files import mmididx
from data_efficiency.files.indexed_dataset import READY, path_of

ENDINGS = ("bin", "meta.json", "idx")
"""Of the files of a corpus."""
_NO_METADATA = "null\n"
"""Content of the sidecar of a corpus that has none, until its files have their names."""
_BLOCK_TOKENS = 4 * 1024 * 1024


def dtype_for_vocabulary(vocab_size: int) -> np.dtype[Any]:
    """uint16 where the vocabulary has fewer than 65,500 entries, else int32 (Megatron's rule).

    >>> dtype_for_vocabulary(50257)
    dtype('uint16')
    """
    return np.dtype("uint16" if vocab_size < 65500 else "int32")


class IndexedDatasetWriter:
    """Streaming writer of a token corpus; the files appear complete or not at all.

    Everything goes to `PREFIX.bin.partial` and the like first. `finish` syncs the files and makes them
    the corpus by one rename, `PREFIX.idx.partial` to `PREFIX.idx.new`: from then on readers take the new
    files, wherever they are, and an older corpus's until then. The other renames follow, `.idx` last, so
    wherever an `.idx` is, its `.bin` is complete. As a context manager it finishes on success and deletes
    its partial files on failure. What a killed writer leaves, the next one of the same prefix finishes
    or overwrites.

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
        allowed = [name for name in mmididx.MEGATRON_CODES if "int" in name]
        if self.dtype.name not in allowed:
            raise ValueError(f"dtype {self.dtype.name} cannot hold tokens; take one of {allowed}")
        self.num_tokens = 0
        self._digest = hashlib.sha256()
        self._partials = {ending: path_of(self.prefix, f"{ending}.partial") for ending in ENDINGS}
        with ExitStack() as resources:
            self._lock(resources)
            with self._failure_told():
                _rename_ready(self.prefix)
                self._file = resources.enter_context(self._partials["bin"].open("wb"))
                code = mmididx.MEGATRON_CODES[self.dtype.name]
                self._index = mmididx.IndexWriter(self._partials["idx"], code, self.dtype.itemsize)
            self._resources = resources.pop_all()

    def _lock(self, resources: ExitStack) -> None:
        file = path_of(self.prefix, "lock")
        try:
            resources.enter_context(files.file_lock(file.with_name(f".{file.name}")))
        except BlockingIOError:
            raise
        except OSError as error:
            raise OSError(f"{file.parent}: cannot be written to ({error.strerror})") from None

    def add_documents(
        self,
        tokens: npt.NDArray[Any],
        sequence_lengths: npt.ArrayLike,
        sequences_per_document: npt.ArrayLike | None = None,
    ) -> None:
        """Append documents.

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
        if len(lengths) and not 0 <= lengths.min() <= lengths.max() <= mmididx.MAX_ROW_LENGTH:
            raise ValueError(f"a sequence must have 0 to {mmididx.MAX_ROW_LENGTH} tokens")
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
        """Make the corpus appear under its name, replacing an older one.

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
        text = _NO_METADATA
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
        self._partials["meta.json"].write_bytes(text.encode())
        for partial in self._partials.values():
            files.sync_to_disk(partial)
        self._partials["idx"].replace(path_of(self.prefix, READY))
        files.sync_to_disk(self._partials["idx"].parent)
        _rename_ready(self.prefix)
        self._close()

    @contextmanager
    def _failure_told(self) -> Iterator[None]:
        """Name the corpus where the system only says that, say, no space is left."""
        try:
            yield
        except OSError as error:
            if path_of(self.prefix, READY).exists():
                what = "the corpus is whole, but its files cannot be renamed ({}): make it again"
            else:
                what = "the corpus cannot be written ({}); nothing half-written is left"
            raise OSError(f"{self.prefix}: {what.format(error.strerror)}") from None

    def abort(self) -> None:
        """Delete the partial files, leaving whatever stood under the prefix before."""
        if not self._file.closed:
            if not path_of(self.prefix, READY).exists():
                for partial in self._partials.values():
                    with suppress(OSError):
                        partial.unlink()
            self._close()

    def _close(self) -> None:
        self._index.close()
        # On a full disk closing fails as well, and the error is told already.
        with suppress(OSError):
            self._resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        try:
            if kind is None:
                self.finish()
        finally:
            self.abort()


def _rename_ready(prefix: str | os.PathLike[str]) -> None:
    """Give the files of a corpus that wait for it their names."""
    ready = path_of(prefix, READY)
    if not ready.exists():
        return
    # The old index goes first: at no moment does it stand beside the new tokens.
    path_of(prefix, "idx").unlink(missing_ok=True)
    for ending in ("bin", "meta.json"):
        with suppress(FileNotFoundError):
            path_of(prefix, f"{ending}.partial").replace(path_of(prefix, ending))
    sidecar = path_of(prefix, "meta.json")
    ready.replace(path_of(prefix, "idx"))
    files.sync_to_disk(ready.parent)
    # Left behind, it says as much as none.
    with suppress(OSError):
        if sidecar.read_bytes() == _NO_METADATA.encode():
            sidecar.unlink()
