"""Lines of a log as columns for the page: thinned out, with the extremes kept, and smoothed.

A run of a hundred thousand logged steps and one of fifty cost the page about the same.

A worked example: of losses 5, 1, 9, 4, 4, 4 no more than 4 rows are taken. The first and the last stay;
between them lie the smallest and the largest, so that the peak of 9 is seen.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_ROWS = 600
"""Of a run that the page draws."""
SMOOTHED_PART = 1 / 20
"""Of a run's logged steps that a smoothed loss is the mean of, backwards from its place."""
AXES = ("step", "corpus_tokens", "effective_tokens", "flops", "seconds")
TRAIN_FIELDS = (
    "loss",
    "learning_rate",
    "grad_norm",
    "sequence_length",
    "kept_length",
    "actual_seq_length",
    "pool_size",
    "tokens_per_second",
    "flops_per_second",
)

Columns = dict[str, list[float | None]]
Records = Sequence[Mapping[str, Any]]


def column(records: Records, name: str) -> list[float | None]:
    """A field of every line; None where it is missing or no finite number.

    Example:
        >>> column([{"loss": 2}, {"loss": None}, {}, {"loss": "x"}, {"loss": True}], "loss")
        [2, None, None, None, None]
    """
    return [_number(record.get(name)) for record in records]


def _number(value: Any) -> float | None:
    return value if is_number(value) else None


def is_number(value: Any) -> bool:
    """Whether it is a finite number of 64 bits, as a picture can show it.

    Example:
        >>> [is_number(value) for value in (1, 2.5, float("nan"), 10**30, True, "1", None)]
        [True, True, False, False, False, False, False]
    """
    return type(value) in (int, float) and -(2**63) <= value < 2**63


def train_columns(records: Records, most: int = MOST_ROWS) -> Columns:
    """Axes, fields, difficulties and the smoothed loss of the lines of kind "train", thinned out.

    Difficulties are `difficulty/NAME`. A column without a number is left out.
    """
    metrics = dict.fromkeys(name for record in records for name in _difficulties(record))
    found: Columns = {name: column(records, name) for name in (*AXES, *TRAIN_FIELDS)}
    for name in metrics:
        found[f"difficulty/{name}"] = column([*map(_difficulties, records)], name)
    found["smoothed_loss"] = smoothed(found["loss"])
    rows = thinned(found["loss"], most)
    return {
        name: [values[row] for row in rows]
        for name, values in found.items()
        if any(value is not None for value in values)
    }


def _difficulties(record: Mapping[str, Any]) -> Mapping[str, Any]:
    found = record.get("difficulties")
    return found if isinstance(found, Mapping) else {}


def valid_columns(records: Records, fields: Sequence[str], most: int = MOST_ROWS) -> Columns:
    """Axes and `value`, the first of the fields that a line of kind "valid" has; lines without one are left out."""
    values = [
        next((value for name in fields if (value := _number(record.get(name))) is not None), None)
        for record in records
    ]
    kept = [row for row, value in enumerate(values) if value is not None]
    kept = [kept[row] for row in thinned([values[row] for row in kept], most)]
    found = {name: column([records[row] for row in kept], name) for name in AXES}
    return {**found, "value": [values[row] for row in kept]}


def thinned(values: Sequence[float | None], most: int) -> list[int]:
    """Rows to draw, rising, at most `most` >= 4: the first, the last, and extremes of even stretches between them.

    Example:
        >>> thinned([5, 1, 9, 4, 4, 4], 4)
        [0, 1, 2, 5]
    """
    if len(values) <= most:
        return list(range(len(values)))
    numbers = np.array([math.nan if value is None else value for value in values], float)
    kept = {0, len(values) - 1}
    for stretch in np.array_split(np.arange(1, len(values) - 1), (most - 2) // 2):
        own = numbers[stretch]
        known = stretch[np.isfinite(own)]
        if len(known):
            kept |= {int(known[numbers[known].argmin()]), int(known[numbers[known].argmax()])}
        else:
            kept.add(int(stretch[0]))
    return sorted(kept)


def smoothed(values: Sequence[float | None]) -> list[float | None]:
    """Each value's mean with those just before it, missing ones left out; None where all are missing.

    Example:
        >>> smoothed([4.0, None, 2.0])
        [4.0, None, 2.0]
    """
    length = max(1, round(SMOOTHED_PART * len(values)))
    numbers = np.array([0.0 if value is None else value for value in values], float)
    known = np.array([value is not None for value in values], float)
    sums, counts = _trailing_sums(numbers, length), _trailing_sums(known, length)
    return [
        float(total / count) if count and value is not None else None
        for total, count, value in zip(sums, counts, values, strict=True)
    ]


def _trailing_sums(numbers: NDArray[np.float64], length: int) -> NDArray[np.float64]:
    """Each number and the `length` - 1 before it, as far as there are so many."""
    totals = np.concatenate([[0.0], np.cumsum(numbers)])
    ends = np.arange(1, len(totals))
    return totals[ends] - totals[np.maximum(0, ends - length)]
