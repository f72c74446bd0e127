import numpy as np
import pytest

from megatron.data.blended_dataset import (
    BlendedDataset,
    in_proportion,
    open_dataset,
)
from megatron.data.documents import Documents
from megatron.data.gpt_dataset import GPTDataset
from tests.megatron.data.test_gpt_dataset import write_corpus


@pytest.fixture
def paths(tmp_path):
    """Two corpora; no token of one is in the other."""
    write_corpus(str(tmp_path / "a"), [60, 41], offset=0)
    write_corpus(str(tmp_path / "b"), [50], offset=1000)
    return str(tmp_path / "a"), str(tmp_path / "b")


def open_blend(paths, weights=("0.7", "0.3"), split="1,0,0"):
    data_path = [weights[0], paths[0], weights[1], paths[1]]
    return open_dataset(GPTDataset, data_path, split_name="train", split=split, sequence_length=10)


def open_parts(paths):
    return [GPTDataset(path, split="1,0,0", sequence_length=10) for path in paths]


def test_samples_are_those_of_the_parts_one_after_the_other(paths):
    blend, parts = open_blend(paths), open_parts(paths)
    rows = [part[number] for part in parts for number in range(len(part))]
    assert blend.part_sizes == (10, 4)
    assert len(blend) == len(rows) == 14
    for number, row in enumerate(rows):
        assert blend[number]["tokens"].tolist() == row["tokens"].tolist()
        assert blend[number]["labels"].tolist() == row["labels"].tolist()
    order = np.array([12, 3, 3, 9, 10, 0])
    batch = blend.get_batch(order)
    assert batch["tokens"].tolist() == [rows[number]["tokens"].tolist() for number in order]
    with pytest.raises(IndexError, match="sample 14 of a dataset of 14"):
        blend[14]


def test_a_blend_ends_texts_as_all_of_its_parts_do(paths):
    told = [
        GPTDataset(path, split="1,0,0", sequence_length=10, documents=Documents(end_of_text=end))
        for path, end in zip(paths, (7, 8), strict=True)
    ]
    assert [part.end_of_text for part in told] == [7, 8]
    assert BlendedDataset(told, [1, 1]).end_of_text is None
    assert BlendedDataset([told[0], told[0]], [1, 1]).end_of_text == 7
    assert open_blend(paths).end_of_text is None


def test_visits_reach_the_parts():
    class Visited(list):
        identity, vocab_size, sequence_length = {"type": "Visited"}, None, 1

        def get_batch(self, samples, visits):
            return {"visits": visits * 100 + samples}

    blend = BlendedDataset([Visited([0] * 3), Visited([0] * 5)], [1, 1])
    batch = blend.get_batch(np.array([7, 0, 2]), np.array([4, 5, 6]))
    assert batch["visits"].tolist() == [404, 500, 602]


@pytest.mark.parametrize(("first", "last"), [(0, 14), (8, 12), (2, 5), (11, 14)])
def test_token_spans_hold_the_same_windows(paths, first, last):
    blend = open_blend(paths)
    tokens, starts, lengths = blend.token_spans(first, last)
    assert len(starts) == last - first
    for number, start, length in zip(range(first, last), starts, lengths, strict=True):
        assert tokens[start : start + length - 1].tolist() == blend[number]["tokens"].tolist()


def test_identity_is_that_of_the_parts_whatever_the_weights(paths):
    identity = open_blend(paths).identity
    assert open_blend(paths, weights=("1", "9")).identity == identity
    assert open_blend(paths[::-1]).identity != identity
    assert [identity["parts"][str(n)] for n in (0, 1)] == [p.identity for p in open_parts(paths)]


def test_one_path_is_no_blend(paths):
    dataset = open_dataset(
        GPTDataset, paths[:1], split_name="train", split="1,0,0", sequence_length=10
    )
    assert isinstance(dataset, GPTDataset)
    assert in_proportion(dataset) is dataset


def test_first_samples_in_proportion_and_each_sample_once(paths):
    view = in_proportion(open_blend(paths, weights=("1", "1")))
    tokens = view.get_batch(np.arange(len(view)))["tokens"][:, 0]
    is_second = tokens >= 1000
    assert np.count_nonzero(is_second[:8]) == 4
    assert not is_second[8:].any()
    assert len(set(tokens.tolist())) == len(view) == 14


@pytest.mark.parametrize("data_path", [("a", "b"), ("0.5", "a", "0.5"), ("a", "1", "b", "2")])
def test_weights_and_paths_must_take_turns(data_path):
    with pytest.raises(ValueError, match="must be one path, or weights and paths in turn"):
        open_dataset(GPTDataset, data_path, split_name="train", split="1,0,0", sequence_length=10)


def test_parts_that_do_not_fit(paths):
    for weights in (("0", "1"), ("nan", "1"), ("1", "-2")):
        with pytest.raises(ValueError, match="needs one above 0"):
            open_blend(paths, weights=weights)
    parts = open_parts(paths)
    for number, part in enumerate(parts):
        part.identity = {**part.identity, "tokenizer": f"tokenizer {number}"}
    with pytest.raises(ValueError, match="different tokenizers"):
        BlendedDataset(parts, [1, 1])


def test_the_larger_vocabulary_counts_unless_one_is_unknown(paths):
    parts = open_parts(paths)
    parts[0].vocab_size, parts[1].vocab_size = 50, 80
    assert BlendedDataset(parts, [1, 1]).vocab_size == 80
    parts[0].vocab_size = None
    assert BlendedDataset(parts, [1, 1]).vocab_size is None
