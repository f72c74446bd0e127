import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_efficiency.analysis.token_windows import split_boundaries
from megatron.data.gpt_dataset import GPTDataset
from megatron.data.indexed_dataset import IndexedDatasetWriter

LENGTHS = [5, 0, 17, 30, 1, 8, 40, 3, 21, 9]


def write_corpus(prefix, lengths=LENGTHS, offset=0):
    tokens = (np.arange(sum(lengths)) + offset).astype(np.uint16)
    with IndexedDatasetWriter(prefix, np.dtype("uint16")) as writer:
        writer.add_documents(tokens, np.array(lengths, np.int32))
    return tokens


@pytest.fixture
def prefix(tmp_path):
    path = str(tmp_path / "corpus")
    write_corpus(path)
    return path


@given(st.lists(st.integers(0, 100), min_size=1, max_size=3), st.integers(0, 10_000))
def test_splits_partition_the_documents(parts, num_documents):
    if sum(parts) == 0:
        return
    bounds = split_boundaries(",".join(map(str, parts)), num_documents)
    assert bounds["train"][0] == 0
    assert bounds["train"][1] == bounds["valid"][0]
    assert bounds["valid"][1] == bounds["test"][0]
    assert bounds["test"][1] == num_documents
    for name, part in zip(bounds, parts, strict=False):
        size = bounds[name][1] - bounds[name][0]
        assert abs(size - num_documents * part / sum(parts)) <= 1


@pytest.mark.parametrize(
    "split", ["", "a,b", "1,2,3,4", "-1,2", "0,0,0", "nan,1,1", "1,nan", "inf,1,1", "1e308,1e308"]
)
def test_splits_that_make_no_sense(split):
    with pytest.raises(ValueError, match="--split is .* must be up to three numbers"):
        split_boundaries(split, 10)


@pytest.mark.parametrize("sequence_length", [1, 4, 7, 20])
@pytest.mark.parametrize("split_name", ["train", "valid"])
def test_samples_are_windows_of_the_split_tokens(prefix, sequence_length, split_name):
    all_tokens = np.arange(sum(LENGTHS))
    documents = np.split(all_tokens, np.cumsum(LENGTHS)[:-1])
    chosen = {"train": documents[:6], "valid": documents[6:9]}[split_name]
    stream = np.concatenate(chosen)
    dataset = GPTDataset(
        prefix, split_name=split_name, split="6,3,1", sequence_length=sequence_length
    )
    windows = []
    start = 0
    while start + sequence_length + 1 <= len(stream):
        windows.append(stream[start : start + sequence_length + 1])
        start += sequence_length
    assert len(dataset) == len(windows)
    for number, window in enumerate(windows):
        sample = dataset[number]
        assert sample["tokens"].dtype == sample["labels"].dtype == np.int64
        assert sample["tokens"].tolist() == window[:-1].tolist()
        assert sample["labels"].tolist() == window[1:].tolist()
    order = np.random.default_rng(0).permutation(len(dataset))
    batch = dataset.get_batch(order)
    assert batch["tokens"].tolist() == [dataset[int(i)]["tokens"].tolist() for i in order]


def test_token_spans_hold_the_same_windows(prefix):
    dataset = GPTDataset(prefix, split="10,0,0", sequence_length=7)
    tokens, starts, lengths = dataset.token_spans(2, 6)
    assert len(tokens) == starts[-1] + lengths[-1]
    for number, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        sample = dataset[2 + number]
        span = tokens[start : start + length]
        assert span[:-1].tolist() == sample["tokens"].tolist()
        assert span[1:].tolist() == sample["labels"].tolist()
    assert np.shares_memory(tokens, dataset.token_spans(0, 9)[0])


def test_identity_follows_content_not_path(prefix, tmp_path):
    first = GPTDataset(prefix, sequence_length=4).identity
    write_corpus(str(tmp_path / "copy"))
    assert GPTDataset(str(tmp_path / "copy"), sequence_length=4).identity == first
    write_corpus(str(tmp_path / "other"), offset=1)
    assert GPTDataset(str(tmp_path / "other"), sequence_length=4).identity != first
    assert GPTDataset(prefix, sequence_length=5).identity != first
    assert GPTDataset(prefix, sequence_length=4, split="9,1,0").identity != first


def test_errors(prefix):
    dataset = GPTDataset(prefix, sequence_length=4)
    with pytest.raises(IndexError, match="of a dataset of"):
        dataset[len(dataset)]
    with pytest.raises(ValueError, match="too few for one sample of 500"):
        GPTDataset(prefix, sequence_length=500)
    with pytest.raises(ValueError, match="the valid split .* has 0 tokens"):
        GPTDataset(prefix, split_name="valid", split="1,0,0", sequence_length=4)
    with pytest.raises(FileNotFoundError, match="no such file"):
        GPTDataset(prefix + "x", sequence_length=4)


def test_documents_of_a_split_and_where_they_lie(prefix):
    dataset = GPTDataset(prefix, split="4,6,0", split_name="valid", sequence_length=8)
    assert dataset.documents == range(4, 10)
    assert dataset.document_offsets().tolist() == [0, 1, 9, 49, 52, 73, 82]
    tokens, starts, _ = dataset.token_spans(0, len(dataset))
    assert tokens[0] == sum(LENGTHS[:4])
    whole = GPTDataset(prefix, split="1", sequence_length=8).document_offsets()
    assert whole.tolist() == np.cumsum([0, *LENGTHS]).tolist()
