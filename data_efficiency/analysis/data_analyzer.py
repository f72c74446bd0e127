"""`DataAnalyzer`: difficulty analysis of any map-style dataset with functions of your own."""

from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any

import numpy as np

from data_efficiency.analysis.collectors import numpy_dtype
from data_efficiency.analysis.dataset_reader import ItemReader
from data_efficiency.analysis.map_reduce import MapReduce, Result, executor_for
from data_efficiency.analysis.metrics import Metric
from data_efficiency.compat import refuse_analyzer_hooks


class DataAnalyzer:
    """Computes metrics of a dataset into `<save_path>/<metric>/`, one folder each.

    A metric function takes a batch, as `collate_fn` makes it, and gives a tensor or array of
    integers or floats: for `single_value_per_sample` one number a sample, for
    `accumulate_value_over_samples` an array that is added up over all batches. The result of the
    first kind is a `DifficultyIndex`, of the second an `AccumulatedValue`.

    A run that was stopped or failed goes on where it was when it is started again.

    Args:
        num_workers: machines or jobs that share the work, each with a `DataAnalyzer` of its own.
        worker_id: which of them this is, 0..num_workers - 1.
        num_threads_reduce: accepted for compatibility; reducing needs one process.
        specific_threads: accepted for compatibility; only what is missing is computed anyway.
        metric_names: names, also of the folders.
        metric_dtypes: one numpy or PyTorch dtype, integer or float, for each name.
        collate_fn: makes a batch from a list of items. Not given: PyTorch's default.
        sample_indices: number of the sample that item i is, a permutation of 0..N-1, for a dataset
            that is shuffled already. Not given: i.
        max_distinct_values: store at most so many distinct difficulties of each metric, see
            `DifficultyIndex.write`.
        overwrite: compute everything anew and replace results that are there.

    Raises:
        ValueError: naming the argument that is not right.

    Source: DeepSpeed's DataAnalyzer (signature).
    Differs: results are indexes of this library; sample numbers never come from the batch.
    """

    def __init__(  # noqa: PLR0913 - the published signature
        self,
        dataset: Any,
        num_workers: int = 1,
        worker_id: int = 0,
        num_threads: int = 1,
        num_threads_reduce: int = 1,
        specific_threads: Sequence[int] = (),
        batch_size: int = 1,
        metric_names: Sequence[str] = (),
        metric_functions: Sequence[Callable[[Any], Any]] = (),
        metric_types: Sequence[Any] = (),
        metric_dtypes: Sequence[Any] = (),
        save_path: str | PathLike[str] = "./",
        collate_fn: Callable[[list[Any]], Any] | None = None,
        custom_map_init: None = None,
        custom_map_update: None = None,
        custom_map_finalize: None = None,
        custom_reduce: None = None,
        sample_indices: Sequence[int] | None = None,
        *,
        max_distinct_values: int | None = None,
        overwrite: bool = False,
    ) -> None:
        if not 0 <= worker_id < num_workers:
            raise ValueError(f"worker_id is {worker_id}: 0..{num_workers - 1} is needed")
        if not num_threads >= 1:
            raise ValueError(f"num_threads is {num_threads}: at least 1 is needed")
        refuse_analyzer_hooks(
            custom_map_init=custom_map_init,
            custom_map_update=custom_map_update,
            custom_map_finalize=custom_map_finalize,
            custom_reduce=custom_reduce,
        )
        reader = ItemReader(dataset, batch_size=batch_size, collate_fn=collate_fn)
        self.sample_order = _permutation(sample_indices, reader.num_samples)
        self.num_workers = num_workers
        self.worker_id = worker_id
        self.num_threads = num_threads
        self.job = MapReduce(
            reader,
            _metrics(metric_names, metric_functions, metric_types, metric_dtypes),
            save_path,
            max_distinct_values=max_distinct_values,
            overwrite=overwrite,
        )

    def run_map(self) -> None:
        """Compute this worker's shards. Errors are those of `MapReduce.run_map`."""
        self.job.run_map(executor_for(self.num_threads), self.worker_id, self.num_workers)

    def run_reduce(self) -> dict[str, Result]:
        """The results by metric name, written once all workers have run `run_map`.

        Errors are those of `MapReduce.run_reduce`.
        """
        return self.job.run_reduce(self.sample_order)

    def run_map_reduce(self, comm_group: None = None) -> dict[str, Result]:
        """The results by metric name, map and reduce together, for a single worker.

        Raises:
            ValueError: if there are several workers, which do not wait for each other.
        """
        if self.num_workers > 1 or comm_group is not None:
            raise ValueError(
                "run_map_reduce is for one worker; with several, call run_map in each and "
                "run_reduce once when all are done"
            )
        self.run_map()
        return self.run_reduce()


def _metrics(names: Sequence[str], *lists: Sequence[Any]) -> list[Metric]:
    """The metrics of their names and of as many functions, kinds and dtypes."""
    arguments = ("metric_functions", "metric_types", "metric_dtypes")
    for argument, values in zip(arguments, lists, strict=True):
        if len(values) != len(names):
            raise ValueError(f"{argument} has {len(values)} entries, metric_names has {len(names)}")
    return [
        Metric(name=name, function=function, kind=kind, dtype=numpy_dtype(dtype), reads="items")
        for name, function, kind, dtype in zip(names, *lists, strict=True)
    ]


def _permutation(sample_indices: Sequence[int] | None, num_samples: int) -> np.ndarray | None:
    """The sample numbers as an array, if there are any."""
    if sample_indices is None:
        return None
    numbers = np.asarray(sample_indices)
    if numbers.dtype.kind not in "iu" or not np.array_equal(
        np.sort(numbers), np.arange(num_samples)
    ):
        raise ValueError(
            f"sample_indices must hold each number from 0 to {num_samples - 1} once, in any order"
        )
    return numbers
