"""Difficulties that other programs computed: from `.npy`, Parquet and JSON lines, and whole folders.

JSON lines may be attribute files as dolma writes them (`{"id": ..., "attributes": {"name": [[start,
end, score], ...]}}`), documents as datatrove writes them (`{"text": ..., "metadata": {"name": score}}`),
or any other object a line.
"""

import gzip
import json
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from data_efficiency.files import reading

JSON_ENDINGS = (".jsonl", ".json", ".jsonl.gz", ".json.gz")
ENDINGS = (".npy", ".parquet", *JSON_ENDINGS)


def read_scores(paths: Sequence[str | PathLike[str]], field: str | None = None) -> np.ndarray:
    """The scores in some files one after the other, int64 or float64 [N].

    Args:
        paths: files, and folders of files, read in the order of their names as dolma and datatrove
            number them.
        field: where a record's score is: a column of a Parquet file, or keys of a JSON object joined
            by dots, such as `metadata.score` or `attributes.quality`. `.npy` files need none.

    Raises:
        FileNotFoundError: if a path is missing or a folder has no file of a known kind.
        ValueError: naming the file and line where there is no number.
        ModuleNotFoundError: if a Parquet file is to be read and pyarrow is not installed.
    """
    parts = []
    for path in _files(paths):
        if path.suffix == ".npy":
            with reading(path):
                scores = np.load(path, allow_pickle=False)
        elif field is None:
            raise ValueError(f"{path}: name the field that holds the score")
        elif path.suffix == ".parquet":
            scores = _parquet_column(path, field)
        else:
            scores = np.array(list(_json_scores(path, field)))
        if scores.ndim != 1 or (scores.size and scores.dtype.kind not in "iuf"):
            raise ValueError(
                f"{path} has shape {scores.shape} and dtype {scores.dtype}: one number for each "
                "record is needed, [N]"
            )
        bad = np.flatnonzero(~np.isfinite(scores))
        if len(bad):
            raise ValueError(f"{path}: score {bad[0]} is {scores[bad[0]]}: must be finite")
        if scores.size:
            parts.append(scores)
    if not parts:
        raise ValueError(f"there is not one score in {', '.join(map(str, paths))}")
    return np.concatenate(parts)


def mean_over_samples(
    document_scores: np.ndarray,
    document_offsets: np.ndarray,
    starts: np.ndarray,
    lengths: np.ndarray,
) -> np.ndarray:
    """The mean score of each sample's tokens, a token's score being its document's, float64 [B].

    Args:
        document_scores: one for each document, [D].
        document_offsets: place of each document's first token and of the end, growing, [D + 1].
        starts: place of each sample's first token, [B].
        lengths: tokens of each sample, >= 1, [B].

    Example:
        >>> mean_over_samples(np.array([1, 5]), np.array([0, 3, 9]), np.array([0, 2]), np.array([3, 4]))
        array([1., 4.])
    """
    tokens = np.diff(document_offsets)
    has_tokens = tokens > 0
    scores, tokens = np.asarray(document_scores)[has_tokens], tokens[has_tokens]
    places = np.append(document_offsets[:-1][has_tokens], document_offsets[-1])
    # Scores around zero: their sum over a long corpus must not eat up the digits of one sample's.
    center = float(np.average(scores, weights=tokens))
    total = np.concatenate([[0.0], np.cumsum((scores - center) * tokens)])
    # The sum over all tokens before a place grows linearly within a document.
    before = np.interp(np.stack([starts, starts + lengths]), places, total)
    return center + (before[1] - before[0]) / lengths


def _files(paths: Sequence[str | PathLike[str]]) -> Iterator[Path]:
    """The files that are meant, folders replaced by what is in them."""
    for path in map(Path, paths):
        if path.is_dir():
            found = sorted(file for file in path.rglob("*") if file.name.endswith(ENDINGS))
            if not found:
                raise FileNotFoundError(f"{path} has no file that ends with {', '.join(ENDINGS)}")
            yield from found
        elif not path.is_file():
            raise FileNotFoundError(f"{path}: no such file or folder")
        elif not path.name.endswith(ENDINGS):
            raise ValueError(f"{path}: must end with {', '.join(ENDINGS)}")
        else:
            yield path


def _parquet_column(path: Path, field: str) -> np.ndarray:
    """One column of a Parquet file; dots reach into nested columns."""
    try:
        from pyarrow import parquet  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Parquet files need pyarrow: pip install 'data-efficiency[parquet]'"
        ) from error
    with parquet.ParquetFile(path) as file:
        names = [file.schema.column(place).path for place in range(len(file.schema))]
        if field not in names:
            raise ValueError(f"{path} has no column {field}; it has {', '.join(names)}")
        table = file.read(columns=[field])
    name, column = table.column_names[0], table.column(0).combine_chunks()
    # Names may have dots themselves; of a struct only what leads to the field was read.
    rest = field.removeprefix(name).removeprefix(".")
    while rest:
        if not hasattr(column, "field"):
            raise ValueError(
                f"{path}: column {field} has lists: one number for each record is needed"
            )
        name, column = column.type[0].name, column.field(0)
        rest = rest.removeprefix(name).removeprefix(".")
    if column.null_count:
        place = column.is_null().index(True).as_py()
        raise ValueError(f"{path}: column {field} has no value in row {place}")
    return column.to_numpy(zero_copy_only=False)


def _json_scores(path: Path, field: str) -> Iterator[int | float]:
    """The score of each line of a file."""
    keys = field.split(".")
    with (
        reading(path),
        gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as file,
    ):
        for number, line in enumerate(file, start=1):
            try:
                yield _score(json.loads(line), keys)
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise ValueError(
                    f"{path}, line {number}: no number at {field} ({type(error).__name__}: {error})"
                ) from error


def _score(record: Any, keys: Sequence[str]) -> int | float:
    """The number that keys lead to; of dolma's spans the mean, each weighted with its length."""
    for place in range(len(keys)):
        # Names of dolma's attributes may have dots themselves.
        rest = ".".join(keys[place:])
        if rest in record:
            record = record[rest]
            break
        record = record[keys[place]]
    if isinstance(record, list):
        spans = np.array(record, dtype=np.float64)
        if spans.ndim != 2 or spans.shape[1] != 3 or len(spans) == 0:
            raise ValueError(f"{record!r} is no list of [start, end, score]")
        lengths = spans[:, 1] - spans[:, 0]
        # Spans of no length: an empty document, which has a score nevertheless.
        return float(np.average(spans[:, 2], weights=lengths if lengths.any() else None))
    if isinstance(record, bool) or not isinstance(record, int | float):
        raise TypeError(f"{record!r}")
    return record
