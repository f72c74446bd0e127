"""The reader alone; beside the writer and Megatron core it is tested where the writer is."""

import copy
import json

import numpy as np
import pytest

from data_efficiency.files.indexed_dataset import IndexedDataset, path_of, readable_path
from tests.data_efficiency.small_corpus import write_corpus


@pytest.fixture
def prefix(tmp_path):
    write_corpus(tmp_path / "corpus", [[1, 2, 3], [], [4, 500]])
    return tmp_path / "corpus"


def test_reads_what_the_description_says(prefix):
    corpus = IndexedDataset(prefix)
    assert [row.tolist() for row in corpus] == [[1, 2, 3], [], [4, 500]]
    assert (corpus.num_documents, corpus.num_tokens, corpus.dtype.name) == (3, 5, "uint16")
    assert corpus.offsets_of(np.arange(4)).tolist() == [0, 3, 3, 5]
    assert corpus.metadata is None
    assert copy.deepcopy(corpus).tokens.tolist() == corpus.tokens.tolist()


def test_the_content_hash_sees_tokens_and_bounds(prefix):
    before = IndexedDataset(prefix).content_hash()
    write_corpus(prefix, [[1, 2], [3], [4, 500]])
    bounds = IndexedDataset(prefix).content_hash()
    write_corpus(prefix, [[1, 2], [3], [4, 501]])
    assert len({before, bounds, IndexedDataset(prefix).content_hash()}) == 3


def test_a_sidecar_that_says_another_checksum(prefix):
    prefix.with_suffix(".meta.json").write_text(json.dumps({"bin_sha256": "0" * 64}))
    with pytest.raises(ValueError, match="was changed after it was written"):
        IndexedDataset(prefix).content_hash()


def test_what_is_missing_truncated_or_foreign(prefix, tmp_path):
    with pytest.raises(FileNotFoundError, match="given as the PREFIX alone"):
        IndexedDataset(tmp_path / "none")
    whole = prefix.with_suffix(".bin").read_bytes()
    prefix.with_suffix(".bin").write_bytes(whole[:-2])
    with pytest.raises(ValueError, match="the .bin is truncated"):
        IndexedDataset(prefix)
    prefix.with_suffix(".idx").write_bytes(b"something else")
    with pytest.raises(ValueError, match="not an index of Megatron's format"):
        IndexedDataset(prefix)


def test_a_corpus_whose_writer_was_killed_among_its_renames_is_read(prefix):
    prefix.with_suffix(".idx").rename(f"{prefix}.idx.new")
    prefix.with_suffix(".bin").rename(f"{prefix}.bin.partial")
    assert readable_path(prefix, "bin").name == "corpus.bin.partial"
    assert IndexedDataset(prefix).tokens.tolist() == [1, 2, 3, 4, 500]


def test_a_corpus_by_url_is_read_by_ranges(storage, tmp_path):
    write_corpus(tmp_path / "c", [[1, 2, 3], [4, 5]])
    for ending in ("bin", "idx"):
        (storage / f"c.{ending}").put(tmp_path / f"c.{ending}")
    here, there = IndexedDataset(tmp_path / "c"), IndexedDataset(str(storage / "c"))
    assert there[1].tolist() == [4, 5]
    assert there.content_hash() == here.content_hash()
    assert (there.num_tokens, there.num_documents, there.metadata) == (5, 2, None)
    there.verify(vocab_size=6)
    with pytest.raises(ValueError, match=r"token id 5 is outside the vocabulary of 5"):
        there.verify(vocab_size=5)
    assert copy.deepcopy(there)[0].tolist() == [1, 2, 3]
    (storage / "c.bin").put(tmp_path / "c.idx")
    with pytest.raises(ValueError, match=r"memory://.*c.bin: .* bytes, but"):
        IndexedDataset(storage / "c")
    with pytest.raises(FileNotFoundError, match=r"memory://.*d.bin: no such file; a corpus is"):
        IndexedDataset(storage / "d")
    with pytest.raises(ValueError, match=r"memory://.*c.bin: a corpus is written on a disk"):
        path_of(str(storage / "c"), "bin")
