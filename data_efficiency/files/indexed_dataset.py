"""Reader of token corpora in Megatron's memory-mapped form.

`mmididx.py` describes the files. A sidecar `PREFIX.meta.json`, which this project writes and no reader
needs, says where the tokens come from.
"""

import hashlib
import os
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import numpy.typing as npt

from data_efficiency.files import mmididx
from data_efficiency.files.reading import read_json_file, read_json_object
from data_efficiency.files.remote import Location, Place, RemoteNumbers, RemotePath, location

DTYPE_OF_CODE = {
    code: np.dtype(name).newbyteorder("<") for name, code in mmididx.MEGATRON_CODES.items()
}
READY = "idx.new"
"""Ending of the index of a corpus whose files wait to be renamed, all complete."""
NUM_HASHED_BLOCKS = 64
HASHED_BLOCK_BYTES = 64 * 1024
_CHECKED_BYTES = 256 * 1024 * 1024
_READ_BYTES = 16 * 1024 * 1024


def path_of(prefix: str | os.PathLike[str], ending: str) -> Path:
    """Path of one of the files of a corpus on this machine; `ending` is "bin", "idx" or "meta.json".

    Raises:
        ValueError: for a URL: a corpus is read there, but not written.
    """
    path = _place_of(prefix, ending)
    if isinstance(path, RemotePath):
        raise ValueError(
            f"{path}: a corpus is written on a disk: make it there, and copy its files"
        )
    return path


def _place_of(prefix: Place, ending: str) -> Location:
    return location(f"{prefix!s}.{ending}")


def readable_path(prefix: Place, ending: str) -> Location:
    """Where one of the files of a corpus is to be read.

    That is under its own name, but for a corpus whose writer was killed among its last renames.
    """
    if _place_of(prefix, READY).exists():
        waiting = _place_of(prefix, READY if ending == "idx" else f"{ending}.partial")
        if waiting.exists():
            return waiting
    return _place_of(prefix, ending)


