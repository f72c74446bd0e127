import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_efficiency import IGNORED_LABEL
from megatron.data.documents import Documents
from megatron.data.gpt_dataset import GPTDataset
from megatron.data.indexed_dataset import IndexedDatasetWriter

ALL = Documents(reset_attention_mask=True, reset_position_ids=True, eod_mask_loss=True)
END = 9


@given(st.lists(st.lists(st.integers(7, 9), min_size=6, max_size=6), min_size=1, max_size=4))
def test_entries_are_those_of_a_slow_loop(rows):
    """As Megatron-LM says it: behind each end, all is another document, and counts from 0."""
    tokens = np.array(rows)
    labels = np.roll(tokens, -1, 1)
    found = ALL.entries(tokens, labels, END)
    for row, numbers in enumerate(rows):
        document = place = 0
        for column, token in enumerate(numbers):
            assert found["document_ids"][row, column] == document
            assert found["position_ids"][row, column] == place
            expected = IGNORED_LABEL if token == END else labels[row, column]
            assert found["labels"][row, column] == expected
            document, place = (document + 1, 0) if token == END else (document, place + 1)


def test_each_flag_alone():
    tokens = np.array([[1, END, 2]])
    told = {
        flag: sorted(Documents(**{flag: True}).entries(tokens, tokens, END)) for flag in ALL.flags
    }
    assert told == {
        "reset_attention_mask": ["document_ids", "labels"],
        "reset_position_ids": ["labels", "position_ids"],
        "eod_mask_loss": ["labels"],
    }


def write(prefix, metadata):
    tokens = np.array([1, 2, END, 3, END, 4, 5, 6, END, 1], np.uint16)
    with IndexedDatasetWriter(prefix, np.dtype("uint16")) as writer:
        writer.add_documents(tokens, np.array([3, 2, 4, 1], np.int32))
        writer.finish(metadata)


@pytest.mark.parametrize("metadata", [None, {"eod": END}])
def test_samples_tell_their_documents(tmp_path, metadata):
    write(str(tmp_path / "corpus"), metadata)
    documents = Documents(reset_attention_mask=True, end_of_text=None if metadata else END)
    options = {"split": "1", "sequence_length": 4}
    dataset = GPTDataset(str(tmp_path / "corpus"), documents=documents, **options)
    plain = GPTDataset(str(tmp_path / "corpus"), **options)
    batch = dataset.get_batch(np.arange(2))
    assert batch["document_ids"].tolist() == [[0, 0, 0, 1], [0, 1, 1, 1]]
    assert dataset[1]["document_ids"].tolist() == [0, 1, 1, 1]
    assert sorted(plain.get_batch(np.arange(2))) == ["labels", "tokens"]
    assert (batch["tokens"] == plain.get_batch(np.arange(2))["tokens"]).all()
    assert dataset.identity == plain.identity


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (None, "does not say which token ends its documents: give its tokenizer"),
        ({"eod": None}, "no token ends the documents of .*--append-eod"),
    ],
)
def test_what_tells_no_documents(tmp_path, metadata, message):
    write(str(tmp_path / "corpus"), metadata)
    options = {"split": "1", "sequence_length": 4}
    with pytest.raises(ValueError, match=f"--eod-mask-loss: .*{message}"):
        GPTDataset(
            str(tmp_path / "corpus"),
            documents=Documents(eod_mask_loss=True, end_of_text=END if metadata else None),
            **options,
        )


@pytest.mark.parametrize(
    ("metadata", "end"),
    [(None, 5), ({"vocab_size": 9}, 5), ({"eod": END}, END), ({"eod": None}, None)],
)
def test_the_corpus_says_what_ends_its_texts_before_the_tokenizer_does(metadata, end):
    assert Documents(end_of_text=5).known_end(metadata) == end
    assert Documents().known_end({"vocab_size": 9}) is None
