import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_efficiency.analysis.token_windows import EmptySplitError, TokenWindows, split_boundaries
from tests.data_efficiency.small_corpus import write_corpus


@pytest.fixture
def prefix(tmp_path):
    write_corpus(tmp_path / "corpus", [list(range(0, 6)), list(range(6, 7)), list(range(7, 11))])
    return str(tmp_path / "corpus")


def test_windows_share_one_token_and_stop_at_the_last_whole_one(prefix):
    windows = TokenWindows(prefix, split="1", sequence_length=4)
    assert len(windows) == 2
    tokens, starts, lengths = windows.token_spans(0, 2)
    rows = [
        tokens[s : s + n].tolist() for s, n in zip(starts.tolist(), lengths.tolist(), strict=True)
    ]
    assert rows == [[0, 1, 2, 3, 4], [4, 5, 6, 7, 8]]
    assert windows.document_offsets().tolist() == [0, 6, 7, 11]
    assert windows.identity["num_samples"] == 2


def test_a_split_is_whole_documents(prefix):
    last = TokenWindows(prefix, split_name="test", split="1,1,1", sequence_length=3)
    assert last.tokens.tolist() == [7, 8, 9, 10]
    with pytest.raises(EmptySplitError, match="the valid split of .* has 1 tokens: too few"):
        TokenWindows(prefix, split_name="valid", split="1,1,1", sequence_length=3)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=3), st.integers(0, 1000))
def test_splits_partition_the_documents(parts, num_documents):
    if not any(parts):
        parts = [1]
    bounds = split_boundaries(",".join(map(str, parts)), num_documents)
    edges = np.array(list(bounds.values()))
    assert edges[0, 0] == 0
    assert edges[-1, 1] == num_documents
    assert np.array_equal(edges[1:, 0], edges[:-1, 1])


@pytest.mark.parametrize("split", ["", "a", "1,2,3,4", "-1,2", "0,0", "nan"])
def test_a_split_that_cannot_be(split):
    with pytest.raises(ValueError, match="--split is .*must be up to three numbers"):
        split_boundaries(split, 10)


def test_windows_of_a_corpus_by_url(storage, tmp_path):
    write_corpus(tmp_path / "c", [[1, 2, 3], [4, 5, 6, 7]])
    for ending in ("bin", "idx"):
        (storage / f"c.{ending}").put(tmp_path / f"c.{ending}")
    options = {"split": "1", "sequence_length": 2}
    here = TokenWindows(str(tmp_path / "c"), **options)
    there = TokenWindows(str(storage / "c"), **options)
    assert there.identity == here.identity
    for found in (there, copy.deepcopy(there), copy.deepcopy(here)):
        tokens, starts, lengths = found.token_spans(1, 3)
        assert (tokens.tolist(), starts.tolist(), lengths.tolist()) == (
            [3, 4, 5, 6, 7],
            [0, 2],
            [3, 3],
        )
    assert here.__getstate__()["tokens"] is None, "another process maps them anew"
