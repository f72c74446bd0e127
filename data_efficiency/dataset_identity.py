"""Which dataset is it? What difficulty indexes, shards and checkpoints must agree on with the dataset at hand."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

_SAME_ROWS = (
    "; one of the two is a view (shuffle, select, filter, ...): if it has the other's rows in their order, take its "
    "flatten_indices()"
)


def describe_dataset(dataset: Any) -> dict[str, Any]:
    """What a dataset says it is: its `identity`, or else its class name, length and `order_of_view`.

    Raises:
        ValueError: if `identity` holds something JSON cannot express, or there is none and no length.
    """
    identity = getattr(dataset, "identity", None)
    if identity is None and not hasattr(dataset, "__len__"):
        raise ValueError(
            f"{type(dataset).__name__} has no length and no places: its samples are those of the Dataset that it is "
            "kept as (its rows in their order), which training takes"
        )
    if identity is None:
        kind = type(dataset).__name__
        return {"type": kind, "num_samples": len(dataset), **order_of_view(dataset)}
    try:
        return json.loads(json.dumps(identity, sort_keys=True))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the identity of {type(dataset).__name__} is not plain JSON data ({error}); "
            "use only dicts with string keys, lists, strings, numbers, booleans and None"
        ) from error


def order_of_view(dataset: Any) -> dict[str, str]:
    """`order` -> SHA-256 of which rows a dataset takes of another, in their order; nothing where it is no view.

    Views are a `datasets.Dataset` after `shuffle`, `select`, `sort`, `filter`, ..., and torch's `Subset`, also of
    another view. One that takes the first rows as they come has the rows of what it was made of.
    """
    rows = _rows_taken(dataset)
    if rows is None or np.array_equal(rows, np.arange(len(rows))):
        return {}
    return {"order": hashlib.sha256(rows.tobytes()).hexdigest()}


def _rows_taken(dataset: Any) -> Any:
    """Which rows a view takes of what all views are made of, int64 [rows]; None where it is no view."""
    classes = {(one.__module__, one.__name__) for one in type(dataset).__mro__}
    if ("torch.utils.data.dataset", "Subset") in classes:
        rows, inner = np.asarray(dataset.indices, "<i8"), _rows_taken(dataset.dataset)
        return rows if inner is None else inner[rows]
    if ("datasets.arrow_dataset", "Dataset") in classes and dataset._indices is not None:
        taken: Any = dataset._indices.column(0).to_numpy()  # an Arrow table of one column
        return np.asarray(taken, "<i8")
    return None


def fingerprint_of(identity: Mapping[str, Any]) -> str:
    """SHA-256 (64 hex digits) of a dataset's identity, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def refuse_other_dataset(result: str, differences: list[str]) -> None:
    """Raise ValueError, naming a result, if its dataset differs from the one at hand."""
    if differences:
        is_reordered = any(one.startswith("order: ") for one in differences)
        raise ValueError(
            f"{result} was made from another dataset ({'; '.join(differences)}); "
            "analyze this dataset or name its own result" + (_SAME_ROWS if is_reordered else "")
        )
