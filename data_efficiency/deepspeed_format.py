"""DeepSpeed's difficulty index files, read and written byte by byte.

For each metric a folder with four pairs of `.bin` and `.idx`, each a list of rows of integers:

    <metric>_sample_to_metric                    a row a sample: its difficulty
    <metric>_index_to_sample                     a row a distinct difficulty, growing: its samples
    <metric>_index_to_metric                     a row a distinct difficulty: the difficulty
    <metric>_index_to_sample_percentile_merged   the second, several rows to one

`files/mmididx.py` describes the two files.
"""

import os
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from data_efficiency.difficulty_index import DifficultyIndex
from data_efficiency.files import reading
from data_efficiency.files.mmididx import (
    DEEPSPEED_CODES,
    MAX_ROW_LENGTH,
    OLD_DEEPSPEED_CODES,
    IndexWriter,
    deepspeed_types,
    map_bytes,
    read_index,
    type_of_size,
)
from data_efficiency.files.result_folder import new_folder, sha256_of_file

Generation = Literal["current", "legacy"]
CODES: dict[Generation, dict[str, int]] = {
    "current": DEEPSPEED_CODES,
    "legacy": OLD_DEEPSPEED_CODES,
}
"""Code of each integer type: from DeepSpeed 0.13.3 on, and before."""


class Rows(NamedTuple):
    """Rows of integers: `numbers` of all rows back to back [T], and how many each has, int32 [N]."""

    numbers: np.ndarray
    lengths: np.ndarray


def read_rows(prefix: str | os.PathLike[str]) -> Rows:
    """The rows in `<prefix>.bin` and `<prefix>.idx`, memory-mapped, of either generation.

    Raises:
        FileNotFoundError: if one of the two files is missing.
        ValueError: if they are foreign, truncated or do not belong together.
    """
    index_file, number_file = Path(f"{prefix}.idx"), Path(f"{prefix}.bin")
    for file in (index_file, number_file):
        if not file.is_file():
            raise FileNotFoundError(f"{file}: no such file; give the folder of DeepSpeed's files")
    index = read_index(index_file, remedy="give the folder of DeepSpeed's files")
    if not len(index.lengths):
        raise ValueError(f"{number_file} has no rows: an index has at least one sample")
    dtype = _dtype_in(number_file, index.code, int(index.lengths.sum(dtype=np.int64)))
    index.verify(dtype.itemsize)
    return Rows(map_bytes(number_file).view(dtype), index.lengths)


def _dtype_in(number_file: Path, code: int, num_numbers: int) -> np.dtype:
    """Type of the numbers in a file: what its code means where the size of the file fits."""
    num_bytes = number_file.stat().st_size
    if num_numbers == 0:
        raise ValueError(f"{number_file} has no numbers: an index has at least one sample")
    name = type_of_size(deepspeed_types(code), num_numbers, num_bytes)
    if name is not None:
        return np.dtype(name).newbyteorder("<")
    raise ValueError(
        f"{number_file} has {num_bytes} bytes for {num_numbers} numbers, which fits no integer type "
        f"of code {code} ({', '.join(deepspeed_types(code)) or 'unknown'}): truncated, or no index file"
    )


def write_rows(
    prefix: str | os.PathLike[str],
    rows: Rows,
    *,
    is_merged: bool = False,
    generation: Generation = "current",
) -> None:
    """Write `<prefix>.bin` and `<prefix>.idx`.

    Args:
        rows: at least one; the type of the numbers is the type in the file.
        is_merged: whether DeepSpeed makes this file by merging another (one entry more).
        generation: table of type codes: of DeepSpeed since 0.13.3, or before ("legacy").

    Raises:
        ValueError: if the type has no code, or a row is too long for the format.
    """
    numbers, lengths = rows
    code = CODES[generation].get(numbers.dtype.name)
    if code is None:
        raise ValueError(
            f"DeepSpeed's index files hold integers, not {numbers.dtype}: compute the metric as an "
            "integer, for example multiplied by 1000 and rounded"
        )
    if int(lengths.max()) > MAX_ROW_LENGTH:
        raise ValueError(
            f"{int(lengths.max())} samples have the same difficulty; a row of DeepSpeed's format "
            f"has at most {MAX_ROW_LENGTH}"
        )
    little_endian = numbers.dtype.newbyteorder("<")
    with open(f"{prefix}.bin", "wb") as file:
        numbers.astype(little_endian, copy=False).tofile(file)
    index = IndexWriter(Path(f"{prefix}.idx"), code, little_endian.itemsize)
    try:
        index.add(lengths, [len(lengths), 0] if is_merged else [len(lengths)])
        index.finish()
    finally:
        index.close()


