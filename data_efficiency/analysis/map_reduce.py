"""Map-reduce on files: metrics are computed shard by shard, then put together into results.

The shards depend on the dataset alone, so the result is the same for any number of processes, and
what an interrupted run has finished is used by the next one.
"""

import logging
import re
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_efficiency.analysis.accumulated_value import AccumulatedValue
from data_efficiency.analysis.collectors import SumCollector, numpy_dtype
from data_efficiency.analysis.dataset_reader import DatasetReader, StreamReader
from data_efficiency.analysis.executors import (
    Executor,
    InProcessExecutor,
    LocalProcessExecutor,
    TaskError,
    refuse_unseen_work,
    sigterm_as_interrupt,
)
from data_efficiency.analysis.metrics import Metric
from data_efficiency.analysis.ray_executor import RayExecutor
from data_efficiency.analysis.shards import ShardFolder, ShardTask
from data_efficiency.analysis.user_functions import source_fingerprint
from data_efficiency.dataset_identity import describe_dataset, fingerprint_of
from data_efficiency.difficulty_index import DifficultyIndex
from data_efficiency.files.lock import file_lock, refuse_other_locks
from data_efficiency.files.remote import Place, location
from data_efficiency.files.result_folder import is_result, remove_leftovers
from data_efficiency.progress import Progress

logger = logging.getLogger(__name__)

Result = DifficultyIndex | AccumulatedValue
ENGINES = ("processes", "ray")
SECONDS_TO_APPEAR = 60.0
KINDS = ("single_value_per_sample", "accumulate_value_over_samples")


class AnalysisError(RuntimeError):
    """The analysis cannot go on; what is finished is kept."""


def executor_for(num_processes: int | None, engine: str = "processes") -> Executor:
    """The executor of a name for so many processes, on this machine or on a Ray cluster.

    Args:
        num_processes: None: one here, all of a Ray cluster.
        engine: one of `ENGINES`.

    Raises:
        ValueError: if there is no such engine, or no process.
        ModuleNotFoundError: if its package is not installed.
    """
    if engine not in ENGINES:
        raise ValueError(f"executor is {engine!r}: one of {', '.join(ENGINES)}")
    if engine == "ray":
        return RayExecutor(num_processes)
    if num_processes is None or num_processes == 1:
        return InProcessExecutor()
    return LocalProcessExecutor(num_processes)


