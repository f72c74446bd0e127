"""The parts of a metric: what computes one, and how a finished one is kept, as an array and a marker."""

import hashlib
import io
import json
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from data_efficiency.analysis.collectors import new_collector, refuse_no_sum
from data_efficiency.analysis.dataset_reader import Batch, DatasetReader
from data_efficiency.analysis.executors import Counts, TaskError
from data_efficiency.analysis.metrics import Metric
from data_efficiency.files import new_file, read_json_object, write_file
from data_efficiency.files.remote import Location, RemotePath
from data_efficiency.files.result_folder import sha256_of_file

VERSION = 1
_REQUESTS_AT_ONCE = 16
_T = TypeVar("_T")


@dataclass(frozen=True)
class ShardFolder:
    """The shards of one metric, in `<save_path>/<metric>.parts/`.

    The array of a shard appears in one step, and after it a marker that holds its checksum and what
    it was computed from. Nothing is synced to disk: a shard that a power cut damages fails its
    check and is computed again. Where nothing can be locked, two workers may compute the same shard: it is the
    same then, and what is read is checked as it was read.

    Args:
        bounds: shard i holds the samples bounds[i]..bounds[i + 1] - 1.
        origin: plain JSON data that the numbers depend on, the same for all shards.
    """

    path: Location
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
            marker = read_json_object(self._marker_file(shard))
            checksum = sha256_of_file(self._array_file(shard))
        except FileNotFoundError:
            return "is missing"
        except ValueError:
            return "has a damaged marker"
        return self._fault_of(shard, marker, checksum)

    def _fault_of(self, shard: int, marker: Mapping[str, Any], checksum: str) -> str | None:
        names = {
            "samples": "other samples",
            "dataset_fingerprint": "another dataset",
            "content": "other rows",
            "parameters": "other parameters",
            "function": "another function (its source changed)",
        }
        for field, value in self._expected_marker(shard).items():
            if marker.get(field) != value:
                return f"was made from {names.get(field, 'another ' + field)}"
        is_whole = checksum == marker.get("sha256")
        return None if is_whole else "has a damaged array (other SHA-256)"

    def faults(self, shards: Iterable[int]) -> Iterator[str | None]:
        """The `fault` of each of some shards."""
        yield from self._for_each(self.fault, shards)

    def read_all(self) -> Iterator[np.ndarray]:
        """The array of each shard, in their order; errors are those of `read`."""
        yield from self._for_each(self.read, range(self.num_shards))

    def _for_each(self, function: Callable[[int], _T], shards: Iterable[int]) -> Iterator[_T]:
        """What a function gives for each of some shards; of those far away, for several at once."""
        if not isinstance(self.path, RemotePath):
            yield from map(function, shards)
            return
        with ThreadPoolExecutor(_REQUESTS_AT_ONCE) as threads:
            yield from threads.map(function, shards)

    def read(self, shard: int) -> np.ndarray:
        """The array of a shard.

        Raises:
            FileNotFoundError: if it is no longer there.
            ValueError: if it cannot be used any more.
        """
        content = self._array_file(shard).read_bytes()
        marker = read_json_object(self._marker_file(shard))
        fault = self._fault_of(shard, marker, hashlib.sha256(content).hexdigest())
        if fault is not None:
            raise ValueError(f"{self.describe(shard)} {fault} while it was read")
        return np.load(io.BytesIO(content), allow_pickle=False)

    def remove(self, shard: int) -> None:
        """Forget a shard."""
        self._marker_file(shard).unlink(missing_ok=True)
        self._array_file(shard).unlink(missing_ok=True)

    def finished(self) -> set[int]:
        """The shards that have a marker, as another writer's are."""
        numbers = (file.name.removesuffix(".json") for file in self.path.glob("*.json"))
        return {int(number) for number in numbers if number.isdigit()}

    def num_finished(self) -> int:
        """Shards that have a marker."""
        return len(self.finished())

    def remove_if_empty(self) -> None:
        """Remove the folder if no shard is in it."""
        if isinstance(self.path, RemotePath):
            return
        if not any(self.path.glob("*.npy")):
            shutil.rmtree(self.path, ignore_errors=True)

    def remove_all(self) -> None:
        """Remove the folder, at once where it can be renamed: it is never seen half empty."""
        if isinstance(self.path, RemotePath):
            self.path.remove_all()
            return
        doomed = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}.partial")
        self.path.rename(doomed)
        shutil.rmtree(doomed)

    def _expected_marker(self, shard: int) -> dict[str, Any]:
        samples = list(self.samples_of(shard))
        return {"version": VERSION, **self.origin, "shard": shard, "samples": samples}

    def _array_file(self, shard: int) -> Location:
        return self.path / f"{shard:06d}.npy"

    def _marker_file(self, shard: int) -> Location:
        return self.path / f"{shard:06d}.json"


class ShardTask:
    """A task for executors: computes and stores the shards of some metrics."""

    def __init__(
        self,
        reader: DatasetReader,
        metrics: Mapping[str, Metric],
        folders: Mapping[str, ShardFolder],
    ) -> None:
        self.reader = reader
        self.metrics = metrics
        self.folders = folders

    def __call__(self, shard: int) -> Iterator[Counts]:
        """Samples and tokens of each batch of a shard, while its metrics are computed.

        Raises:
            TaskError: if a metric fails, naming it and the sample, or its shard cannot be stored.
        """
        to_do = [name for name, folder in self.folders.items() if folder.fault(shard) is not None]
        first, last = next(iter(self.folders.values())).samples_of(shard)
        collectors = {name: new_collector(self.metrics[name], first, last) for name in to_do}
        for name in to_do if first == 0 else ():
            try:
                refuse_no_sum(self.metrics[name], self.reader)
            except ValueError as error:
                raise TaskError(shard, f"metric {name}: {error}") from error
        for batch in self.reader.batches(first, last):
            for name, collector in collectors.items():
                try:
                    collector.add(batch)
                except Exception as error:
                    cause = self._describe_failure(name, batch, error)
                    raise TaskError(shard, cause) from error
            yield len(batch.sample_numbers), batch.num_tokens
        for name, collector in collectors.items():
            try:
                self.folders[name].write(shard, collector.result())
            except (OSError, ValueError) as error:
                cause = f"metric {name}: {_in_words(error)}"
                raise TaskError(shard, cause) from error

    def _describe_failure(self, name: str, batch: Batch, error: Exception) -> str:
        """Which metric fails at which sample and how; the batch's samples if none fails alone."""
        first, last = int(batch.sample_numbers[0]), int(batch.sample_numbers[-1])
        for sample in range(first, last + 1):
            failure = self._failure_alone(name, sample)
            if failure is not None:
                return f"metric {name}, sample {sample}: {_in_words(failure)}"
        return f"metric {name}, samples {first}..{last}: {_in_words(error)}"

    def _failure_alone(self, name: str, sample: int) -> Exception | None:
        """What a metric raises for a batch of one sample."""
        collector = new_collector(self.metrics[name], sample, sample + 1)
        try:
            for batch in self.reader.batches(sample, sample + 1):
                collector.add(batch)
        except Exception as error:
            return error
        return None


def _in_words(error: Any) -> str:
    """An exception as its type and text."""
    return f"{type(error).__name__}: {error}"