class IndexedDataset:
    """Memory-mapped reader of a token corpus. Opening reads the header and a few entries only.

    Args:
        prefix: path or URL of the corpus without `.bin` and `.idx`.

    Attributes:
        dtype: type of a token.
        num_tokens, num_documents: totals; `len()` is the number of sequences.
        tokens: all tokens, 1-D, memory-mapped read-only; of a URL `RemoteNumbers`, of which slices are read.
        sequence_lengths: tokens of each sequence, int32 [N].
        byte_offsets: where each sequence starts in `.bin`, in bytes, int64 [N].
        document_index: first sequence of each document, int64 [documents + 1], last entry N.

    Raises:
        FileNotFoundError: if one of the two files is missing.
        ValueError: if the files are truncated, foreign or do not belong together.
    """

    def __init__(self, prefix: Place) -> None:
        self.prefix = str(prefix)
        for path in (self._path("bin"), self._path("idx")):
            if not path.is_file():
                raise FileNotFoundError(
                    f"{path}: no such file; a corpus is PREFIX.bin and PREFIX.idx, and its path is"
                    " given as the PREFIX alone"
                )
        self._open_index(self._path("idx"))
        self._open_tokens(self._path("bin"))

    def _path(self, ending: str) -> Location:
        return readable_path(self.prefix, ending)

    def _open_index(self, path: Location) -> None:
        self._index = mmididx.read_index(
            path, remedy="make it with Megatron's preprocess_data.py, or this project's"
        )
        _, code, self.sequence_lengths, self.byte_offsets, self.document_index = self._index
        if code not in DTYPE_OF_CODE:
            raise ValueError(f"{path}: unknown dtype code {code}, Megatron's are 1 to 8")
        self.dtype = DTYPE_OF_CODE[code]
        if self.dtype.kind == "f":
            raise ValueError(
                f"{path}: dtype code {code} is {self.dtype.name} in Megatron's table, but token ids are whole "
                f"numbers; DeepSpeed's writer uses that code for {mmididx.deepspeed_types(code)}, so this is "
                "one of its index files, or no corpus of tokens"
            )
        self.num_documents = len(self.document_index) - 1
        ends = self.document_index[[0, -1]].tolist() if len(self.document_index) else None
        if ends != [0, len(self)]:
            raise ValueError(
                f"{path}: the document index must run from 0 to {len(self)}, not {ends}"
            )

    def _open_tokens(self, path: Location) -> None:
        content = (
            cast("npt.NDArray[np.uint8]", RemoteNumbers(path, np.dtype(np.uint8)))
            if isinstance(path, RemotePath)
            else mmididx.map_bytes(path)
        )
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

    def _explain_size(self, path: Location, num_bytes: int) -> str:
        num_tokens = int(self.sequence_lengths.sum(dtype=np.int64))
        code = self._index.code
        other = mmididx.type_of_size(mmididx.deepspeed_types(code), num_tokens, num_bytes)
        if other and num_tokens:
            return (
                f"{path}: {num_bytes // num_tokens} bytes a token, but dtype code {code} is"
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
        return np.asarray(self.tokens[start : start + int(self.sequence_lengths[index])])

    def __reduce__(self) -> tuple[type[Self], tuple[str]]:
        return type(self), (self.prefix,)

    def offsets_of(self, sequences: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Place of the first token of each of some sequences in `tokens`, int64, in their shape.

        Args:
            sequences: integers from 0 to `len()`; the last stands for the end of all tokens.

        Raises:
            ValueError: if the index names what is not there.
        """
        self._refuse_outside(sequences, len(self))
        offsets = np.full(np.shape(sequences), self.num_tokens, np.int64)
        is_sequence = sequences < len(self)
        offsets[is_sequence] = self.byte_offsets[sequences[is_sequence]] // self.dtype.itemsize
        self._refuse_outside(offsets, self.num_tokens)
        return offsets

    def _refuse_outside(self, places: npt.NDArray[np.int64], end: int) -> None:
        if np.size(places) and not 0 <= np.min(places) <= np.max(places) <= end:
            raise ValueError(f"{self._path('idx')} names what is not there: it is damaged")

    @property
    def metadata(self) -> dict[str, Any] | None:
        """Content of the sidecar `PREFIX.meta.json`, or None where there is none."""
        path = self._path("meta.json")
        try:
            content = read_json_file(path)
            if content is None:
                return None
            facts = read_json_object(path)
            if type(facts.get("vocab_size", 0)) is not int:
                raise ValueError(f"{path}: vocab_size is {facts['vocab_size']!r}: must be a number")
            return facts
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise ValueError(f"{error}; delete or remake it") from None

    def content_hash(self) -> str:
        """SHA-256 of the index, the size of `.bin` and 64 evenly spaced blocks of 64 KiB of it.

        Costs milliseconds at any size of `.bin`, and sees every change of a document's length. A token
        changed between the blocks is seen where the sidecar holds a checksum of a `.bin` up to 256 MiB,
        which is read whole here; in a larger one by `preprocess_data.py --verify`.

        Raises:
            ValueError: if the sidecar says another checksum.
        """
        digest = hashlib.sha256(mmididx.map_bytes(self._path("idx")).data)
        num_bytes, content = self.tokens.nbytes, self.tokens.view(np.uint8)
        sums = {"idx": digest.hexdigest()}
        if num_bytes <= _CHECKED_BYTES:
            sums["bin"] = hashlib.sha256(np.asarray(content).data).hexdigest()
        metadata = self.metadata or {}
        for ending, found in sums.items():
            if metadata.get(f"{ending}_sha256", found) != found:
                raise ValueError(
                    f"{self._path(ending)} was changed after it was written: {self._path('meta.json')} says "
                    "another SHA-256; make the corpus again, or delete the .meta.json if the change is meant"
                )
        digest.update(num_bytes.to_bytes(8, "little"))
        if num_bytes <= NUM_HASHED_BLOCKS * HASHED_BLOCK_BYTES:
            digest.update(np.asarray(content).data)
        else:
            last = num_bytes - HASHED_BLOCK_BYTES
            for number in range(NUM_HASHED_BLOCKS):
                start = number * last // (NUM_HASHED_BLOCKS - 1)
                digest.update(np.asarray(content[start : start + HASHED_BLOCK_BYTES]).data)
        return digest.hexdigest()

    def verify(self, vocab_size: int | None = None) -> None:
        """Raise ValueError unless all offsets, the document index and all token ids are sound; reads all."""
        self._index.verify(self.dtype.itemsize)
        if vocab_size is not None:
            self._verify_tokens(vocab_size)

    def _verify_tokens(self, vocab_size: int) -> None:
        for start in range(0, self.num_tokens, _READ_BYTES):
            block = np.asarray(self.tokens[start : start + _READ_BYTES])
            low, high = block.min(), block.max()
            if low < 0 or high >= vocab_size:
                raise ValueError(
                    f"{self._path('bin')}: token id {low if low < 0 else high} is outside the"
                    f" vocabulary of {vocab_size}"
                )
