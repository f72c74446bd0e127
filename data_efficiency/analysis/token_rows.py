"""Samples that are rows of tokens, of any dataset: read once, kept in a folder as one run of tokens.

A sample's number is its place in the dataset, or in the stream. The folder serves every metric and every
worker process, memory-mapped, and holds the tokenizer where texts were read.
"""

import hashlib
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_efficiency.analysis.text_tokenizer import TOKENIZER_FILE, TextTokenizer
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

FORMAT = "folder of token rows"
VERSION = 1
TOKEN_COLUMNS = ("input_ids", "tokens")
TEXT_COLUMNS = ("text", "content")
MASK_COLUMN = "attention_mask"
_TOKEN_DTYPE = np.dtype("<u4")
_ROWS_A_BATCH = 1000
_OWN_NAMES = {"IterableDataset": "Dataset"}
"""Class of a stream -> class of what it becomes where it is kept, which is what is trained on."""


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
        self.tokens = np.memmap(self.folder / "tokens.bin", _TOKEN_DTYPE, mode="r")
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
    overwrite: bool = False,
) -> TokenRows:
    """The tokens of a dataset's rows, read in one pass and kept in a folder; those there, if they are the same.

    Args:
        dataset: a `datasets.Dataset`, a streaming one, or anything else whose items are mappings. Where it has an
            `attention_mask`, only its tokens that are attended to count.
        column: holds the tokens or the text of a row. Not given: `input_ids` or `tokens`, else `text` or `content`.
        tokenizer: for texts; see `TextTokenizer`.
        made_from: plain JSON data that says which rows these are. Not given: the fingerprint of a
            `datasets.Dataset`; another dataset's rows cannot be told and are not taken from the folder.
        dataset_class: class of the dataset that will be trained on. Not given: that of this one.

    Raises:
        FileExistsError: if the folder holds rows that are, or may be, others; with `overwrite`, if there are
            results beside it, which were made of them.
        ValueError: if a stream shuffles, no column is known, or one does not hold what it should, naming the row.
    """
    _refuse_shuffling(dataset)
    target = location(folder)
    reads_text = None if tokenizer is None else TextTokenizer(tokenizer)
    if made_from is None and (fingerprint := getattr(dataset, "_fingerprint", None)) is not None:
        made_from = {"fingerprint": fingerprint}
    source = (
        None
        if made_from is None
        else {
            **made_from,
            "column": column,
            "tokenizer": None if reads_text is None else reads_text.fingerprint,
        }
    )
    with file_lock(target.with_name(f".{target.name}.lock"), wait=True):
        if is_result(target):
            if source is not None and _source_of(target, overwrite) == source:
                return TokenRows(target)
            _refuse_other_rows(target, source, overwrite)
        _write(target, dataset, column, reads_text, source, dataset_class)
        remove_leftovers(target)
    return TokenRows(target)


def _refuse_shuffling(dataset: Any) -> None:
    """Raise ValueError if a stream of `datasets` shuffles: its rows have other places where they are kept."""
    part = getattr(dataset, "_ex_iterable", None)
    while part is not None:
        if "Shuffled" in type(part).__name__:
            raise ValueError(
                "the stream shuffles, and a sample's number is its place in the dataset that is trained on: "
                "analyze it before shuffle(), or what it was kept as; training draws in an order of its own"
            )
        part = getattr(part, "ex_iterable", None)


def _source_of(target: Location, overwrite: bool) -> Any:
    """What rows the folder holds; None where that is not known, or they are damaged and replaced anyway."""
    try:
        return TokenRows(target).manifest["made_from"]
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


def _write(
    target: Location,
    dataset: Any,
    column: str | None,
    tokenizer: TextTokenizer | None,
    source: Mapping[str, Any] | None,
    dataset_class: str | None,
) -> None:
    with new_folder(target, overwrite=True) as folder:
        lengths, largest = [0], 0
        with open(folder / "tokens.bin", "wb") as file:
            for row in _rows(dataset, column, tokenizer):
                lengths.append(len(row))
                largest = max(largest, int(row.max(initial=0)))
                file.write(row.astype(_TOKEN_DTYPE).tobytes())
        if not any(lengths):
            raise ValueError("the dataset has not one token to analyze")
        name = dataset_class or type(dataset).__name__
        files = {
            "tokens.bin": file_entry(folder / "tokens.bin"),
            "offsets.npy": write_array(folder / "offsets.npy", np.cumsum(lengths, dtype=np.int64)),
        }
        if tokenizer is not None:
            write_file(folder / TOKENIZER_FILE, tokenizer.json)
            files[TOKENIZER_FILE] = file_entry(folder / TOKENIZER_FILE)
        content = {
            "format": FORMAT,
            "version": VERSION,
            "made_from": source,
            "dataset": {
                "type": _OWN_NAMES.get(name, name),
                "num_samples": len(lengths) - 1,
                **order_of_view(dataset),
            },
            "vocab_size": largest + 1 if tokenizer is None else tokenizer.vocab_size,
            "files": files,
        }
        write_manifest(folder, content)


