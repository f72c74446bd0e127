"""The finished parts of a metric that is still being computed: one array and one marker a shard."""

import json
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_efficiency.files import new_file, write_file
from data_efficiency.files.result_folder import sha256_of_file

VERSION = 1


@dataclass(frozen=True)
class ShardFolder:
    """The shards of one metric, in `<save_path>/<metric>.parts/`.

    The array of a shard appears in one step, and after it a marker that holds its checksum and what
    it was computed from. Nothing is synced to disk: a shard that a power cut damages fails its
    check and is computed again.

    Args:
        path: the folder.
        bounds: shard i holds the samples bounds[i]..bounds[i + 1] - 1.
        origin: plain JSON data that the numbers depend on, the same for all shards.
    """

    path: Path
    bounds: tuple[int, ...]
    origin: Mapping[str, Any]

    @property
    def num_shards(self) -> int:
        """Shards when all are there."""
        return len(self.bounds) - 1

    def samples_of(self, shard: int) -> tuple[int, int]:
        """The first sample of a shard and the one after its last."""
        return self.bounds[shard], self.bounds[shard + 1]

    def describe(self, shard: int) -> str:
        """A shard's number and samples, in words."""
        first, last = self.samples_of(shard)
        return f"shard {shard} (samples {first}..{last - 1})"

    def write(self, shard: int, array: np.ndarray) -> None:
        """Store the array of a shard, then its marker."""
        self._marker_file(shard).unlink(missing_ok=True)
        with new_file(self._array_file(shard), sync=False) as partial:
            np.save(partial, array, allow_pickle=False)
            marker = {**self._expected_marker(shard), "sha256": sha256_of_file(partial)}
        text = json.dumps(marker, indent=2, sort_keys=True)
        write_file(self._marker_file(shard), text, sync=False)

    def fault(self, shard: int) -> str | None:
        """Why a shard cannot be used, or None if it can."""
        try:
            marker = json.loads(self._marker_file(shard).read_text(encoding="utf-8"))
            checksum = sha256_of_file(self._array_file(shard))
        except FileNotFoundError:
            return "is missing"
        except ValueError:
            return "has a damaged marker"
        if not isinstance(marker, dict):
            return "has a damaged marker"
        names = {
            "samples": "other samples",
            "dataset_fingerprint": "another dataset",
            "parameters": "other parameters",
            "function": "another function (its source changed)",
        }
        for field, value in self._expected_marker(shard).items():
            if marker.get(field) != value:
                return f"was made from {names.get(field, 'another ' + field)}"
        is_whole = checksum == marker.get("sha256")
        return None if is_whole else "has a damaged array (other SHA-256)"

    def read(self, shard: int) -> np.ndarray:
        """The array of a shard."""
        return np.load(self._array_file(shard), allow_pickle=False)

    def remove(self, shard: int) -> None:
        """Forget a shard."""
        self._marker_file(shard).unlink(missing_ok=True)
        self._array_file(shard).unlink(missing_ok=True)

    def num_finished(self) -> int:
        """Shards that have a marker."""
        return len(list(self.path.glob("*.json")))

    def remove_if_empty(self) -> None:
        """Remove the folder if no shard is in it."""
        if not any(self.path.glob("*.npy")):
            shutil.rmtree(self.path, ignore_errors=True)

    def remove_all(self) -> None:
        """Remove the folder at once: it is never seen half empty."""
        doomed = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}.partial")
        self.path.rename(doomed)
        shutil.rmtree(doomed)

    def _expected_marker(self, shard: int) -> dict[str, Any]:
        samples = list(self.samples_of(shard))
        return {"version": VERSION, **self.origin, "shard": shard, "samples": samples}

    def _array_file(self, shard: int) -> Path:
        return self.path / f"{shard:06d}.npy"

    def _marker_file(self, shard: int) -> Path:
        return self.path / f"{shard:06d}.json"