def export_index(
    index: DifficultyIndex, folder: str | os.PathLike[str], *, generation: Generation = "current"
) -> Path:
    """The new directory `folder` with the eight files DeepSpeed's analyzer would have written.

    Sample numbers are those of the index. DeepSpeed's JSON names the files without ending:
    `"index_to_sample_path": "<folder>/<metric>_index_to_sample"`.

    Raises:
        ValueError: if the difficulties are no integers.
        FileExistsError: if `folder` is taken.

    Source: DeepSpeed's DataAnalyzer, run with one worker and one thread: the same bytes.
    """
    in_order = index.values[index.order]
    starts = np.concatenate([[0], np.flatnonzero(in_order[1:] != in_order[:-1]) + 1])
    num_values = len(starts)
    # DeepSpeed joins this many distinct values, not this share of the samples.
    merged_starts = starts[:: max(1, num_values // 100)]
    one_each = np.ones(index.num_samples, np.int32)
    with new_folder(folder) as temporary:

        def write(kind: str, numbers: np.ndarray, lengths: np.ndarray, is_merged: bool) -> None:
            rows = Rows(numbers, lengths)
            prefix = temporary / f"{index.metric}_{kind}"
            write_rows(prefix, rows, is_merged=is_merged, generation=generation)

        write("sample_to_metric", index.values, one_each, True)
        write("index_to_metric", in_order[starts], one_each[:num_values], True)
        lengths, merged = (np.diff(x, append=index.num_samples) for x in (starts, merged_starts))
        write("index_to_sample", index.order, lengths, True)
        write("index_to_sample_percentile_merged", index.order, merged, False)
    return Path(folder)


def is_index(prefix: str | os.PathLike[str]) -> bool:
    """Whether a path of the JSON file, without ending, names an index file of DeepSpeed that is there."""
    return Path(f"{prefix}.idx").is_file()


def read_difficulties(folder: str | os.PathLike[str], metric: str) -> np.ndarray:
    """The difficulty of each sample, integers [N], in the numbering of DeepSpeed's analysis.

    That is the numbering of the dataset it read, which Megatron-DeepSpeed had shuffled before.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if the files are damaged, do not belong together or do not hold every sample once.
    """
    prefix = Path(folder) / metric
    return _in_numbering_of_analysis(f"{prefix}_index_to_sample", f"{prefix}_index_to_metric")


def own_difficulties(
    samples_prefix: str | os.PathLike[str],
    values_prefix: str | os.PathLike[str],
    *,
    shuffle_index: str | os.PathLike[str] | None = None,
    trust_order: bool = False,
) -> tuple[np.ndarray, dict[str, Any]]:
    """The difficulty of each sample, integers [N], and plain JSON data on where they come from.

    DeepSpeed's index numbers the samples as its analysis read them, in Megatron-DeepSpeed after a
    shuffle, and does not say which dataset that was.

    Args:
        samples_prefix: `<metric>_index_to_sample` without ending; its merged file means it too.
        values_prefix: `<metric>_index_to_metric` without ending.
        shuffle_index: `.npy` file, which sample each item of the analyzed dataset was.
        trust_order: whether the numbers are taken as they are.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if not exactly one of the two is given, or as `read_difficulties`.
    """
    if (shuffle_index is not None) == trust_order:
        raise ValueError(
            f"{samples_prefix}: DeepSpeed's index numbers the samples as its analysis read them, which is the "
            "shuffled order in Megatron-DeepSpeed: give either the shuffle index (--shuffle-index FILE.npy; "
            '"shuffle_index" of the metric in the JSON), or --trust-order ("trust_order": true) if it read '
            "this very dataset"
        )
    difficulties = _in_numbering_of_analysis(
        os.fspath(samples_prefix).removesuffix("_percentile_merged"), os.fspath(values_prefix)
    )
    if shuffle_index is None:
        return difficulties, {"format": "deepspeed", "order": "trusted"}
    order = f"shuffle index {sha256_of_file(Path(shuffle_index))}"
    with reading(shuffle_index):
        numbers = np.load(shuffle_index, allow_pickle=False)
    return unshuffled(difficulties, numbers), {"format": "deepspeed", "order": order}


def _in_numbering_of_analysis(samples_prefix: str, values_prefix: str) -> np.ndarray:
    samples, metrics = read_rows(samples_prefix), read_rows(values_prefix)
    if len(samples.lengths) != len(metrics.lengths) or (metrics.lengths != 1).any():
        raise ValueError(
            f"{samples_prefix} has {len(samples.lengths)} rows, {values_prefix} {len(metrics.lengths)} with "
            f"{len(metrics.numbers)} numbers: they must be as many, of one number each"
        )
    if (metrics.numbers[1:] <= metrics.numbers[:-1]).any():
        raise ValueError(f"{values_prefix} does not grow from row to row")
    num_samples = len(samples.numbers)
    is_there = np.zeros(num_samples, bool)
    if samples.numbers.min() >= 0 and samples.numbers.max() < num_samples:
        is_there[samples.numbers] = True
    if not is_there.all():
        raise ValueError(
            f"{samples_prefix} holds {num_samples} sample numbers, but not each of "
            f"0..{num_samples - 1} once; DeepSpeed's analyzer writes such files for batches that "
            "are dicts or tuples: analyze the dataset again"
        )
    difficulties = np.empty(num_samples, metrics.numbers.dtype.newbyteorder("="))
    difficulties[samples.numbers] = np.repeat(metrics.numbers, samples.lengths)
    return difficulties


def unshuffled(difficulties: np.ndarray, shuffle_index: np.ndarray) -> np.ndarray:
    """The difficulty of each sample in the numbering from before the shuffle.

    Args:
        difficulties: of the items of the shuffled dataset, [N].
        shuffle_index: which sample each item of the shuffled dataset is, a permutation of 0..N-1.

    Raises:
        ValueError: if `shuffle_index` is no such permutation.

    Example:
        >>> unshuffled(np.array([7, 8, 9]), np.array([2, 0, 1])).tolist()
        [8, 9, 7]
    """
    num_samples = len(difficulties)
    numbers = np.asarray(shuffle_index)
    if numbers.dtype.kind not in "iu" or not np.array_equal(np.sort(numbers), range(num_samples)):
        raise ValueError(
            f"the shuffle index has shape {numbers.shape} and dtype {numbers.dtype}: it must hold "
            f"each of 0..{num_samples - 1} once"
        )
    in_order = np.empty_like(difficulties)
    in_order[numbers] = difficulties
    return in_order
