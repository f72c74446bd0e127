"""Tokens of rows in parts, each made by one worker: how a part is kept, and how the parts become one run of tokens.

A part holds rows in the order in which they were read, cut into segments, such as the files they come from. It
appears with its marker, or not at all.
"""

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_efficiency.analysis.row_tokens import TOKEN_DTYPE
from data_efficiency.files import new_file, read_json_object, reading, write_file
from data_efficiency.files.remote import Location, RemotePath
from data_efficiency.files.result_folder import sha256_of_file

VERSION = 1
_ROWS_AT_ONCE = 4096


class Block(NamedTuple):
    """Some rows: their tokens one after the other, and how many each has, int64."""

    tokens: NDArray[Any]
    lengths: NDArray[np.int64]


class Stretch(NamedTuple):
    """Rows first..last-1 of a part."""

    part: str
    first: int
    last: int


@dataclass
class OpenPart:
    """A part while it is written."""

    file: IO[bytes]
    lengths: list[int] = field(default_factory=list)
    segments: list[tuple[str, int]] = field(default_factory=list)
    """Names, and rows of each, in the order of reading."""

    def add(self, row: NDArray[Any], segment: str = "") -> None:
        """Append a row's tokens."""
        self.file.write(row.astype(TOKEN_DTYPE).tobytes())
        self.lengths.append(len(row))
        if not self.segments or self.segments[-1][0] != segment:
            self.segments.append((segment, 0))
        self.segments[-1] = (segment, self.segments[-1][1] + 1)


@dataclass(frozen=True)
class TokenParts:
    """The parts in one folder.

    Args:
        origin: plain JSON data that the rows depend on, the same for all parts.
    """

    path: Location
    origin: Mapping[str, Any]

    @contextmanager
    def new_part(self, name: str) -> Iterator[OpenPart]:
        """A part that is there, instead of an older one, if the block ends without error."""
        (self.path / f"{name}.json").unlink(missing_ok=True)
        with new_file(self.path / f"{name}.tokens.bin", sync=False) as tokens:
            with open(tokens, "wb") as file:
                part = OpenPart(file)
                yield part
            checksum = sha256_of_file(tokens)
        with new_file(self.path / f"{name}.lengths.npy", sync=False) as lengths:
            np.save(lengths, np.array(part.lengths, np.int64), allow_pickle=False)
            lengths_checksum = sha256_of_file(lengths)
        marker = {
            "version": VERSION,
            "origin": self.origin,
            "num_rows": len(part.lengths),
            "segments": part.segments,
            "sha256": [checksum, lengths_checksum],
        }
        write_file(self.path / f"{name}.json", json.dumps(marker, sort_keys=True), sync=False)

    def names(self) -> list[str]:
        """The parts that are there, of whatever origin."""
        return sorted(file.name.removesuffix(".json") for file in self.path.glob("*.json"))

    def marker(self, name: str) -> dict[str, Any] | None:
        """What a part's marker says; None where there is no such part of this origin."""
        try:
            marker = read_json_object(self.path / f"{name}.json")
        except (FileNotFoundError, ValueError):
            return None
        wanted = (VERSION, json.loads(json.dumps(self.origin)))
        return marker if (marker.get("version"), marker.get("origin")) == wanted else None

    def blocks(self, stretches: Iterable[Stretch]) -> Iterator[Block]:
        """The rows of some stretches, some at a time.

        Raises:
            FileNotFoundError, ValueError: if a part is missing, or is not the one of its marker.
        """
        opened: dict[str, tuple[Block, NDArray[np.int64]]] = {}
        with tempfile.TemporaryDirectory() as folder:
            for part, first, last in stretches:
                if part not in opened:
                    rows = self._open(part, Path(folder))
                    opened[part] = rows, np.append(0, np.cumsum(rows.lengths))
                (tokens, lengths), offsets = opened[part]
                for begin in range(first, last, _ROWS_AT_ONCE):
                    end = min(begin + _ROWS_AT_ONCE, last)
                    yield Block(tokens[offsets[begin] : offsets[end]], lengths[begin:end])

    def remove_all(self) -> None:
        """Remove every part."""
        if isinstance(self.path, RemotePath):
            self.path.remove_all()
            return
        for file in self.path.glob("*"):
            file.unlink()
        if self.path.exists():
            self.path.rmdir()

    def _open(self, name: str, folder: Path) -> Block:
        """A part's rows, memory-mapped."""
        marker = self.marker(name)
        if marker is None:
            raise FileNotFoundError(f"{self.path / name}.json: there is no such part of these rows")
        files = []
        for ending, wanted in zip(("tokens.bin", "lengths.npy"), marker["sha256"], strict=True):
            file = self.path / f"{name}.{ending}"
            if isinstance(file, RemotePath):
                file.fetch(folder / file.name)
                file = folder / file.name
            if sha256_of_file(file) != wanted:
                raise ValueError(
                    f"{file} was changed after it was written: remove it, and run again"
                )
            files.append(file)
        with reading(files[1]):
            lengths = np.load(files[1], allow_pickle=False)
        if not lengths.sum():
            return Block(np.empty(0, TOKEN_DTYPE), lengths)
        return Block(np.memmap(files[0], TOKEN_DTYPE, mode="r"), lengths)
