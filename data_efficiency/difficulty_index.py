"""The difficulty index: how hard each sample is, and the samples from easy to hard.

A directory of three files, memory-mapped, written once and only read afterwards:

- `values.npy`: difficulty of each sample, in sample order;
- `order.npy`: sample numbers sorted by (difficulty, sample number);
- `manifest.json`: metric, dataset it was made from, sizes and checksums of the two arrays.

The samples of a value range or of a percentile range are therefore a slice of `order`. Values can be
quantised to a number of distinct ones; `order` then still is that of the exact values.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_efficiency.dataset_identity import (
    describe_dataset,
    fingerprint_of,
    refuse_other_dataset,
)
from data_efficiency.differences import differing_fields
from data_efficiency.files.local_copy import local_result
from data_efficiency.files.reading import reading
from data_efficiency.files.remote import Place, RemotePath, location
from data_efficiency.files.result_folder import (
    new_folder,
    read_manifest,
    verify_checksums,
    write_array,
    write_manifest,
)

FORMAT = "difficulty index"
VERSION = 1


def _smallest_integer(low: int, high: int) -> str:
    """Name of the smallest integer dtype that holds low..high, unsigned if low >= 0."""
    kind = "int" if low < 0 else "uint"
    names = [f"{kind}{bits}" for bits in (8, 16, 32, 64)]
    return next(x for x in names if np.iinfo(x).min <= low and high <= np.iinfo(x).max)


def _storable(values: np.ndarray) -> np.ndarray:
    """Difficulties in the dtype they are stored in: smallest integer that fits, float32, float64."""
    array = np.asarray(values)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"difficulties have shape {array.shape}: one number for each sample, [N]")
    if array.dtype.kind in "biu":
        return np.ascontiguousarray(array, dtype=_smallest_integer(array.min(), array.max()))
    if array.dtype.kind != "f" or array.dtype.itemsize > 8:
        raise ValueError(f"difficulties have dtype {array.dtype}: integers, float32 or float64")
    if not np.isfinite(array).all():
        sample = int(np.flatnonzero(~np.isfinite(array))[0])
        raise ValueError(f"the difficulty of sample {sample} is {array[sample]}: must be finite")
    return np.ascontiguousarray(
        array, dtype=np.float64 if array.dtype.itemsize == 8 else np.float32
    )


def _order_of(values: np.ndarray) -> np.ndarray:
    """Sample numbers sorted by (difficulty, sample number), smallest unsigned dtype."""
    keys = values
    if values.dtype.kind in "iu" and int(values.max()) - int(values.min()) < 2**16:
        # numpy's stable sort is a radix sort for 16-bit keys only, many times faster. Differences
        # that wrap around in a narrow signed dtype are in the right order again as uint16.
        keys = (values - values.min()).astype(np.uint16)
    order = np.argsort(keys, kind="stable")
    return order.astype(np.min_scalar_type(len(values) - 1))


def _quantised(values: np.ndarray, order: np.ndarray, max_distinct_values: int) -> np.ndarray:
    """The values, each raised to the largest of its group where there are too many distinct ones.

    Groups hold about equally many samples, and equal values share a group. Raising keeps the promise
    of a value curriculum: no sample at most so hard becomes an easier one.
    """
    if max_distinct_values < 1:
        raise ValueError(f"max_distinct_values is {max_distinct_values}: at least 1 is needed")
    in_order = values[order]
    if np.count_nonzero(in_order[1:] != in_order[:-1]) < max_distinct_values:
        return values
    num_groups = min(max_distinct_values, len(values))
    last_places = len(values) * np.arange(1, num_groups + 1) // num_groups - 1
    largest = np.unique(in_order[last_places])
    return largest[np.searchsorted(largest, values)]


def _describe(
    stored: np.ndarray,
    order: np.ndarray,
    metric: str,
    dataset_identity: Mapping[str, Any],
    max_distinct_values: int | None,
    source: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The manifest but for its files."""
    in_order = stored[order]
    return {
        "format": FORMAT,
        "version": VERSION,
        "metric": metric,
        "num_samples": len(stored),
        "min_value": in_order[0].item(),
        "max_value": in_order[-1].item(),
        "max_distinct_values": max_distinct_values,
        "num_distinct_values": int(np.count_nonzero(in_order[1:] != in_order[:-1])) + 1,
        "dataset": dict(dataset_identity),
        "dataset_fingerprint": fingerprint_of(dataset_identity),
        **({} if source is None else {"source": dict(source)}),
    }


