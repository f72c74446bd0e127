"""Pieces are those of a slow cut of each document; each place once, none of two documents, the rest counted."""

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_efficiency import DifficultyIndex, load_config
from data_efficiency.analysis.token_windows import EmptySplitError
from data_efficiency.sampling.sampler import CurriculumSampler
from megatron.config import DataConfig
from megatron.data import document_pieces
from megatron.data.document_pieces import DocumentPieces, open_pieces
from megatron.data.indexed_dataset import IndexedDatasetWriter


def write(folder, lengths, name="corpus"):
    """A corpus whose tokens count up, so that each is its own place."""
    lengths = np.asarray(lengths, np.int32)
    with IndexedDatasetWriter(folder / name, np.dtype("int32")) as writer:
        writer.add_documents(np.arange(lengths.sum()).astype(np.int32), lengths)
        writer.finish({"vocab_size": int(lengths.sum()) + 1})
    return str(folder / name)


def cut(lengths, longest, shortest):
    """Each length -> (first token, length) of its pieces, document by document."""
    found = {}
    first = 0
    for number in lengths:
        place, left, length = first, number - 1, longest
        while length >= shortest:
            if left >= length:
                found.setdefault(length, []).append(place)
                place, left = place + length, left - length
            else:
                length //= 2
        first += number
    return found


def pieces_of(prefix, longest=8, shortest=2, split="1", **more):
    lengths = [shortest << place for place in range((longest // shortest).bit_length())]
    return DocumentPieces(prefix, split=split, lengths=lengths, **more)


@settings(deadline=None, max_examples=12)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=30), st.integers(1, 2))
def test_pieces_are_those_of_a_slow_cut(tmp_path_factory, lengths, shortest):
    lengths = [*lengths, 9]
    dataset = pieces_of(write(tmp_path_factory.mktemp("c"), lengths), shortest=shortest)
    expected = cut(lengths, 8, shortest)
    first = 0
    for length, size in zip(dataset.part_lengths, dataset.part_sizes, strict=True):
        starts = expected.get(length, [])
        assert size == len(starts)
        if size:
            batch = dataset.get_batch(first + np.arange(size))
            assert batch["tokens"][:, 0].tolist() == starts
            assert (np.diff(batch["tokens"], axis=1) == 1).all()
            assert (batch["labels"] == batch["tokens"] + 1).all()
        first += size
    whole = sum(max(0, number - 1) for number in lengths)
    assert dataset.num_places == whole
    in_pieces = sum(length * len(starts) for length, starts in expected.items())
    assert dataset.pieces_record["left_out_tokens"] == whole - in_pieces
    assert dataset.num_left_out <= (shortest - 1) * len(lengths)


def test_a_piece_is_found_in_a_corpus_of_many_blocks(tmp_path, monkeypatch):
    """Documents counted in several goes, more than one block each."""
    monkeypatch.setattr(document_pieces, "_AT_ONCE", 2 * document_pieces._BLOCK)
    lengths = np.random.default_rng(0).integers(0, 60, 1000)
    dataset = pieces_of(write(tmp_path, lengths), longest=32, shortest=4)
    expected = cut(lengths.tolist(), 32, 4)
    first = 0
    for length, size in zip(dataset.part_lengths, dataset.part_sizes, strict=True):
        order = np.random.default_rng(1).permutation(size)
        tokens = dataset.get_batch(first + order)["tokens"]
        assert tokens[:, 0].tolist() == np.array(expected[length])[order].tolist()
        first += size


def test_no_label_is_of_another_document(tmp_path):
    lengths = [5, 9, 17, 3]
    dataset = pieces_of(write(tmp_path, lengths), longest=16)
    edges = np.cumsum(lengths)
    labels = [dataset[sample]["labels"] for sample in range(len(dataset))]
    tokens = [dataset[sample]["tokens"] for sample in range(len(dataset))]
    for one, other in zip(tokens, labels, strict=True):
        own = {int(np.searchsorted(edges, token, "right")) for token in (*one, *other)}
        assert len(own) == 1
    trained = np.sort(np.concatenate(labels)).tolist()
    assert trained == [token for token in range(34) if token not in (0, 5, 14, 31)]


def test_samples_of_several_lengths_are_no_batch(tmp_path):
    dataset = pieces_of(write(tmp_path, [9, 3]))
    assert dataset.part_sizes == (1, 0, 1)
    with pytest.raises(ValueError, match="pieces of several lengths, which no batch may mix"):
        dataset.get_batch(np.array([0, 1]))
    with pytest.raises(IndexError, match="sample 2 of a dataset of 2"):
        dataset[2]


def test_a_split_and_a_copy_in_another_process(tmp_path):
    prefix = write(tmp_path, [9] * 20)
    train, valid = (
        pieces_of(prefix, split="9,1,0", split_name=name) for name in ("train", "valid")
    )
    assert (len(train), len(valid)) == (18, 2)
    assert valid[0]["tokens"][0] == 18 * 9
    again = copy.deepcopy(valid)
    assert again[1]["labels"].tolist() == valid[1]["labels"].tolist()
    with pytest.raises(ValueError, match=r"lengths is \[2, 3\]: each must be twice the one before"):
        DocumentPieces(prefix, lengths=[2, 3])
    with pytest.raises(EmptySplitError, match="has no document of more than 16 tokens"):
        pieces_of(prefix, longest=16, shortest=16)


def test_analysis_reads_the_tokens_of_each_piece(tmp_path):
    dataset = pieces_of(write(tmp_path, [9, 24, 3, 17, 40]))
    for first, last in ((0, len(dataset)), (1, 4), (2, 2)):
        tokens, starts, lengths = dataset.token_spans(first, last)
        assert len(tokens) == lengths.sum()
        for sample, start, length in zip(range(first, last), starts, lengths, strict=True):
            one = dataset[sample]
            expected = [*one["tokens"], one["labels"][-1]]
            assert tokens[start : start + length].tolist() == expected


def test_a_blend_is_refused(tmp_path):
    words = ("1", write(tmp_path, [9], "a"), "1", write(tmp_path, [9], "b"))
    with pytest.raises(ValueError, match=r"--shortest-piece is 2: .*\(tools/merge_datasets.py\)"):
        open_pieces(DataConfig(data_path=words, seq_length=8, shortest_piece=2))


def test_an_index_of_other_pieces_is_refused(tmp_path):
    prefix = write(tmp_path, [9] * 20)
    dataset, other = pieces_of(prefix), pieces_of(prefix, shortest=4)
    DifficultyIndex.write(
        tmp_path / "m", np.arange(len(dataset)), metric="m", dataset_identity=dataset.identity
    )
    metric = {"clustering_type": "sorted", "index_path": str(tmp_path / "m")}
    learning = {"enabled": True, "curriculum_metrics": {"m": metric}}
    section = {"data_sampling": {"curriculum_learning": learning, "length_buckets": {}}}
    config = load_config({"data_efficiency": section}).data_efficiency
    with pytest.raises(ValueError, match="shortest_piece: expected 2, found 4"):
        CurriculumSampler(other, config, micro_batch_size=2)
