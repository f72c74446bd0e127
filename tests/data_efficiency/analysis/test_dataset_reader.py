"""Batches hold the samples whose numbers they name."""

import numpy as np
import pytest
import torch

from data_efficiency.analysis.dataset_reader import ItemReader, TokenSpanReader


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
