"""Ways to read a dataset in batches. Sample numbers come from the range that was asked for.

`TokenSpanReader` reads token corpora without touching single samples; `ItemReader` reads any
map-style PyTorch dataset, `StreamReader` a stream of `datasets`.
"""

import mmap
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import default_collate

from data_efficiency.analysis.metrics import TokenBatch
from data_efficiency.analysis.streams import CountedStream

# Measured: at a quarter of this, Python's own time a batch costs a third more; beyond, nothing is won.
TOKENS_PER_BATCH = 2**18
TOKENS_PER_SHARD = 2**22
ITEMS_PER_SHARD = 1024
MAX_NUM_SHARDS = 1024
PROBES = 16
SAMPLES_PER_PROBE = 64
BYTES_BETWEEN_RELEASES = 2**25


class Batch(NamedTuple):
    """Samples read together: their numbers, int64 [B], and what the metrics get."""

    sample_numbers: np.ndarray
    content: Any
    num_tokens: int


def _length_of(dataset: Any) -> int:
    """Samples in a dataset, at least one."""
    if not hasattr(dataset, "__len__"):
        raise ValueError(f"{type(dataset).__name__} has no length; a map-style dataset is needed")
    if len(dataset) == 0:
        raise ValueError(f"{type(dataset).__name__} has no samples to analyze")
    return len(dataset)


class TokenSpanReader:
    """Reads a dataset with `token_spans(first, last) -> (tokens, starts, lengths)`."""

    delivers = "token_spans"

    def __init__(self, dataset: Any, *, tokens_per_batch: int = TOKENS_PER_BATCH) -> None:
        if not hasattr(dataset, "token_spans"):
            raise ValueError(
                f"{type(dataset).__name__} has no token_spans(first, last); "
                "metrics on tokens need a dataset that has"
            )
        self.dataset = dataset
        self.num_samples = _length_of(dataset)
        self.num_unreleased_bytes = 0
        mean_length = max(1.0, self._mean_length())
        self.samples_per_batch = max(1, int(tokens_per_batch / mean_length))
        wanted = int(np.ceil(self.num_samples * mean_length / TOKENS_PER_SHARD))
        self.num_shards = min(wanted, self.num_samples, MAX_NUM_SHARDS)

    def _mean_length(self) -> float:
        """Tokens a sample, from samples all over the dataset."""
        rest = max(0, self.num_samples - SAMPLES_PER_PROBE)
        starts = np.unique(np.linspace(0, rest, PROBES).astype(np.int64)).tolist()
        lengths = [
            self.dataset.token_spans(start, min(start + SAMPLES_PER_PROBE, self.num_samples))[2]
            for start in starts
        ]
        return float(np.mean(np.concatenate(lengths)))

    def batches(self, first: int, last: int) -> Iterator[Batch]:
        """The samples first..last-1 in order, about `tokens_per_batch` tokens at a time."""
        for start in range(first, last, self.samples_per_batch):
            batch = self.read(start, min(start + self.samples_per_batch, last))
            yield batch
            self.num_unreleased_bytes += batch.content.tokens.nbytes
            if self.num_unreleased_bytes >= BYTES_BETWEEN_RELEASES:
                self.num_unreleased_bytes = 0
                release_pages(batch.content.tokens)

    def read(self, first: int, last: int) -> Batch:
        """The samples first..last-1 as one batch."""
        content = TokenBatch(*self.dataset.token_spans(first, last))
        if len(content.starts) != last - first or len(content.lengths) != last - first:
            raise ValueError(
                f"token_spans({first}, {last}) of {type(self.dataset).__name__} gave "
                f"{len(content.starts)} starts and {len(content.lengths)} lengths"
            )
        return Batch(np.arange(first, last), content, len(content.tokens))


