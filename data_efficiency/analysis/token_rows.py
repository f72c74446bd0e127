"""Samples that are rows of tokens, of any dataset: read once, kept in a folder as one run of tokens.

A sample's number is its place in the dataset, or in the stream. The folder serves every metric and every
worker process, memory-mapped, and holds the tokenizer where texts were read.
"""

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_efficiency.analysis.executors import (
    Counts,
    Executor,
    TaskError,
    refuse_unseen_work,
    sigterm_as_interrupt,
)
from data_efficiency.analysis.row_tokens import TOKEN_DTYPE, column_read, rows_of
from data_efficiency.analysis.streams import TRAINED_AS, refuse_shuffling, shards_of
from data_efficiency.analysis.text_tokenizer import TOKENIZER_FILE, TextTokenizer
from data_efficiency.analysis.token_parts import Block, Stretch, TokenParts
from data_efficiency.dataset_identity import order_of_view
from data_efficiency.files import file_lock, write_file
from data_efficiency.files.local_copy import local_result
from data_efficiency.files.remote import Location, Place, location
from data_efficiency.files.result_folder import (
    MANIFEST_FILE,
    file_entry,
    is_result,
    new_folder,
    read_manifest,
    remove_leftovers,
    verify_checksums,
    write_array,
    write_manifest,
)
from data_efficiency.progress import Progress

logger = logging.getLogger(__name__)

FORMAT = "folder of token rows"
VERSION = 1


class TokenRows:
    """The rows of a folder that `token_rows` has written; those of a URL in a copy on this machine.

    Attributes:
        tokens: all tokens, 1-D, memory-mapped read-only.
        offsets: where each row starts in them, and the end, int64 [N + 1].
        vocab_size: of the tokenizer, or else one more than the largest token.
        sequence_length: tokens of the longest row.
        content_checksum: SHA-256 (64 hex digits) of tokens and offsets.
        identity: as `describe_dataset` gives it for the dataset that was read.
        tokenizer: that of the texts; None where the dataset had tokens.

    Raises:
        FileNotFoundError, ValueError: if the folder is something else, incomplete or damaged.
    """

    def __init__(self, folder: Place) -> None:
        self._source = location(folder)
        self.folder = local_result(self._source)
        self.manifest = read_manifest(self.folder, FORMAT, VERSION)
        self.tokens = np.memmap(self.folder / "tokens.bin", TOKEN_DTYPE, mode="r")
        self.offsets = np.load(self.folder / "offsets.npy", mmap_mode="r", allow_pickle=False)
        self.vocab_size = int(self.manifest["vocab_size"])
        self.sequence_length = int(np.diff(self.offsets).max())
        files = [self.manifest["files"][name]["sha256"] for name in ("tokens.bin", "offsets.npy")]
        self.content_checksum = hashlib.sha256("".join(files).encode()).hexdigest()
        self.identity: Mapping[str, Any] = self.manifest["dataset"]
        file = self.folder / TOKENIZER_FILE
        self.tokenizer = TextTokenizer(file) if file.is_file() else None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __reduce__(self) -> tuple[type["TokenRows"], tuple[Location]]:
        return type(self), (self._source,)

    def token_spans(
        self, first: int, last: int
    ) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[np.int64]]:
        """Samples first..last-1: their tokens, where each starts in these, and how long each is."""
        edges = np.asarray(self.offsets[first : last + 1])
        return self.tokens[edges[0] : edges[-1]], edges[:-1] - edges[0], np.diff(edges)

    def verify(self) -> None:
        """Raise ValueError, naming it, if a file was changed."""
        verify_checksums(self.folder, self.manifest)


