"""What is done for one shard: all missing metrics of its samples, in one reading."""

from collections.abc import Iterator, Mapping
from typing import Any

from data_efficiency.analysis.collectors import new_collector
from data_efficiency.analysis.dataset_reader import Batch, DatasetReader
from data_efficiency.analysis.executors import Counts, TaskError
from data_efficiency.analysis.metrics import Metric
from data_efficiency.analysis.shards import ShardFolder


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
