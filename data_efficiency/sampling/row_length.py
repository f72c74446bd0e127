"""How long the rows of a dataset are, where they all are equally long."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from data_efficiency.config import DataEfficiencyConfig
from data_efficiency.json_section import ConfigError
from data_efficiency.token_names import TOKEN_NAMES

_PROBES = 16


def closed_by_rows(config: DataEfficiencyConfig, dataset: Any) -> DataEfficiencyConfig:
    """The configuration with the length of the dataset's rows where it goes up to that.

    Raises:
        ConfigError: if the rows have no one length.
    """
    return config.with_length(row_length(dataset)) if config.needs_length else config


def row_length(dataset: Any) -> int:
    """Tokens of a row: the dataset's `sequence_length`, or those of rows all over it.

    Raises:
        ConfigError: if these are not tokens, or not equally long.

    Example:
        >>> row_length([{"input_ids": [1, 2, 3]}, {"input_ids": [4, 5, 6]}])
        3
    """
    known = getattr(dataset, "sequence_length", None)
    if isinstance(known, int):
        return known
    places = np.unique(np.linspace(0, len(dataset) - 1, _PROBES).astype(int)).tolist()
    lengths = {_length_of(dataset[place]) for place in places} if len(dataset) else set()
    length = max((one for one in lengths if one is not None), default=None)
    if length is None or len(lengths) > 1:
        found = "no tokens" if length is None else "different lengths"
        raise ConfigError(
            f"the rows of the {type(dataset).__name__} have {found}: say up to which length a schedule goes "
            '(end=, in the JSON file max_difficulty and max_value) instead of "auto"'
        )
    return length


def _length_of(item: Any) -> int | None:
    """Tokens of an item; None where nothing tells."""
    if isinstance(item, Mapping):
        tokens = next((item[name] for name in TOKEN_NAMES if name in item), None)
    elif isinstance(item, (tuple, list)) and item and hasattr(item[0], "shape"):
        tokens = item[0]
    else:
        tokens = item if getattr(item, "ndim", 0) == 1 else None
    shape = getattr(tokens, "shape", None)
    if shape is not None:
        return int(shape[0]) if len(shape) else None
    return None if tokens is None else len(tokens)
