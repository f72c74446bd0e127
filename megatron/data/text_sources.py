"""Documents from JSON-lines and text files, plain or compressed, read as a stream of blocks.

A block is a run of whole lines (or one whole text file): small enough to hand to another process,
and cut the same way however many processes there are.
"""

import json
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import zstandard

TEXT_ENDINGS = (".txt", ".text", ".md", ".rst")
# In a folder, a ".json" is more likely a manifest or a tokenizer; it is read when given by name.
SEARCHED_ENDINGS = (".jsonl", ".ndjson", *TEXT_ENDINGS)
EXPLICIT_ENDINGS = (*SEARCHED_ENDINGS, ".json")
COMPRESSED_ENDINGS = (".gz", ".zst")
BLOCK_BYTES = 512 * 1024
_READ_BYTES = 64 * 1024


@dataclass(frozen=True)
class SourceFile:
    """One input file; `num_bytes` is its size on disk, compressed where it is."""

    path: Path
    is_text: bool
    num_bytes: int


@dataclass(frozen=True)
class Block:
    """Whole lines of one JSON-lines file, or one whole text file, decompressed.

    Attributes:
        path: the file.
        is_text: whether `content` is one document and not JSON lines.
        first_line: number of the first line, from 1.
        content: the bytes.
        num_bytes_done: bytes on disk read up to here, over all files.
    """

    path: Path
    is_text: bool
    first_line: int
    content: bytes
    num_bytes_done: int


class _Decompressor(Protocol):
    """What zlib's and zstandard's decompressors of one member or frame have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


def find_sources(inputs: Sequence[str | os.PathLike[str]]) -> tuple[list[SourceFile], list[Path]]:
    """Input files in a fixed order, and the files of folders that were left out.

    Args:
        inputs: files, and folders that are searched through all levels for the known endings;
            hidden files and `.json` are left out.

    Raises:
        FileNotFoundError: if an input does not exist.
        ValueError: if a file's ending is unknown, a file comes twice or a folder has none.
    """
    sources: dict[Path, SourceFile] = {}
    skipped: list[Path] = []
    for path in map(Path, inputs):
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such input file or folder")
        candidates = _files_below(path) if path.is_dir() else [path]
        num_before = len(sources)
        for file in candidates:
            ending = _ending(file)
            if ending in (SEARCHED_ENDINGS if path.is_dir() else EXPLICIT_ENDINGS):
                if file.resolve() in sources:
                    raise ValueError(f"{file}: given twice among the inputs")
                size = file.stat().st_size
                sources[file.resolve()] = SourceFile(file, ending in TEXT_ENDINGS, size)
            elif path.is_dir():
                skipped.append(file)
            else:
                raise ValueError(f"{file}: unknown ending; known are {_known_endings()}")
        if len(sources) == num_before:
            raise ValueError(f"{path}: no file with a known ending in it ({_known_endings()})")
    return list(sources.values()), skipped


def _files_below(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(p.startswith(".") for p in path.relative_to(folder).parts)
    )


def _ending(path: Path) -> str:
    """The ending that names the form, below a compression's: ".jsonl" of "a.jsonl.gz"."""
    name = path.name.lower()
    for compression in COMPRESSED_ENDINGS:
        name = name.removesuffix(compression)
    return os.path.splitext(name)[1]


def _known_endings() -> str:
    names = ", ".join(EXPLICIT_ENDINGS)
    return f"{names}, each also with {' or '.join(COMPRESSED_ENDINGS)}"


def read_blocks(sources: Sequence[SourceFile]) -> Iterator[Block]:
    """Blocks of all files in order; holds one block in memory, or one text file.

    Raises:
        ValueError: if a compressed file is damaged or cut short.
        OSError: if a file cannot be read.
    """
    num_bytes_before = 0
    for source in sources:
        try:
            with source.path.open("rb") as file:
                for first_line, content in _cut(_decompressed(file, source.path), source.is_text):
                    done = num_bytes_before + file.tell()
                    yield Block(source.path, source.is_text, first_line, content, done)
        except OSError as error:
            raise OSError(f"{source.path}: cannot be read ({error.strerror})") from None
        num_bytes_before += source.num_bytes


def _cut(pieces: Iterator[bytes], is_text: bool) -> Iterator[tuple[int, bytes]]:
    """(number of the first line, whole lines) of about BLOCK_BYTES, or everything for a text."""
    first_line, held, num_held = 1, [], 0
    for piece in pieces:
        held.append(piece)
        num_held += len(piece)
        if is_text or num_held < BLOCK_BYTES or b"\n" not in piece:
            continue
        block, _, rest = b"".join(held).rpartition(b"\n")
        yield first_line, block
        first_line += block.count(b"\n") + 1
        held, num_held = [rest], len(rest)
    if num_held:
        yield first_line, b"".join(held)


def _decompressed(file: BinaryIO, path: Path) -> Iterator[bytes]:
    """Content of an open file in pieces; gzip members and zstd frames follow each other freely."""
    compression = path.suffix.lower()
    if compression not in COMPRESSED_ENDINGS:
        while data := file.read(_READ_BYTES):
            yield data
        return
    decompressor: _Decompressor | None = None
    try:
        while data := file.read(_READ_BYTES):
            # Padding with zeros after the last member is legal.
            while data := data.lstrip(b"\0") if decompressor is None else data:
                decompressor = decompressor or _new_decompressor(compression)
                yield decompressor.decompress(data)
                data = decompressor.unused_data if decompressor.eof else b""
                decompressor = None if decompressor.eof else decompressor
    except (zlib.error, zstandard.ZstdError) as error:
        raise ValueError(f"{path}: damaged {compression} data ({error})") from None
    if decompressor is not None:
        raise ValueError(f"{path}: the {compression} data are cut short")


def _new_decompressor(compression: str) -> _Decompressor:
    if compression == ".gz":
        return zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    return zstandard.ZstdDecompressor().decompressobj()


def texts_of(block: Block, keys: Sequence[str]) -> list[tuple[str, ...]]:
    """The texts under `keys` of each record of a block; a text file is one record of one key.

    Blank lines between records are passed over. An unpaired surrogate, which no UTF-8 text can
    hold, becomes U+FFFD.

    Raises:
        ValueError: with file and line, if a line is not UTF-8, not JSON, not an object, or a key
            is missing or not a string.
    """
    if block.is_text:
        return [(_decode(block.content, str(block.path)),)]
    records = []
    may_have_surrogates = b"\\ud" in block.content.lower()
    for number, line in enumerate(block.content.split(b"\n"), start=block.first_line):
        if not line.strip():
            continue
        texts = _texts_of_line(line, f"{block.path}:{number}", keys)
        if may_have_surrogates:
            texts = tuple(
                text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for text in texts
            )
        records.append(texts)
    return records


def _decode(content: bytes, where: str) -> str:
    try:
        return content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: not UTF-8 (byte {error.start})") from None


def _texts_of_line(line: bytes, where: str, keys: Sequence[str]) -> tuple[str, ...]:
    try:
        record = json.loads(_decode(line, where))
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not valid JSON ({error.msg}, column {error.colno})") from None
    if not isinstance(record, dict):
        raise ValueError(f"{where}: a JSON object was expected, not {type(record).__name__}")
    for key in keys:
        if key not in record:
            raise ValueError(f"{where}: no key {key!r}; the line has {sorted(record)}")
        if not isinstance(record[key], str):
            kind = type(record[key]).__name__
            raise ValueError(f"{where}: the value of {key!r} must be a string, not {kind}")
    return tuple(record[key] for key in keys)