class ItemReader:
    """Reads the items of any dataset with `__len__` and `__getitem__`, batch by batch.

    Args:
        batch_size: items a batch; the last batch of a shard may be smaller.
        collate_fn: makes a batch from a list of items. Not given: PyTorch's default.
    """

    delivers = "items"

    def __init__(
        self,
        dataset: Any,
        *,
        batch_size: int = 1,
        collate_fn: Callable[[list[Any]], Any] | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}: at least 1 is needed")
        self.dataset = dataset
        self.num_samples = _length_of(dataset)
        self.samples_per_batch = batch_size
        self.collate_fn = collate_fn or default_collate
        wanted = -(-self.num_samples // max(ITEMS_PER_SHARD, batch_size))
        self.num_shards = min(wanted, MAX_NUM_SHARDS)

    def batches(self, first: int, last: int) -> Iterator[Batch]:
        """The samples first..last-1 in order, `batch_size` at a time."""
        for start in range(first, last, self.samples_per_batch):
            yield self.read(start, min(start + self.samples_per_batch, last))

    def read(self, first: int, last: int) -> Batch:
        """The samples first..last-1 as one batch."""
        numbers = range(first, last)
        return Batch(np.array(numbers), self.collate_fn(self._items(numbers)), 0)

    def _items(self, sample_numbers: range) -> list[Any]:
        """Some items, through PyTorch's batched `__getitems__` where the dataset has it."""
        if callable(getattr(self.dataset, "__getitems__", None)):
            return self.dataset.__getitems__(list(sample_numbers))
        return [self._item(number) for number in sample_numbers]

    def _item(self, number: int) -> Any:
        """One item."""
        try:
            return self.dataset[number]
        except Exception as error:
            raise RuntimeError(
                f"{type(self.dataset).__name__} fails at sample {number}: "
                f"{type(error).__name__}: {error}"
            ) from error


class StreamReader:
    """Reads the rows of a stream, batch by batch, its shards one by one; at the start it counts them, in one pass.

    Args:
        stream: of `datasets`, with the identity and the sample numbers of what it is kept as.
        batch_size, collate_fn: as of `ItemReader`; the last batch of a shard of the stream may be smaller.
    """

    delivers = "items"

    def __init__(
        self,
        stream: Any,
        *,
        batch_size: int = 1,
        collate_fn: Callable[[list[Any]], Any] | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}: at least 1 is needed")
        self.dataset = CountedStream(stream)
        self.num_samples = len(self.dataset)
        self.samples_per_batch = batch_size
        self.collate_fn = collate_fn or default_collate
        self.bounds = self.dataset.bounds
        self.num_shards = len(self.bounds) - 1

    def batches(self, first: int, last: int) -> Iterator[Batch]:
        """The samples first..last-1 in order, `batch_size` at a time."""
        rows = self.dataset.rows(first, last)
        for start in range(first, last, self.samples_per_batch):
            numbers = range(start, min(start + self.samples_per_batch, last))
            items = list(islice(rows, len(numbers)))
            if len(items) < len(numbers):
                raise ValueError(
                    f"the stream ends before sample {numbers[len(items)]}, but had {self.num_samples} when it was counted"
                )
            yield Batch(np.array(numbers), self.collate_fn(items), 0)

    def read(self, first: int, last: int) -> Batch:
        """The samples first..last-1 as one batch."""
        items = list(self.dataset.rows(first, last))
        return Batch(np.arange(first, last), self.collate_fn(items), 0)


DatasetReader = TokenSpanReader | ItemReader | StreamReader


def release_pages(array: np.ndarray) -> None:
    """Give back all pages of the read-only memory map that an array is a view on, if it is one.

    Pages of a file count as memory of the process that read them until something else needs the
    room. The file's content stays in the system's cache; read again, a page comes from there.
    """
    base: object = array
    while base is not None and not isinstance(base, mmap.mmap):
        base = base.obj if isinstance(base, memoryview) else getattr(base, "base", None)
    # Changes made to a private writable map would be lost with its pages.
    if base is not None and hasattr(base, "madvise") and memoryview(base).readonly:
        base.madvise(mmap.MADV_DONTNEED)
