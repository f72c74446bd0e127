"""The stored result of a metric that is summed over the whole dataset."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_efficiency.dataset_identity import describe_dataset, fingerprint_of, refuse_other_dataset
from data_efficiency.differences import differing_fields
from data_efficiency.files.local_copy import local_result
from data_efficiency.files.remote import Place, location
from data_efficiency.files.result_folder import (
    new_folder,
    read_manifest,
    verify_checksums,
    write_array,
    write_manifest,
)

FORMAT = "metric sum"
VERSION = 1


@dataclass(frozen=True)
class AccumulatedValue:
    """One array for a whole dataset, such as the frequency of each token.

    A folder with `manifest.json` and `value.npy`, made by `write` and `open`.
    """

    path: Path
    manifest: Mapping[str, Any]
    value: np.ndarray

    @classmethod
    def write(
        cls,
        path: Place,
        value: np.ndarray,
        *,
        metric: str,
        dataset_identity: Mapping[str, Any],
        overwrite: bool = False,
    ) -> "AccumulatedValue":
        """The stored value, written to the directory `path` in one step, and opened.

        Raises:
            FileExistsError: if `path` is taken and `overwrite` is not set, or is no result.
        """
        with new_folder(path, overwrite=overwrite) as folder:
            manifest = {
                "format": FORMAT,
                "version": VERSION,
                "metric": metric,
                "files": {"value.npy": write_array(folder / "value.npy", value)},
                "dataset": dict(dataset_identity),
                "dataset_fingerprint": fingerprint_of(dataset_identity),
            }
            write_manifest(folder, manifest)
        return cls.open(path)

    @classmethod
    def open(cls, path: Place) -> "AccumulatedValue":
        """The value in the directory `path`, or a copy of that of a URL, memory-mapped, its checksum checked.

        Raises:
            FileNotFoundError: if there is none or its file is missing.
            ValueError: if it is something else, of another version, or the file was changed.
        """
        folder = local_result(location(path))
        manifest = read_manifest(folder, FORMAT, VERSION)
        verify_checksums(folder, manifest)
        return cls(folder, manifest, np.load(folder / "value.npy", mmap_mode="r"))

    @property
    def metric(self) -> str:
        """Name of the metric."""
        return self.manifest["metric"]

    @property
    def checksum(self) -> str:
        """SHA-256 (64 hex digits) of the stored array."""
        return self.manifest["files"]["value.npy"]["sha256"]

    def check_dataset(self, dataset: Any) -> None:
        """Raise ValueError, naming what differs, unless the value was made from this dataset."""
        differences = differing_fields(self.manifest["dataset"], describe_dataset(dataset))
        refuse_other_dataset(f"the {FORMAT} {self.path}", differences)
