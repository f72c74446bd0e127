"""Documents from JSON-lines, text and Parquet files, read as a stream of blocks.

A block is a run of whole lines or rows (or one whole text file): small enough to hand to another
process, and cut the same way however many processes there are.
"""

import json
import os
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import zstandard

from megatron.corpus.parquet_rows import read_texts

TEXT_ENDINGS = (".txt", ".text", ".md", ".rst")
# In a folder, a ".json" is more likely a manifest or a tokenizer; it is read when given by name.
SEARCHED_ENDINGS = (".jsonl", ".ndjson", ".parquet", *TEXT_ENDINGS)
EXPLICIT_ENDINGS = (*SEARCHED_ENDINGS, ".json")
COMPRESSED_ENDINGS = (".gz", ".zst")
STANDARD_INPUT = Path("-")
BLOCK_BYTES = 512 * 1024
_READ_BYTES = 64 * 1024
# A few bytes of a repetitive file give megabytes, which must not all come at once.
_COMPRESSED_READ_BYTES = 1024


@dataclass(frozen=True)
class SourceFile:
    """One input file.

    `num_bytes` is its size on disk, compressed where it is; 0 where it cannot be known, of a pipe.
    """

    path: Path
    is_text: bool
    num_bytes: int

    @property
    def is_table(self) -> bool:
        """Whether it is a Parquet file."""
        return _ending(self.path) == ".parquet"


@dataclass(frozen=True)
class Block:
    """Whole lines of one JSON-lines file, or one whole text file, decompressed; or rows of a table.

    Attributes:
        path: the file.
        is_text: whether `content` is one document and not JSON lines.
        first_line: number of the first line, from 1; of the first row, from 0.
        content: the bytes; nothing for a table.
        num_bytes_done: bytes on disk read up to here, over all files.
        rows: the values under the keys, of each row of a table; None for another file.
    """

    path: Path
    is_text: bool
    first_line: int
    content: bytes
    num_bytes_done: int
    rows: Sequence[tuple[Any, ...]] | None = None


