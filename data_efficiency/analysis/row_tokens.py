"""The tokens of a dataset's rows: of a column that holds tokens, or of one that holds texts."""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_efficiency.analysis.text_tokenizer import TextTokenizer

TOKEN_DTYPE = np.dtype("<u4")
"""Of the tokens where they are kept."""
TOKEN_COLUMNS = ("input_ids", "tokens")
TEXT_COLUMNS = ("text", "content")
MASK_COLUMN = "attention_mask"
_ROWS_A_BATCH = 1000


def rows_of(
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


def column_read(dataset: Any, column: str | None) -> str | None:
    """The column that `rows_of` reads of a dataset: its first rows decide; None of a dataset without rows."""
    first = next(_batches(dataset, _ROWS_A_BATCH), None)
    return column if first is None else column_of(first, column)


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
    largest = np.iinfo(TOKEN_DTYPE).max
    if row.min() < 0 or row.max() > largest:
        wrong = row.min() if row.min() < 0 else row.max()
        raise ValueError(
            f"column {column!r} of row {number} holds {wrong}: tokens are numbers from 0 to {largest}"
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
