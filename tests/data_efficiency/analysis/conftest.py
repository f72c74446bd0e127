"""Stand-ins for datasets, small enough to check by hand."""

import numpy as np
import pytest

from data_efficiency.analysis.dataset_reader import TokenSpanReader


class WindowDataset:
    """Windows of `length` + 1 tokens, neighbours sharing one, as a GPT dataset cuts them."""

    def __init__(self, tokens, length, name="corpus"):
        self.tokens = tokens
        self.length = length
        self.num_samples = (len(tokens) - 1) // length
        self.identity = {"name": name, "sequence_length": length}

    def __len__(self):
        return self.num_samples

    def __getitem__(self, sample):
        return self.tokens[sample * self.length : (sample + 1) * self.length + 1]

    def token_spans(self, first, last):
        tokens = self.tokens[first * self.length : last * self.length + 1]
        starts = np.arange(last - first, dtype=np.int64) * self.length
        return tokens, starts, np.full(last - first, self.length + 1, dtype=np.int64)


VOCAB_SIZE = 60


@pytest.fixture
def make_windows():
    """A function that makes a dataset of random windows, rare tokens included."""

    def make(num_samples=500, length=16, seed=0, **changes):
        generator = np.random.default_rng(seed)
        tokens = np.minimum(generator.geometric(0.1, num_samples * length + 1) - 1, VOCAB_SIZE - 1)
        return WindowDataset(tokens.astype(np.uint16), length, **changes)

    return make


@pytest.fixture
def windows(make_windows):
    return make_windows()


@pytest.fixture
def small_batches():
    """A reader class that needs many batches for a small dataset."""

    class SmallBatches(TokenSpanReader):
        def __init__(self, dataset):
            super().__init__(dataset, tokens_per_batch=200)

    return SmallBatches
