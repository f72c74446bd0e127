import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_efficiency import IGNORED_LABEL
from megatron.data.bert_dataset import BertDataset, BertSettings, BertVocabulary
from megatron.tokenizer import train_bpe, train_wordpiece
from tests.megatron.data.sentence_corpus import CLS, FIRST_TOKEN, MASK, PAD, SEP, write_sentences

DOCUMENTS = [[4, 9, 6, 3, 8, 30, 2, 5, 7], [3], [5, 5], [], [12, 3, 4, 4, 9, 1, 1, 8, 6, 3]] * 12
LENGTH = 24


def dataset_of(prefix, split="1", sequence_length=LENGTH, **fields):
    return BertDataset(prefix, BertSettings(sequence_length=sequence_length, **fields), split=split)


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    return write_sentences(str(tmp_path_factory.mktemp("corpus") / "c"), DOCUMENTS)


@pytest.fixture(scope="module")
def dataset(prefix):
    return dataset_of(prefix)


def restored(batch):
    """The rows before masking."""
    return np.where(batch["labels"] == IGNORED_LABEL, batch["tokens"], batch["labels"])


def test_rows_are_two_segments_with_control_tokens_and_padding(dataset):
    batch = dataset.get_batch(np.arange(len(dataset)))
    assert {name: (rows.dtype, rows.shape) for name, rows in batch.items()} == {
        **dict.fromkeys(
            ("tokens", "token_types", "padding_mask", "labels"), (np.int64, (len(dataset), LENGTH))
        ),
        "sentence_labels": (np.int64, (len(dataset),)),
    }
    segments = dataset._pairs.segments(np.arange(len(dataset)))
    for number, row in enumerate(restored(batch)):
        first_start, first_length, second_start, second_length, is_swapped = (
            int(part[number]) for part in segments
        )
        first = list(range(FIRST_TOKEN + first_start, FIRST_TOKEN + first_start + first_length))
        second = list(range(FIRST_TOKEN + second_start, FIRST_TOKEN + second_start + second_length))
        real = [CLS, *first, SEP, *second, SEP]
        num_padding = LENGTH - len(real)
        assert row.tolist() == real + [PAD] * num_padding
        assert batch["padding_mask"][number].tolist() == [1] * len(real) + [0] * num_padding
        types = [0] * (len(first) + 2) + [1] * (len(second) + 1) + [0] * num_padding
        assert batch["token_types"][number].tolist() == types
        assert batch["sentence_labels"][number] == is_swapped
        assert (first[0] > second[0]) == is_swapped
    assert 0 < batch["sentence_labels"].mean() < 1
    assert set(restored(batch)[batch["labels"] != IGNORED_LABEL]).isdisjoint({CLS, SEP, PAD})


def test_about_15_percent_of_the_text_is_masked(dataset):
    batch = dataset.get_batch(np.arange(len(dataset)))
    num_text = batch["padding_mask"].sum() - 3 * len(dataset)
    assert abs((batch["labels"] != IGNORED_LABEL).sum() / num_text - 0.15) < 0.02
    assert (batch["tokens"] == MASK).any()


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_a_row_depends_on_sample_and_visit_alone(dataset, data):
    numbers = st.lists(st.integers(0, len(dataset) - 1), min_size=1, max_size=9)
    samples = np.array(data.draw(numbers))
    visits = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(samples))))[: len(samples)]
    batch = dataset.get_batch(samples, visits)
    for number in range(len(samples)):
        alone = dataset.get_batch(samples[[number]], visits[[number]])
        for name, rows in alone.items():
            assert np.array_equal(batch[name][number], rows[0]), name


def test_other_visits_have_other_masks_over_the_same_text(dataset, prefix):
    samples = np.arange(len(dataset))
    first, again = dataset.get_batch(samples), dataset.get_batch(samples, np.zeros_like(samples))
    later = dataset.get_batch(samples, np.ones_like(samples))
    other = dataset_of(prefix, mask_seed=5).get_batch(samples)
    assert np.array_equal(first["labels"], again["labels"])
    for changed in (later, other):
        assert not np.array_equal(first["labels"], changed["labels"])
        assert np.array_equal(restored(first), restored(changed))
        assert np.array_equal(first["sentence_labels"], changed["sentence_labels"])
    assert dataset_of(prefix, mask_prob=0.0)[3]["labels"].max() == IGNORED_LABEL


def test_token_spans_are_the_unmasked_rows_without_padding(dataset):
    low, high = 3, len(dataset) - 2
    tokens, starts, lengths = dataset.token_spans(low, high)
    batch = dataset.get_batch(np.arange(low, high))
    assert lengths.tolist() == batch["padding_mask"].sum(1).tolist()
    assert lengths.max() <= LENGTH
    assert len(tokens) == starts[-1] + lengths[-1]
    for row, start, length in zip(restored(batch), starts, lengths, strict=True):
        assert tokens[start : start + length].tolist() == row[:length].tolist()