def token_rows(
    dataset: Any,
    folder: Place,
    *,
    column: str | None = None,
    tokenizer: Any = None,
    made_from: Mapping[str, Any] | None = None,
    dataset_class: str | None = None,
    executor: Executor | None = None,
    overwrite: bool = False,
) -> TokenRows:
    """The tokens of a dataset's rows, read in one pass and kept in a folder; those there, if they are the same.

    The shards of a stream, such as its files, are read at once by an executor, where they are the stream one after the
    other; the bytes are those of one reader, and what was finished before a stop is used again if `made_from` says which
    rows these are.

    Args:
        dataset: a `datasets.Dataset`, a streaming one, or anything else whose items are mappings. Where it has an
            `attention_mask`, only its tokens that are attended to count.
        column: holds the tokens or the text of a row. Not given: `input_ids` or `tokens`, else `text` or `content`.
        tokenizer: for texts; see `TextTokenizer`.
        made_from: plain JSON data that says which rows these are. Not given: the fingerprint of a
            `datasets.Dataset`; another dataset's rows cannot be told and are not taken from the folder.
        dataset_class: class of the dataset that will be trained on. Not given: that of this one.
        executor: reads a stream's shards. Not given: this process reads them one after the other.

    Raises:
        FileExistsError: if the folder holds rows that are, or may be, others; with `overwrite`, if there are
            results beside it, which were made of them.
        ValueError: if a stream shuffles, no column is known, or one does not hold what it should, naming the row.
    """
    refuse_shuffling(dataset)
    target = location(folder)
    reads_text = None if tokenizer is None else TextTokenizer(tokenizer)
    if made_from is None and (fingerprint := getattr(dataset, "_fingerprint", None)) is not None:
        made_from = {"fingerprint": fingerprint}
    source: dict[str, Any] | None = None
    if made_from is not None:
        fingerprint = None if reads_text is None else reads_text.fingerprint
        source = {**made_from, "column": column, "tokenizer": fingerprint}

    def write() -> None:
        shards = [dataset] if executor is None else shards_of(dataset)
        facts = _Facts(dataset_class or type(dataset).__name__, order_of_view(dataset), source)
        if executor is None or len(shards) == 1:
            rows = rows_of(dataset, column, reads_text)
            blocks = (Block(row, np.array([len(row)])) for row in rows)
            _write(target, blocks, reads_text, facts)
            return
        parts = parts_beside(target, source)
        task = _ShardTask(parts, shards, column_read(dataset, column), reads_text)
        task.run(executor, is_resumed=source is not None)
        _write(target, task.blocks(), reads_text, facts)
        task.parts.remove_all()

    return _kept(target, source, overwrite, write)


def join_parts(
    parts: TokenParts,
    stretches: Iterable[Stretch],
    folder: Place,
    *,
    tokenizer: TextTokenizer | None,
    made_from: Mapping[str, Any],
    overwrite: bool = False,
) -> TokenRows:
    """The rows of parts that workers made, one after the other, kept in a folder as those of a `Dataset`; those there, if
    they are the same.

    Raises:
        FileExistsError, FileNotFoundError, ValueError: as `token_rows`, and as `TokenParts.blocks`.
    """
    target, facts = location(folder), _Facts("Dataset", {}, made_from)
    return _kept(
        *(target, made_from, overwrite),
        lambda: _write(target, parts.blocks(stretches), tokenizer, facts),
    )


def _kept(
    target: Location,
    source: Mapping[str, Any] | None,
    overwrite: bool,
    write: Callable[[], None],
) -> TokenRows:
    """The rows of a folder, written by one process unless they are there.

    Args:
        source: which rows these are; None: that cannot be told.
    """
    with file_lock(target.with_name(f".{target.name}.lock"), wait=True):
        if is_result(target):
            if source is not None and _source_of(target, overwrite) == source:
                return TokenRows(target)
            _refuse_other_rows(target, source, overwrite)
        write()
        remove_leftovers(target)
    return TokenRows(target)


def parts_beside(target: Location, origin: Mapping[str, Any] | None) -> TokenParts:
    """The parts that become the folder of a name."""
    return TokenParts(target.with_name(f"{target.name}.parts"), {} if origin is None else origin)