class _Checksum:
    """A file that keeps nothing but the SHA-256 of what is written to it."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()

    def write(self, content: bytes) -> int:
        """Take some bytes in; their number."""
        self.digest.update(content)
        return len(content)


@dataclass(frozen=True)
class DifficultyIndex:
    """The difficulty of every sample of one dataset under one metric, from easy to hard.

    Made by `write` and `open`: `values` and `order` are read-only memory maps of shape [num_samples]; or, of
    the files of others, by `in_memory`.

    Example:
        >>> import numpy as np, tempfile
        >>> folder = tempfile.mkdtemp() + "/length"
        >>> index = DifficultyIndex.write(
        ...     folder, np.array([30, 10, 20, 10]), metric="length", dataset_identity={"name": "x"})
        >>> index.order.tolist(), index.num_at_most(20), index.num_in_percentile(50, 100)
        ([1, 3, 2, 0], 3, 0)
    """

    path: Path
    """The folder on this machine that the files lie in."""
    manifest: Mapping[str, Any]
    values: np.ndarray
    order: np.ndarray
    url: str | None = None
    """The URL that they were copied from; None: they were not."""

    @classmethod
    def write(
        cls,
        path: Place,
        values: np.ndarray,
        *,
        metric: str,
        dataset_identity: Mapping[str, Any],
        max_distinct_values: int | None = None,
        source: Mapping[str, Any] | None = None,
        overwrite: bool = False,
    ) -> "DifficultyIndex":
        """The index of `values`, written to the directory or URL `path` in one step, and opened.

        Args:
            values: difficulty of sample i at place i, shape [N], N >= 1, integer or float, finite.
            dataset_identity: what `describe_dataset` says of the dataset.
            max_distinct_values: store at most so many distinct difficulties, each the largest of a
                group of about equally many samples; the order stays exact. Not given: all.
            source: plain JSON data on where imported values come from. Not given: computed here.

        Raises:
            ValueError: if `values` are not N finite numbers, or `max_distinct_values` is below 1.
            FileExistsError: if `path` is taken and `overwrite` is not set, or is no index.
        """
        stored = _storable(values)
        order = _order_of(stored)
        if max_distinct_values is not None:
            stored = _quantised(stored, order, max_distinct_values)
        manifest = _describe(stored, order, metric, dataset_identity, max_distinct_values, source)
        with new_folder(path, overwrite=overwrite) as folder:
            files = {
                "values.npy": write_array(folder / "values.npy", stored),
                "order.npy": write_array(folder / "order.npy", order),
            }
            write_manifest(folder, {**manifest, "files": files})
        return cls.open(path)

    @classmethod
    def in_memory(
        cls,
        path: str | os.PathLike[str],
        values: np.ndarray,
        *,
        metric: str,
        dataset_identity: Mapping[str, Any],
        source: Mapping[str, Any],
    ) -> "DifficultyIndex":
        """The index that `write` would make of values, not written; `path` says where they come from."""
        stored = _storable(values)
        order = _order_of(stored)
        manifest = _describe(stored, order, metric, dataset_identity, None, source)
        checksum = _Checksum()
        np.save(checksum, stored, allow_pickle=False)
        files = {"values.npy": {"sha256": checksum.digest.hexdigest()}}
        return cls(Path(path), {**manifest, "files": files}, stored, order)

    @classmethod
    def open(cls, path: Place, *, is_checked: bool = True) -> "DifficultyIndex":
        """The index in the directory `path`, memory-mapped.

        Of a URL it is a copy on this machine, made once, checked as it is made, in the user's cache or in the
        folder that DATA_EFFICIENCY_CACHE names.

        Args:
            is_checked: whether the checksums are; if not, call `check_files` before the arrays are used.

        Raises:
            FileNotFoundError: if there is no index or a file of it is missing.
            ValueError: if it is something else, of another version, or a file was changed.
        """
        place = location(path)
        folder = local_result(place)
        manifest = read_manifest(folder, FORMAT, VERSION)
        if is_checked:
            verify_checksums(folder, manifest)
        arrays = {}
        for name in ("values.npy", "order.npy"):
            with reading(folder / name):
                arrays[name] = np.load(folder / name, mmap_mode="r", allow_pickle=False)
            if arrays[name].shape != (manifest["num_samples"],):
                raise ValueError(
                    f"{folder / name} has shape {arrays[name].shape} but the manifest says "
                    f"{manifest['num_samples']} samples; analyze the dataset again"
                )
        url = str(place) if isinstance(place, RemotePath) else None
        return cls(folder, manifest, arrays["values.npy"], arrays["order.npy"], url)

    @property
    def place(self) -> str:
        """Where the index is: its folder or its URL."""
        return self.url or str(self.path)

    @property
    def metric(self) -> str:
        """Name of the metric."""
        return self.manifest["metric"]

    @property
    def num_samples(self) -> int:
        """Samples in the dataset."""
        return self.manifest["num_samples"]

    @property
    def num_distinct_values(self) -> int:
        """Different difficulties that occur."""
        return self.manifest["num_distinct_values"]

    @property
    def is_quantised(self) -> bool:
        """Whether difficulties may be coarser than the order, which then is not by sample number where they are equal."""
        return self.manifest.get("max_distinct_values") is not None

    @property
    def min_value(self) -> int | float:
        """Difficulty of the easiest sample."""
        return self.manifest["min_value"]

    @property
    def max_value(self) -> int | float:
        """Difficulty of the hardest sample."""
        return self.manifest["max_value"]

    @property
    def dataset_identity(self) -> Mapping[str, Any]:
        """What the dataset said it was when it was analyzed."""
        return self.manifest["dataset"]

    @property
    def dataset_fingerprint(self) -> str:
        """SHA-256 (64 hex digits) of the dataset's identity."""
        return self.manifest["dataset_fingerprint"]

    @property
    def source(self) -> Mapping[str, Any] | None:
        """Where imported difficulties come from; None for those that were computed here."""
        return self.manifest.get("source")

    def num_at_most(self, value: Any) -> Any:
        """How many samples have a difficulty <= `value`: the end of a value range in `order`.

        Args:
            value: a number, or an array of numbers.

        Returns:
            An int, or an int64 array of the same shape.
        """
        bounds = np.asarray(value)
        low = np.zeros(bounds.shape, dtype=np.int64)
        high = np.full(bounds.shape, self.num_samples, dtype=np.int64)
        # Binary search through `order`: a sorted copy of the values would cost as much memory again.
        while np.any(low < high):
            middle = (low + high) // 2
            place = np.minimum(middle, self.num_samples - 1)
            open_range = low < high
            is_below = self.values[self.order[place]] <= bounds
            low = np.where(open_range & is_below, middle + 1, low)
            high = np.where(open_range & ~is_below, middle, high)
        return low if bounds.ndim else int(low)

    def num_in_percentile(self, percentile: Any, max_percentile: int) -> Any:
        """How many of the easiest samples the first `percentile` of `max_percentile` parts hold.

        Parts have num_samples // max_percentile samples each; the last one also has the rest.

        Args:
            percentile: an integer >= 0, or an array of them.
            max_percentile: the integer >= 1 that stands for the whole dataset.

        Returns:
            An int, or an int64 array of the same shape.

        Raises:
            ValueError: if one of the two is not such an integer.

        Source: DeepSpeed's sampler, difficulty type "percentile", whose scale ends at the
            metric's `max_difficulty`.
        """
        parts = np.asarray(percentile)
        if parts.dtype.kind not in "iu" or np.any(parts < 0):
            raise ValueError(f"percentile is {percentile!r}: integers >= 0 are needed")
        if max_percentile < 1:
            raise ValueError(f"max_percentile is {max_percentile!r}: an integer >= 1 is needed")
        per_part = self.num_samples // max_percentile
        num = np.where(parts >= max_percentile, self.num_samples, per_part * parts.astype(np.int64))
        return num if parts.ndim else int(num)

    def check_dataset(self, dataset: Any) -> None:
        """Raise ValueError, naming what differs, unless the index was made from this dataset."""
        differences = differing_fields(self.dataset_identity, describe_dataset(dataset))
        if len(dataset) != self.num_samples:
            differences.append(f"samples: expected {self.num_samples}, found {len(dataset)}")
        refuse_other_dataset(f"the {FORMAT} {self.place}", differences)

    def check_files(self) -> None:
        """Raise ValueError unless the files, where there are any, are what was written."""
        if "order.npy" in self.manifest["files"]:
            verify_checksums(self.path, self.manifest)

    def verify(self) -> None:
        """Raise ValueError unless `order` is the right order of the values.

        Samples of one difficulty are sorted by number, unless the difficulties were quantised.
        """
        if fingerprint_of(self.dataset_identity) != self.dataset_fingerprint:
            raise ValueError(f"{self.path}: the dataset in the manifest has another fingerprint")
        seen = np.zeros(self.num_samples, dtype=bool)
        if int(self.order.max()) < self.num_samples:
            seen[self.order] = True
        if not seen.all():
            raise ValueError(f"{self.path / 'order.npy'} does not hold every sample number once")
        values = self.values[self.order]
        is_next = (values[1:] > values[:-1]) | (self.order[1:] > self.order[:-1])
        if self.is_quantised:
            is_next[:] = True
        is_next &= values[1:] >= values[:-1]
        if not is_next.all():
            place = int(np.flatnonzero(~is_next)[0]) + 1
            raise ValueError(
                f"{self.path / 'order.npy'} is not sorted by (difficulty, sample number) at place "
                f"{place}"
            )
        found = (values[0].item(), values[-1].item())
        if found != (self.min_value, self.max_value):
            raise ValueError(f"{self.path}: the manifest's smallest and largest value are wrong")
