"""Batches hold the samples whose numbers they name; pages of read-only maps are given back, what they hold stays."""

import mmap
from pathlib import Path

import numpy as np
import pytest
import torch

from data_efficiency.analysis.dataset_reader import (
    BYTES_BETWEEN_RELEASES,
    ItemReader,
    StreamReader,
    TokenSpanReader,
    release_pages,
)
from data_efficiency.dataset_identity import describe_dataset


def test_own_collate_function_gets_the_items():
    reader = ItemReader(range(5), batch_size=2, collate_fn=tuple)
    assert [batch.content for batch in reader.batches(1, 5)] == [(1, 2), (3, 4)]


@pytest.mark.parametrize("tokens_per_batch", [1, 17, 100, 10**6])
def test_spans_carry_their_numbers(windows, tokens_per_batch):
    reader = TokenSpanReader(windows, tokens_per_batch=tokens_per_batch)
    seen = []
    for batch in reader.batches(3, 200):
        tokens, starts, lengths = batch.content
        for number, start, length in zip(batch.sample_numbers, starts, lengths, strict=True):
            assert np.array_equal(tokens[start : start + length], windows[number])
        assert batch.num_tokens == len(tokens)
        seen += batch.sample_numbers.tolist()
    assert seen == list(range(3, 200))


def test_number_of_shards_follows_the_size(make_windows):
    assert TokenSpanReader(make_windows(10)).num_shards == 1
    big = make_windows(10)
    big.num_samples = 10**6
    assert TokenSpanReader(big).num_shards == 5, "17 million tokens"
    big.num_samples = 10**12
    assert TokenSpanReader(big).num_shards == 1024
    assert ItemReader(range(1025)).num_shards == 2
    assert ItemReader(range(10**8)).num_shards == 1024
    assert ItemReader(range(4000), batch_size=10_000).num_shards == 1


def test_datasets_that_cannot_be_read(windows):
    with pytest.raises(ValueError, match="list has no token_spans"):
        TokenSpanReader([1, 2])
    with pytest.raises(ValueError, match="list has no samples to analyze"):
        ItemReader([])
    with pytest.raises(ValueError, match="generator has no length; a map-style dataset is needed"):
        ItemReader(iter(x for x in (1, 2)))
    with pytest.raises(ValueError, match="batch_size is 0: at least 1"):
        ItemReader([1], batch_size=0)
    windows.token_spans = lambda first, last: (np.arange(9), np.zeros(2), np.zeros(2))
    message = r"token_spans\(0, 5\) of WindowDataset gave 2 starts and 2 lengths"
    with pytest.raises(ValueError, match=message):
        next(TokenSpanReader(windows).batches(0, 5))


def test_items_are_fetched_together_where_the_dataset_can():
    class Together(list):
        def __getitems__(self, numbers):
            assert isinstance(numbers, list)
            return [torch.tensor([number, number]) for number in numbers]

        def __getitem__(self, number):
            raise AssertionError

    batches = list(ItemReader(Together(range(5)), batch_size=3).batches(0, 5))
    assert [batch.content[:, 0].tolist() for batch in batches] == [[0, 1, 2], [3, 4]]


def test_item_that_cannot_be_read_is_named():
    reader = ItemReader(list(range(5)), batch_size=2)
    reader.dataset = {0: 1, 1: 2, 2: 3}
    with pytest.raises(RuntimeError, match="dict fails at sample 3: KeyError: 3"):
        list(reader.batches(0, 5))


def test_batches_follow_the_lengths_of_the_whole_dataset():
    """Short samples first would make a guess from the beginning far too large."""

    class Growing:
        def __len__(self):
            return 10_000

        def token_spans(self, first, last):
            lengths = np.arange(first, last, dtype=np.int64)
            starts = np.cumsum(lengths) - lengths
            return np.zeros(lengths.sum(), np.uint8), starts, lengths

    reader = TokenSpanReader(Growing(), tokens_per_batch=50_000)
    assert 8 <= reader.samples_per_batch <= 12
    assert reader.num_shards == pytest.approx(50e6 / 2**22, abs=2)


def resident_bytes(path):
    """Memory of this process that holds pages of a file."""
    total, is_file = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        fields = line.split()
        if not fields[0].endswith(":"):
            is_file = fields[-1] == str(path)
        elif is_file and fields[0] == "Rss:":
            total += int(fields[1]) * 1024
    return total


@pytest.fixture
def numbers(tmp_path):
    path = tmp_path / "numbers.bin"
    np.arange(2**20, dtype=np.int32).tofile(path)
    return path


def view_of(path, mode):
    if mode == "mmap":
        with open(path, "rb") as file:
            return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.int32)
    return np.memmap(path, np.int32, mode=mode)


@pytest.mark.parametrize("mode", ["mmap", "r"])
def test_read_only_maps_are_released(numbers, mode):
    view = view_of(numbers, mode)[100:].view(np.uint16)[8:]
    total = int(view.sum())
    assert resident_bytes(numbers) >= 2**22
    release_pages(view)
    assert resident_bytes(numbers) == 0
    assert int(view.sum()) == total


def test_changes_to_a_private_map_are_kept(numbers):
    view = view_of(numbers, "c")
    view[5] = 7
    release_pages(view)
    assert view[5] == 7


def test_plain_arrays_are_left_alone():
    array = np.arange(10)
    release_pages(array[2:])
    release_pages(np.frombuffer(b"abcd", np.uint8))
    assert array.tolist() == list(range(10))


class Mapped:
    """A dataset of one stretch of a map, read again and again."""

    def __init__(self, view):
        self.view = view

    def __len__(self):
        return 2 * BYTES_BETWEEN_RELEASES // self.view.nbytes

    def token_spans(self, first, last):
        return self.view, np.zeros(last - first, int), np.full(last - first, len(self.view))


def test_release_comes_now_and_then(numbers):
    view = view_of(numbers, "r")
    batches = TokenSpanReader(Mapped(view)).batches(0, len(Mapped(view)))
    for _ in range(BYTES_BETWEEN_RELEASES // view.nbytes):
        next(batches)
        int(view.sum())
        assert resident_bytes(numbers) >= 2**22
    next(batches)
    assert resident_bytes(numbers) == 0


def test_a_stream_is_read_as_the_dataset_that_it_is_kept_as(tmp_path):
    datasets = pytest.importorskip("datasets")
    dataset = datasets.Dataset.from_dict({"x": list(range(10))})
    stream = dataset.to_iterable_dataset(num_shards=3)
    reader = StreamReader(stream, batch_size=3)
    assert (reader.num_samples, reader.bounds) == (10, (0, 4, 7, 10))
    assert describe_dataset(reader.dataset) == describe_dataset(dataset)
    batches = [
        (batch.sample_numbers.tolist(), batch.content["x"].tolist())
        for batch in reader.batches(2, 8)
    ]
    assert batches == [([2, 3, 4], [2, 3, 4]), ([5, 6, 7], [5, 6, 7])]
    assert reader.read(6, 9).content["x"].tolist() == [6, 7, 8]
    with pytest.raises(ValueError, match="batch_size is 0: at least 1 is needed"):
        StreamReader(stream, batch_size=0)


def test_a_stream_that_became_shorter():
    datasets = pytest.importorskip("datasets")
    left = [4]

    def rows():
        yield from ({"x": number} for number in range(left[0]))

    reader = StreamReader(datasets.IterableDataset.from_generator(rows), batch_size=2)
    left[0] = 3
    with pytest.raises(ValueError, match="the stream ends before sample 3, but had 4 when it was"):
        list(reader.batches(0, 4))