class _CountingReader:
    """A file, or a pipe that cannot tell its position, and how much of it was read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.num_bytes = 0

    def read(self, num_bytes: int) -> bytes:
        data = self._file.read(num_bytes)
        self.num_bytes += len(data)
        return data


def find_sources(
    inputs: Sequence[str | os.PathLike[str]], *, with_standard_input: bool = False
) -> tuple[list[SourceFile], list[Path]]:
    """Input files in a fixed order, and the files of folders that were left out.

    Args:
        inputs: files, and folders that are searched through all levels for the known endings;
            hidden files and `.json` are left out.
        with_standard_input: whether "-" means standard input, JSON lines, which can be read once.

    Raises:
        FileNotFoundError: if an input does not exist.
        ValueError: if a file's ending is unknown, a file comes twice or a folder has none.
    """
    sources: dict[Path, SourceFile] = {}
    skipped: list[Path] = []
    for path in map(Path, inputs):
        if path == STANDARD_INPUT and with_standard_input:
            if path in sources:
                raise ValueError("-: standard input was given twice among the inputs")
            sources[path] = SourceFile(path, is_text=False, num_bytes=0)
            continue
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
        # A Parquet file is compressed inside.
        if not name.endswith(".parquet" + compression):
            name = name.removesuffix(compression)
    return os.path.splitext(name)[1]


def _known_endings() -> str:
    names = ", ".join(ending for ending in EXPLICIT_ENDINGS if ending != ".parquet")
    return f"{names}, each also with {' or '.join(COMPRESSED_ENDINGS)}; and .parquet"


def read_blocks(sources: Sequence[SourceFile], keys: Sequence[str] = ()) -> Iterator[Block]:
    """Blocks of all files in order; holds one block in memory, or one text file.

    Args:
        keys: columns to read of a table; the same must be asked of `texts_of`.

    Raises:
        ValueError: if a compressed file or a table is damaged or cut short, or lacks a column.
        OSError: if a file cannot be read.
        ModuleNotFoundError: if pyarrow is needed and not installed.
    """
    num_bytes_before = 0
    for source in sources:
        try:
            if source.is_table:
                yield from _table_blocks(source, keys, num_bytes_before)
                num_bytes_before += source.num_bytes
                continue
            with _opened(source.path) as file:
                for first_line, content in _cut(_decompressed(file, source.path), source.is_text):
                    done = num_bytes_before + file.num_bytes
                    yield Block(source.path, source.is_text, first_line, content, done)
                num_bytes_before += file.num_bytes
        except OSError as error:
            raise OSError(f"{source.path}: cannot be read ({error.strerror})") from None


@contextmanager
def _opened(path: Path) -> Iterator[_CountingReader]:
    if path == STANDARD_INPUT:
        yield _CountingReader(sys.stdin.buffer)
        return
    with path.open("rb") as file:
        yield _CountingReader(file)


def _table_blocks(
    source: SourceFile, keys: Sequence[str], num_bytes_before: int
) -> Iterator[Block]:
    first_row, held, num_held = 0, list[tuple[Any, ...]](), 0
    for rows, share in read_texts(source.path, keys):
        held += rows
        num_held += sum(len(value or "") for row in rows for value in row)
        if num_held >= BLOCK_BYTES or share == 1:
            done = num_bytes_before + int(share * source.num_bytes)
            yield Block(source.path, False, first_row, b"", done, held)
            first_row, held, num_held = first_row + len(held), [], 0


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


def _decompressed(file: _CountingReader, path: Path) -> Iterator[bytes]:
    """Content of an open file in pieces; gzip members and zstd frames follow each other freely."""
    compression = path.suffix.lower()
    if compression not in COMPRESSED_ENDINGS:
        while data := file.read(_READ_BYTES):
            yield data
        return
    decompressor: Any = None
    has_begun = False
    try:
        while data := file.read(_COMPRESSED_READ_BYTES):
            # Padding with zeros after the last member is legal.
            while data := data.lstrip(b"\0") if decompressor is None else data:
                decompressor = decompressor or _new_decompressor(compression)
                has_begun = True
                yield decompressor.decompress(data)
                data = decompressor.unused_data if decompressor.eof else b""
                decompressor = None if decompressor.eof else decompressor
    except (zlib.error, zstandard.ZstdError) as error:
        raise ValueError(f"{path}: damaged {compression} data ({error})") from None
    if decompressor is not None or not has_begun:
        raise ValueError(f"{path}: the {compression} data are cut short")


def _new_decompressor(compression: str) -> Any:
    """One of zlib or zstandard, for one member or frame; both tell `eof` and `unused_data`."""
    if compression == ".gz":
        return zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    # Up to 2 GiB of window: `zstd --long=31` and `--ultra` write what is refused by default.
    return zstandard.ZstdDecompressor(max_window_size=2**31).decompressobj()


def texts_of(block: Block, keys: Sequence[str]) -> list[tuple[str, ...]]:
    """The texts under `keys` of each record of a block; a text file is one record of one key.

    Blank lines between records are passed over. An unpaired surrogate, which no UTF-8 text can
    hold, becomes U+FFFD.

    Raises:
        ValueError: with file and line, if a line is not UTF-8, not JSON, not an object, or a key
            is missing or not a string; with file and row (from 0), if a table has no value there.
    """
    if block.rows is not None:
        return [
            _strings(row, f"{block.path}, row {number}", keys)
            for number, row in enumerate(block.rows, start=block.first_line)
        ]
    if block.is_text:
        return [(_decode(block.content, str(block.path)),)]
    records = []
    for where, record in records_of(block):
        for key in keys:
            if key not in record:
                raise ValueError(f"{where}: no key {key!r}; the line has {sorted(record)}")
        records.append(_strings(tuple(record[key] for key in keys), where, keys))
    return records


def records_of(block: Block) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where each line of JSON stands, as "file:line", and its object; blank lines are passed over.

    Raises:
        ValueError: with file and line, if one is not UTF-8, not JSON or not an object.
    """
    may_have_surrogates = b"\\ud" in block.content.lower()
    for number, line in enumerate(block.content.split(b"\n"), start=block.first_line):
        if not line.strip():
            continue
        where = f"{block.path}:{number}"
        try:
            record = _parse(_decode(line, where), may_have_surrogates)
        except json.JSONDecodeError as error:
            problem = f"{error.msg}, column {error.colno}"
            raise ValueError(f"{where}: not valid JSON ({problem})") from None
        except RecursionError:
            raise ValueError(f"{where}: lists or objects in more levels than can be read") from None
        if not isinstance(record, dict):
            raise ValueError(f"{where}: a JSON object was expected, not {type(record).__name__}")
        yield where, record


def _decode(content: bytes, where: str) -> str:
    try:
        return content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: not UTF-8 (byte {error.start})") from None


def _parse(text: str, may_have_surrogates: bool) -> Any:
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        raise
    except ValueError:
        # An integer of more digits than Python reads; no text depends on it.
        value = json.loads(text, parse_int=float)
    if may_have_surrogates:
        text = json.dumps(value, ensure_ascii=False)
        value = json.loads(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    return value


def _strings(values: tuple[Any, ...], where: str, keys: Sequence[str]) -> tuple[str, ...]:
    for key, value in zip(keys, values, strict=True):
        if not isinstance(value, str):
            kind = type(value).__name__
            raise ValueError(f"{where}: the value of {key!r} must be a string, not {kind}")
    return values
