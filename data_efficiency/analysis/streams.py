"""Streams of `datasets`: which row is which sample, how many there are, and how several readers share one.

Sample i is the i-th row as one reader meets it. A stream that shuffles has no such rows. Several readers take its shards,
such as files, only where these give one after the other what one reader meets.
"""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

_KEEPS_ORDER = (
    "ArrowExamplesIterable",
    "ExamplesIterable",
    "FilteredExamplesIterable",
    "FormattedExamplesIterable",
    "MappedExamplesIterable",
    "RebatchedArrowExamplesIterable",
    "SelectColumnsIterable",
)
"""Parts of a stream whose shards, one after the other, are the whole ..."""
_UNLESS = ("batched", "with_indices", "drop_last_batch")
"""... but where they see beyond one row."""

TRAINED_AS = {"IterableDataset": "Dataset"}
"""Class of a stream -> class of what it becomes where it is kept, which is what is trained on."""


def is_stream(dataset: Any) -> bool:
    """Whether a dataset is a stream of `datasets`."""
    return getattr(dataset, "_ex_iterable", None) is not None


def refuse_shuffling(dataset: Any) -> None:
    """Raise ValueError if a stream of `datasets` shuffles: its rows have other places where they are kept."""
    for part in _parts(getattr(dataset, "_ex_iterable", None)):
        if "Shuffled" in type(part).__name__:
            raise ValueError(
                "the stream shuffles, and a sample's number is its place in the dataset that is trained on: "
                "analyze it before shuffle(), or what it was kept as; training draws in an order of its own"
            )


def shards_of(dataset: Any) -> list[Any]:
    """Streams that are the given one, one after the other; it alone where it cannot be cut so."""
    chain = list(_parts(getattr(dataset, "_ex_iterable", None)))
    may_be_cut = bool(chain) and all(
        type(part).__name__ in _KEEPS_ORDER
        and not any(getattr(part, name, False) for name in _UNLESS)
        for part in chain
    )
    if not may_be_cut or dataset.num_shards < 2:
        return [dataset]
    return [dataset.shard(dataset.num_shards, number) for number in range(dataset.num_shards)]


def _parts(part: Any) -> Iterator[Any]:
    """A part of a stream and all that it reads from."""
    if part is None:
        return
    yield part
    yield from _parts(getattr(part, "ex_iterable", None))
    for source in getattr(part, "ex_iterables", ()):
        yield from _parts(source)


class CountedStream:
    """A stream whose rows were counted, in one pass: it has a length, and rows from any place on.

    Attributes:
        shards: streams, one after the other.
        bounds: shard i holds the samples bounds[i]..bounds[i + 1] - 1.
        identity: that of what is trained on: the stream's rows where they are kept.

    Raises:
        ValueError: if the stream shuffles, or has no rows.
    """

    def __init__(self, stream: Any) -> None:
        refuse_shuffling(stream)
        self.shards = shards_of(stream)
        bounds = [0]
        kept = []
        for shard in self.shards:
            num_rows = sum(1 for _ in shard)
            if num_rows:
                kept.append(shard)
                bounds.append(bounds[-1] + num_rows)
        if not kept:
            raise ValueError("the stream has no samples to analyze")
        self.shards, self.bounds = kept, tuple(bounds)
        kind = type(stream).__name__
        self.identity: Mapping[str, Any] = {
            "type": TRAINED_AS.get(kind, kind),
            "num_samples": len(self),
        }

    def __len__(self) -> int:
        return self.bounds[-1]

    def rows(self, first: int, last: int) -> Iterator[Any]:
        """The samples first..last-1, in order."""
        for shard, begin, end in zip(self.shards, self.bounds, self.bounds[1:], strict=False):
            if begin < last and first < end:
                skipped = max(first - begin, 0)
                rows = shard.skip(skipped) if skipped else shard
                yield from islice(rows, min(last, end) - begin - skipped)
