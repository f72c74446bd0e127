"""How long the rows of a dataset are, where they all are equally long."""

from collections.abc import Mapping
from numbers import Integral
from typing import Any

import numpy as np

from data_efficiency.config import DataEfficiencyConfig
from data_efficiency.json_section import ConfigError
from data_efficiency.sampling.bucketed_rows import with_buckets_of
from data_efficiency.token_names import EMBEDDING_NAMES, TOKEN_NAMES

_PROBES = 16
_ROWS_AT_ONCE = 10_000


def closed_by_rows(config: DataEfficiencyConfig, dataset: Any) -> DataEfficiencyConfig:
    """The configuration with the length of the dataset's rows where it goes up to that, its buckets and end of texts.

    Raises:
        ConfigError: if the rows have no one length, or buckets or an end of texts that the configuration does not agree with.
    """
    config = with_buckets_of(config, dataset)
    if config.needs_length:
        config = config.with_length(row_length(dataset))
    return config.with_end_token(getattr(dataset, "end_of_text", None))


def row_length(dataset: Any) -> int:
    """Tokens of a row: the dataset's `sequence_length`, the longest of its `part_lengths`, or those of its rows.

    All rows are looked at where that costs little, in lists and columns of a `datasets.Dataset`; else some, all over it.

    Raises:
        ConfigError: if these are not tokens, or not equally long.

    Example:
        >>> row_length([{"input_ids": [1, 2, 3]}, {"input_ids": [4, 5, 6]}])
        3
    """
    known = getattr(dataset, "sequence_length", None)
    if isinstance(known, Integral):
        return int(known)
    if getattr(dataset, "part_lengths", None) is not None:
        return max(dataset.part_lengths)
    if not len(dataset):
        raise ConfigError("the dataset is empty: it has no rows, whose length something goes up to")
    lengths = _lengths_of_column(dataset)
    if lengths is None:
        places = np.unique(np.linspace(0, len(dataset) - 1, _PROBES).astype(int)).tolist()
        items = dataset if isinstance(dataset, list) else (dataset[place] for place in places)
        lengths = {_length_of(item) for item in items}
    length = max((one for one in lengths if one is not None), default=None)
    if length is None or len(lengths) > 1:
        found = "no tokens" if length is None else "different lengths"
        raise ConfigError(
            f"the rows of the {type(dataset).__name__} have {found}: say up to which length a schedule goes "
            '(end=, in the JSON file max_difficulty and max_value) instead of "auto", and points of a mix by at_samples'
        )
    return length


def _lengths_of_column(dataset: Any) -> set[int | None] | None:
    """The lengths that rows of a `datasets.Dataset` have; None where it is another, or makes its items itself."""
    shape = getattr(dataset, "format", None)
    if not isinstance(shape, Mapping) or shape.get("type") == "custom":
        return None
    name = next((name for name in TOKEN_NAMES if name in shape.get("columns", ())), None)
    if name is None or not hasattr(dataset, "with_format"):
        return None
    # Rows of a view are gathered one by one: the whole table tells sooner, where it has one length.
    lengths = _value_lengths(dataset.data.column(name).chunks)
    if lengths is None or len(lengths) == 1:
        return lengths
    chosen: set[int | None] = set()
    rows = dataset.with_format("arrow").select_columns(name)
    for table in rows.iter(batch_size=_ROWS_AT_ONCE):
        chosen |= _value_lengths(table.column(0).chunks) or set()
        if len(chosen) > 1:
            break
    return chosen


def _value_lengths(chunks: Any) -> set[int | None] | None:
    """The lengths of the lists of numbers in Arrow arrays; None where they hold something else."""
    if not all(
        hasattr(chunk, "value_lengths") and not hasattr(chunk.values, "value_lengths")
        for chunk in chunks
    ):
        return None
    return {length for chunk in chunks for length in chunk.value_lengths().unique().to_pylist()}


def _length_of(item: Any) -> int | None:
    """Tokens of an item; None where nothing tells."""
    if isinstance(item, Mapping):
        name = next((name for name in TOKEN_NAMES if name in item), None)
        shape = () if name is None else _shape(item[name])
        # Numbers of tokens end with the sequence, [(choices,) sequence], embeddings with one axis more.
        axis = len(shape) - 1 - (name in EMBEDDING_NAMES)
        return shape[axis] if axis >= 0 else None
    is_tuple = isinstance(item, (tuple, list)) and item and hasattr(item[0], "shape")
    tokens = item[0] if is_tuple else item
    # Of what has no name only a row of numbers is one of tokens: pictures have axes, too.
    return int(tokens.shape[0]) if getattr(tokens, "ndim", 0) == 1 else None


def _shape(value: Any) -> tuple[int, ...]:
    """The sizes of an array, or of lists in lists as the first ones tell them."""
    shape = getattr(value, "shape", None)
    if shape is not None:
        return tuple(map(int, shape))
    sizes: tuple[int, ...] = ()
    while isinstance(value, (list, tuple)):
        sizes = (*sizes, len(value))
        value = value[0] if value else None
    return sizes
