"""Clusters on disk: computed once for an index and its schedules, then memory-mapped by every run.

A folder for each combination, named after what it depends on, so nothing in it ever gets stale:

- `order.bin`: the admitted samples, cluster after cluster, as plain integers;
- `admission_steps.npy` and `starts.npy`: see `Clusters`;
- `manifest.json`: what it was made from, dtype of the order, sizes and checksums.
"""

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_efficiency.files.lock import file_lock
from data_efficiency.files.result_folder import (
    file_entry,
    new_folder,
    read_manifest,
    remove_leftovers,
    verify_checksums,
    write_array,
    write_manifest,
)

logger = logging.getLogger(__name__)

FORMAT = "set of prepared clusters"
VERSION = 1

Int64Array = NDArray[np.int64]
Fill = Callable[[NDArray[np.unsignedinteger]], tuple[Int64Array, Int64Array]]


class ClusterArrays(NamedTuple):
    """The three arrays that make a set of clusters."""

    order: NDArray[np.unsignedinteger]
    admission_steps: Int64Array
    starts: Int64Array


def open_or_prepare(
    parent: Path,
    made_from: Mapping[str, Any],
    dtype: np.dtype,
    begin: Callable[[], tuple[int, Fill]],
) -> ClusterArrays:
    """The clusters in a folder below `parent`, prepared there if they are not.

    Processes of one machine that start together wait for the first of them. Where the folder cannot
    be written, a warning is logged and the clusters are held in memory.

    Args:
        made_from: plain JSON data that determines the clusters.
        begin: asked where they must be prepared; gives the samples that the order may have to hold, and
            what writes the order into an array of that size and returns admission steps and starts.
    """
    digest = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()
    folder = parent / f"clusters-{digest[:16]}"
    if folder.is_dir():
        found = _open(folder)
        if found is not None:
            return found
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with file_lock(parent / f".{folder.name}.lock", wait=True):
            found = _open(folder) if folder.is_dir() else None
            if found is not None:
                return found
            _prepare(folder, made_from, dtype, *begin())
            remove_leftovers(folder)
        return _read(folder)
    except OSError as error:
        logger.warning(
            "clusters cannot be kept in %s (%s); they are prepared in memory, at every start",
            parent,
            error,
        )
    largest_size, fill = begin()
    order = np.empty(largest_size, dtype)
    steps, starts = fill(order)
    return ClusterArrays(order, steps, starts)


def _open(folder: Path) -> ClusterArrays | None:
    """The clusters in a folder, None if they are damaged."""
    try:
        return _read(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("%s; preparing the clusters again", error)
        return None


def _read(folder: Path) -> ClusterArrays:
    manifest = read_manifest(folder, FORMAT, VERSION, remedy="they are prepared again")
    verify_checksums(folder, manifest, remedy="they are prepared again")
    dtype = manifest["files"]["order.bin"]["dtype"]
    return ClusterArrays(
        np.memmap(folder / "order.bin", dtype, mode="r"),
        np.load(folder / "admission_steps.npy", allow_pickle=False),
        np.load(folder / "starts.npy", allow_pickle=False),
    )


def _prepare(
    target: Path, made_from: Mapping[str, Any], dtype: np.dtype, largest_size: int, fill: Fill
) -> None:
    logger.info("preparing clusters of up to %d samples in %s", largest_size, target)
    start = time.monotonic()
    with new_folder(target, overwrite=True) as folder:
        file = folder / "order.bin"
        with open(file, "wb") as reserved:
            num_bytes = largest_size * dtype.itemsize
            reserved.truncate(num_bytes)
            # A full disk is an error here; written through the map it would kill the process.
            if hasattr(os, "posix_fallocate"):  # macOS and Windows have none.
                os.posix_fallocate(reserved.fileno(), 0, num_bytes)
        order = np.memmap(file, dtype, mode="r+", shape=(largest_size,))
        steps, starts = fill(order)
        order.flush()
        del order
        os.truncate(file, int(starts[-1]) * dtype.itemsize)
        files = {
            "order.bin": {"dtype": dtype.name, **file_entry(file)},
            "admission_steps.npy": write_array(folder / "admission_steps.npy", steps),
            "starts.npy": write_array(folder / "starts.npy", starts),
        }
        content = {"format": FORMAT, "version": VERSION, "made_from": made_from, "files": files}
        write_manifest(folder, content)
    logger.info("%d clusters prepared in %.1f s", len(steps), time.monotonic() - start)