class MapReduce:
    """Computes metrics of a dataset into `<save_path>/<metric>/`.

    Args:
        metrics: at least one, with different names.
        save_path: a folder, or the URL of one on storage that fsspec reaches.
        num_shards: parts to compute apart. Not given: what the reader says.
        max_distinct_values: see `DifficultyIndex.write`; matters in the reduce only.
        overwrite: compute everything anew and replace results that are there.

    Raises:
        ValueError: if a metric does not fit.
    """

    def __init__(
        self,
        reader: DatasetReader,
        metrics: Sequence[Metric],
        save_path: Place,
        *,
        num_shards: int | None = None,
        max_distinct_values: int | None = None,
        overwrite: bool = False,
    ) -> None:
        _check_metrics(metrics, reader.delivers)
        self.reader = reader
        self.metrics = {metric.name: metric for metric in metrics}
        self.save_path = location(save_path)
        self.max_distinct_values = max_distinct_values
        self.overwrite = overwrite
        self.identity = describe_dataset(reader.dataset)
        if num_shards is None and isinstance(reader, StreamReader):
            bounds = reader.bounds
        else:
            parts = num_shards or reader.num_shards
            bounds = tuple(reader.num_samples * i // parts for i in range(parts + 1))
        self.folders = {
            metric.name: ShardFolder(
                self.save_path / f"{metric.name}.parts",
                bounds,
                {
                    "dataset_fingerprint": fingerprint_of(self.identity),
                    "content": getattr(reader.dataset, "content_checksum", None),
                    "metric": metric.name,
                    "kind": metric.kind,
                    "dtype": numpy_dtype(metric.dtype).name,
                    "parameters": dict(metric.parameters),
                    "function": source_fingerprint(metric.function),
                },
            )
            for metric in metrics
        }
        self.bounds = bounds
        self.task = ShardTask(reader, self.metrics, self.folders)

    def run_map(self, executor: Executor, worker_id: int = 0, num_workers: int = 1) -> None:
        """Compute the shards of one of several workers that are not there yet.

        Args:
            num_workers: machines or jobs that share the shards; each calls this once.

        Raises:
            FileExistsError: if a result is there and may not be replaced.
            ValueError: if other processes would not see what the executor's write.
            BlockingIOError: if another process does this worker's part, or another division of the
                work into workers is at it.
            AnalysisError: if a shard fails, with shard, metric and cause, or was kept where nobody else sees it.
            KeyboardInterrupt: after Ctrl-C or SIGTERM, with a word on how to continue.
        """
        refuse_unseen_work(executor, self.save_path, num_workers)
        num_shards = len(self.bounds) - 1
        shards = range(
            num_shards * worker_id // num_workers, num_shards * (worker_id + 1) // num_workers
        )
        lock = f".map_{worker_id}_of_{num_workers}.lock"
        with file_lock(self.save_path / lock):
            refuse_other_locks(self.save_path, f".map_*_of_{num_workers}.lock")
            self._check_places()
            for folder in self.folders.values():
                folder.path.mkdir(exist_ok=True)
                if self.overwrite:
                    for shard in shards:
                        folder.remove(shard)
            missing = self._shards_to_do(shards)
            self._map(executor, missing)
            self._refuse_unseen(missing)

    def run_reduce(self, sample_order: np.ndarray | None = None) -> dict[str, Result]:
        """The result of each metric by its name, written from the shards, which are then removed.

        Args:
            sample_order: number of the sample that item i of the dataset is, a permutation [N].
                Not given: i.

        Raises:
            BlockingIOError: if another process is at it, or a map has not ended.
            AnalysisError: naming shards that are missing or not right, or a metric whose result
                cannot be written; its shards are kept.
        """
        with file_lock(self.save_path / ".reduce.lock"):
            refuse_other_locks(self.save_path, ".reduce.lock")
            self._check_places()
            for name, folder in self.folders.items():
                _check_shards(name, folder)
            results = {name: self._reduce(name, sample_order) for name in self.metrics}
            for name, folder in self.folders.items():
                folder.remove_all()
                remove_leftovers(self.save_path / name)
        return results

    def _check_places(self) -> None:
        """Refuses to replace a result, unless asked to or the same work had been started."""
        for name, folder in self.folders.items():
            target = self.save_path / name
            if is_result(target) and not self.overwrite and not folder.path.exists():
                raise FileExistsError(
                    f"{target} already exists; remove it, ask to overwrite it, or save elsewhere"
                )

    def _shards_to_do(self, shards: range) -> list[int]:
        """The shards that have yet to be computed for a metric."""
        to_do = set()
        for name, folder in self.folders.items():
            for shard, fault in zip(shards, folder.faults(shards), strict=True):
                if fault is None:
                    continue
                to_do.add(shard)
                if fault != "is missing":
                    logger.warning(
                        "%s: %s %s; computing it again", name, folder.describe(shard), fault
                    )
        return sorted(to_do)

    def _map(self, executor: Executor, shards: list[int]) -> None:
        """Runs the executor over shards, with progress and readable failures."""
        total = sum(self.bounds[shard + 1] - self.bounds[shard] for shard in shards)
        names = ", ".join(self.metrics)
        try:
            with (
                sigterm_as_interrupt(),
                Progress(names, total, unit="samples", say=logger.info) as progress,
            ):
                num_samples = num_tokens = 0
                for more_samples, more_tokens in executor.run(self.task, shards):
                    num_samples += more_samples
                    num_tokens += more_tokens
                    progress.update(num_samples, f"{num_tokens:,} tokens" if num_tokens else "")
        except TaskError as error:
            shard = next(iter(self.folders.values())).describe(error.item)
            message = f"{names}: {shard} failed: {error.cause}; {self._state()}"
            raise AnalysisError(message) from error
        except KeyboardInterrupt as error:
            raise KeyboardInterrupt(f"{names}: stopped; {self._state()}") from error

    def _refuse_unseen(self, shards: list[int]) -> None:
        """Raise AnalysisError if shards that were just computed are not to be seen from here.

        A network file system may show a machine what another one wrote only after a while.
        """
        deadline = time.monotonic() + SECONDS_TO_APPEAR
        for name, folder in self.folders.items():
            while unseen := sorted(set(shards) - folder.finished()):
                if time.monotonic() < deadline:
                    time.sleep(0.1)
                    continue
                raise AnalysisError(
                    f"metric {name}: {len(unseen)} shards, such as {folder.describe(unseen[0])}, were computed, but "
                    f"are not in {folder.path} as this machine sees it: save in a folder that all machines of the "
                    "cluster share, or at a URL"
                )

    def _state(self) -> str:
        """What is left of an unfinished run, in words; folders without a shard are not left."""
        num_finished = sum(folder.num_finished() for folder in self.folders.values())
        for folder in self.folders.values():
            folder.remove_if_empty()
        if num_finished == 0:
            return "no shard was finished"
        num_shards = len(self.folders) * (len(self.bounds) - 1)
        return (
            f"{num_finished} of {num_shards} shards are kept in {self.save_path}; "
            "run the same again to continue"
        )

    def _reduce(self, name: str, sample_order: np.ndarray | None) -> Result:
        """One metric's result from its shards, written and opened."""
        metric, folder = self.metrics[name], self.folders[name]
        shards = folder.read_all()
        target = self.save_path / name
        common: dict[str, Any] = {
            "metric": name,
            "dataset_identity": self.identity,
            "overwrite": is_result(target),
        }
        try:
            if metric.kind == "accumulate_value_over_samples":
                total = SumCollector(metric)
                for array in shards:
                    total.add_array(array)
                return AccumulatedValue.write(target, total.result(), **common)
            values = np.concatenate(list(shards))
            if sample_order is not None:
                in_reading_order, values = values, np.empty_like(values)
                values[sample_order] = in_reading_order
            return DifficultyIndex.write(
                target, values, max_distinct_values=self.max_distinct_values, **common
            )
        except FileExistsError:
            raise
        except (OSError, ValueError) as error:
            raise AnalysisError(
                f"metric {name}: {error}; all shards are kept in {folder.path}, run the reduce again"
            ) from error


def _check_metrics(metrics: Sequence[Metric], delivered: str) -> None:
    """Raise ValueError unless the metrics can be computed together from what the reader delivers."""
    if not metrics:
        raise ValueError("no metric is given: at least one is needed")
    names = [metric.name for metric in metrics]
    for metric in metrics:
        if not re.fullmatch(r"\w[\w.+-]*", metric.name) or metric.name.endswith(".parts"):
            raise ValueError(f"metric name {metric.name!r} cannot be the name of a folder")
        if names.count(metric.name) > 1:
            raise ValueError(f"metric {metric.name} is given twice")
        if metric.kind not in KINDS:
            raise ValueError(f"metric {metric.name} is of kind {metric.kind!r}: one of {KINDS}")
        if metric.reads != delivered:
            raise ValueError(
                f"metric {metric.name} reads {metric.reads}, the reader delivers {delivered}"
            )
        numpy_dtype(metric.dtype)


def _check_shards(name: str, folder: ShardFolder) -> None:
    """Raise AnalysisError, naming the shards of a metric that are missing or not right."""
    shards = range(folder.num_shards)
    faults = [
        f"{folder.describe(shard)} {fault}"
        for shard, fault in zip(shards, folder.faults(shards), strict=True)
        if fault is not None
    ]
    if faults:
        rest = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise AnalysisError(
            f"metric {name}, {len(faults)} of {folder.num_shards} shards cannot be used: "
            f"{', '.join(faults[:5])}{rest}; run the map again, it computes only these"
        )