@dataclass(frozen=True)
class _ShardTask:
    """A task for executors: keeps the tokens of one shard of a stream as a part."""

    parts: TokenParts
    shards: list[Any]
    column: str | None
    tokenizer: TextTokenizer | None

    def run(self, executor: Executor, *, is_resumed: bool) -> None:
        """Keep every shard's tokens, but for those that are there if the work is resumed."""
        refuse_unseen_work(executor, self.parts.path)
        if not is_resumed:
            self.parts.remove_all()
        self.parts.path.mkdir(parents=True, exist_ok=True)
        missing = [i for i in range(len(self.shards)) if self.parts.marker(_name(i)) is None]
        num_finished = len(self.shards) - len(missing)
        try:
            with (
                sigterm_as_interrupt(),
                Progress("tokens", len(self.shards), unit="shards", say=logger.info) as progress,
            ):
                for rows in executor.run(self, missing):
                    num_finished += rows[0]
                    progress.update(num_finished)
        except TaskError as error:
            raise ValueError(f"shard {error.item} of the stream: {error.cause}") from error

    def __call__(self, shard: int) -> Iterator[Counts]:
        """One, when a shard is kept."""
        with self.parts.new_part(_name(shard)) as part:
            for row in rows_of(self.shards[shard], self.column, self.tokenizer):
                part.add(row)
        yield (1,)

    def blocks(self) -> Iterator[Block]:
        """The rows of all shards, in order."""
        markers = {
            name: self.parts.marker(name) or {} for name in map(_name, range(len(self.shards)))
        }
        return self.parts.blocks(
            Stretch(name, 0, marker.get("num_rows", 1)) for name, marker in markers.items()
        )


def _name(shard: int) -> str:
    return f"{shard:06d}"


def _source_of(target: Location, overwrite: bool) -> Any:
    """What rows the folder holds; None where that is not known, or they are damaged and replaced anyway."""
    try:
        rows = TokenRows(target)
        rows.verify()
        return rows.manifest["made_from"]
    except (ValueError, OSError):
        if overwrite:
            return None
        raise


def _refuse_other_rows(target: Location, source: Mapping[str, Any] | None, overwrite: bool) -> None:
    """Raise FileExistsError unless the rows of the folder may be replaced: nothing else is made of them."""
    results = sorted(
        file.parent.name
        for file in target.parent.glob(f"*/{MANIFEST_FILE}")
        if file.parent != target
    )
    if overwrite and not results:
        return
    what = "may be" if source is None or _source_of(target, overwrite) is None else "are"
    remedy = (
        f"{', '.join(results)} beside it were made of them: remove {target.parent}, or save elsewhere"
        if overwrite
        else "save elsewhere, overwrite them, or open them as TokenRows if they are meant"
    )
    raise FileExistsError(
        f"{target} holds tokens that {what} of another dataset, column or tokenizer: {remedy}"
    )


@dataclass(frozen=True)
class _Facts:
    """What the manifest says of the dataset."""

    dataset_class: str
    order: Mapping[str, str]
    source: Mapping[str, Any] | None


def _write(
    target: Location, blocks: Iterable[Block], tokenizer: TextTokenizer | None, facts: _Facts
) -> None:
    with new_folder(target, overwrite=True) as folder:
        lengths, largest = [np.zeros(1, np.int64)], 0
        with open(folder / "tokens.bin", "wb") as file:
            for block in blocks:
                lengths.append(block.lengths)
                largest = max(largest, int(block.tokens.max(initial=0)))
                file.write(block.tokens.astype(TOKEN_DTYPE).tobytes())
        offsets = np.cumsum(np.concatenate(lengths), dtype=np.int64)
        if not offsets[-1]:
            raise ValueError("the dataset has not one token to analyze")
        files = {
            "tokens.bin": file_entry(folder / "tokens.bin"),
            "offsets.npy": write_array(folder / "offsets.npy", offsets),
        }
        if tokenizer is not None:
            write_file(folder / TOKENIZER_FILE, tokenizer.json)
            files[TOKENIZER_FILE] = file_entry(folder / TOKENIZER_FILE)
        content = {
            "format": FORMAT,
            "version": VERSION,
            "made_from": facts.source,
            "dataset": {
                "type": TRAINED_AS.get(facts.dataset_class, facts.dataset_class),
                "num_samples": len(offsets) - 1,
                **facts.order,
            },
            "vocab_size": largest + 1 if tokenizer is None else tokenizer.vocab_size,
            "files": files,
        }
        write_manifest(folder, content)