def test_items_are_rows(dataset):
    item = dataset[5]
    batch = dataset.get_batch(np.array([5]))
    assert all(np.array_equal(item[name], batch[name][0]) for name in batch)
    with pytest.raises(IndexError, match="of a dataset of"):
        dataset[len(dataset)]


def test_whole_words_where_the_vocabulary_says_what_continues_one(prefix):
    size = FIRST_TOKEN + sum(map(sum, DOCUMENTS))
    vocabulary = BertVocabulary(
        cls=CLS, sep=SEP, pad=PAD, mask=MASK, size=size, continuations=np.arange(size) % 2 == 1
    )
    settings = BertSettings(sequence_length=LENGTH, mask_prob=0.4)
    batch = BertDataset(prefix, settings, vocabulary=vocabulary).get_batch(np.arange(20))
    chosen = batch["labels"] != IGNORED_LABEL
    goes_on = (restored(batch)[:, 1:] % 2 == 1) & (np.diff(restored(batch)) == 1)
    assert chosen.any()
    assert np.array_equal(chosen[:, 1:][goes_on], chosen[:, :-1][goes_on])


def test_vocabulary_of_a_tokenizer():
    tokenizer = train_wordpiece(["the low and the lowest", "the slow and the slowest"] * 5, 64)
    vocabulary = BertVocabulary.of_tokenizer(tokenizer)
    assert (vocabulary.cls, vocabulary.sep, vocabulary.pad, vocabulary.mask) == (2, 3, 0, 4)
    assert (vocabulary.size, vocabulary.continuations) == (tokenizer.vocab_size, None)
    whole = BertVocabulary.of_tokenizer(tokenizer, whole_words=True)
    assert whole.continuations.tolist() == tokenizer.continuations.tolist()
    with pytest.raises(ValueError, match=r"the vocabulary has no \[CLS\]"):
        BertVocabulary.of_tokenizer(train_bpe(["a b"], 260))


def test_splits_hold_their_own_documents(prefix):
    parts = [
        BertDataset(prefix, BertSettings(sequence_length=LENGTH), split="30,20,10", split_name=name)
        for name in ("train", "valid", "test")
    ]
    assert [part.documents for part in parts] == [range(30), range(30, 50), range(50, 60)]
    edges = np.cumsum([0, *map(sum, DOCUMENTS)]) + FIRST_TOKEN
    for part in parts:
        tokens = part.token_spans(0, len(part))[0]
        text = tokens[tokens >= FIRST_TOKEN]
        assert text.min() >= edges[part.documents.start]
        assert text.max() < edges[part.documents.stop]
    assert sum(map(len, parts)) == len(dataset_of(prefix))
    assert dataset_of(prefix).num_skipped_documents == 24


def test_the_document_of_each_sample(prefix):
    dataset = BertDataset(
        prefix, BertSettings(sequence_length=LENGTH), split="30,30", split_name="valid"
    )
    edges = np.cumsum([0, *map(sum, DOCUMENTS)]) + FIRST_TOKEN
    expected = []
    for number in range(len(dataset)):
        tokens = dataset.token_spans(number, number + 1)[0]
        text = tokens[tokens >= FIRST_TOKEN]
        (document,) = set(np.searchsorted(edges, text, side="right") - 1)
        expected.append(document)
    assert dataset.sample_documents().tolist() == expected
    assert dataset.num_corpus_documents == len(DOCUMENTS)


def test_identity_tells_what_the_text_of_a_sample_depends_on(prefix, tmp_path, dataset):
    copy = write_sentences(str(tmp_path / "copy"), DOCUMENTS)
    assert dataset_of(copy).identity == dataset.identity
    assert dataset_of(prefix, mask_prob=0.3, mask_seed=9).identity == dataset.identity
    changed = [{"seed": 5}, {"short_seq_prob": 0.2}, {"sequence_length": 30}, {"split": "9,1"}]
    for change in changed:
        assert dataset_of(prefix, **change).identity != dataset.identity, change
    other = write_sentences(str(tmp_path / "other"), [*DOCUMENTS[:-1], [2, 2]])
    assert dataset_of(other).identity != dataset.identity


def test_errors(prefix, tmp_path):
    with pytest.raises(ValueError, match="--seq-length is 4: BERT needs at least 5"):
        dataset_of(prefix, sequence_length=4)
    with pytest.raises(ValueError, match=r"--mask-prob is 1.5: must be from 0 to 1"):
        dataset_of(prefix, mask_prob=1.5)
    single = write_sentences(str(tmp_path / "single"), [[4], [5], [6]])
    with pytest.raises(ValueError, match="has 3 documents, none with two sentences; make the"):
        dataset_of(single)
    foreign = write_sentences(str(tmp_path / "foreign"), [[4, 4]], {"vocab_size": 50})
    with pytest.raises(ValueError, match=r"foreign\.meta\.json does not tell the ids of \[CLS\]"):
        dataset_of(foreign)
    with pytest.raises(FileNotFoundError, match="no such file"):
        dataset_of(prefix + "x")