def _rows(
    dataset: Any, column: str | None, tokenizer: TextTokenizer | None
) -> Iterator[NDArray[np.int64]]:
    """The tokens of each row."""
    place = 0
    name: str | None = None
    for batch in _batches(dataset, _ROWS_A_BATCH):
        name = name or column_of(batch, column)
        nothing = [None] * max(map(len, batch.values()))
        values = list(batch.get(name, nothing))
        masks = batch.get(mask_column_of(batch, name), nothing)
        if values and isinstance(values[0], str):
            if tokenizer is None:
                raise ValueError(
                    f"column {name!r} holds text: name the tokenizer (--tokenizer), a tokenizer.json"
                )
            wrong = [place + i for i, value in enumerate(values) if not isinstance(value, str)]
            if wrong:
                raise ValueError(f"column {name!r} of row {wrong[0]} holds no text")
            yield from tokenizer.encode(values)
        else:
            for number, (value, mask) in enumerate(zip(values, masks, strict=True), start=place):
                yield _checked(value, mask, name, number)
        place += len(values)


def column_of(columns: Iterable[str], column: str | None) -> str:
    """The column that is named, or else the first known one.

    Raises:
        ValueError: if it is not there, or none is known.

    Example:
        >>> column_of(["id", "text"], None)
        'text'
    """
    there = list(columns)
    for name in [*TOKEN_COLUMNS, *TEXT_COLUMNS] if column is None else [column]:
        if name in there:
            return name
    if column is not None:
        raise ValueError(f"there is no column {column!r}: the columns are {', '.join(there)}")
    raise ValueError(
        f"which column holds the tokens or the text? Name it (--column); there are {', '.join(there)}"
    )


def mask_column_of(columns: Container[str], column: str) -> str:
    """The column that says which tokens of another are attended to; it may not be there.

    Example:
        >>> mask_column_of(["input_ids", "attention_mask"], "decoder_input_ids")
        'decoder_attention_mask'
    """
    own = column.replace("input_ids", MASK_COLUMN)
    if own != column:
        return own
    belongs_to_other = column not in TOKEN_COLUMNS and "input_ids" in columns
    return f"{column}_{MASK_COLUMN}" if belongs_to_other else MASK_COLUMN


def _checked(value: Any, mask: Any, column: str, number: int) -> NDArray[np.int64]:
    """A row's tokens as an array, those that are attended to."""
    row = np.asarray(value)
    if row.ndim == 1 and row.size == 0:
        return np.zeros(0, np.int64)
    if row.ndim != 1 or row.dtype.kind not in "iu":
        raise ValueError(
            f"column {column!r} of row {number} is a {type(value).__name__}: must be text, or a list of tokens"
        )
    if row.min() < 0 or row.max() > np.iinfo(_TOKEN_DTYPE).max:
        raise ValueError(
            f"column {column!r} of row {number} holds {row.min()}: no token is negative"
        )
    if mask is None:
        return row.astype(np.int64)
    attended = np.asarray(mask)
    if attended.shape != row.shape:
        raise ValueError(f"{MASK_COLUMN} of row {number} has another length than {column!r}")
    return row[attended != 0].astype(np.int64)


def _batches(dataset: Any, size: int) -> Iterator[Mapping[str, Sequence[Any]]]:
    """Some rows at a time, as column -> values."""
    if hasattr(dataset, "iter"):
        yield from dataset.iter(batch_size=size)
        return
    items = (
        iter(dataset)
        if hasattr(dataset, "__iter__")
        else map(dataset.__getitem__, range(len(dataset)))
    )
    while rows := list(islice(items, size)):
        if not isinstance(rows[0], Mapping):
            raise ValueError(
                f"the items of a {type(dataset).__name__} are of type {type(rows[0]).__name__}: they must be "
                'mappings such as {"text": ...} or {"input_ids": ...}'
            )
        names = dict.fromkeys(name for row in rows for name in row)
        yield {name: [row.get(name) for row in rows] for name in names}
