"""Imported difficulties: in sample order, marked, and refused where they do not fit the dataset."""

import numpy as np
import pytest

from data_efficiency.analysis.index_import import (
    Imported,
    deepspeed_difficulties,
    outside_difficulties,
    write_imported,
)
from data_efficiency.deepspeed_format import export_index
from data_efficiency.difficulty_index import DifficultyIndex


class Corpus:
    """Ten tokens in documents of 0 (not in the split), 4, 0 and 6 tokens; samples of 3, two apart."""

    identity = {"name": "corpus"}
    num_corpus_documents = 4
    documents = range(1, 4)

    def __len__(self):
        return 4

    def document_offsets(self):
        return np.array([0, 4, 4, 10])

    def token_spans(self, first, last):
        starts = np.arange(first, last) * 2
        return np.arange(10), starts, np.full(last - first, 3)


@pytest.fixture
def exported(tmp_path):
    values = np.array([5, 3, 9, 3])
    index = DifficultyIndex.write(
        tmp_path / "index", values, metric="m", dataset_identity=Corpus.identity
    )
    return export_index(index, tmp_path / "exported")


def test_numbers_of_deepspeed_are_trusted_or_undone(tmp_path, exported):
    trusted = deepspeed_difficulties(exported, "m", trust_order=True)
    assert trusted.values.tolist() == [5, 3, 9, 3]
    assert trusted.source == {"format": "deepspeed", "order": "trusted"}
    np.save(tmp_path / "shuffle.npy", np.array([3, 1, 0, 2]))
    undone = deepspeed_difficulties(exported, "m", shuffle_index=tmp_path / "shuffle.npy")
    assert undone.values.tolist() == [9, 3, 3, 5]
    assert len(undone.source["order"]) == len("shuffle index ") + 64


def test_neither_and_both_are_refused(tmp_path, exported):
    with pytest.raises(ValueError, match="give either the shuffle index"):
        deepspeed_difficulties(exported, "m")
    with pytest.raises(ValueError, match="give either the shuffle index"):
        deepspeed_difficulties(exported, "m", shuffle_index=tmp_path, trust_order=True)


def test_scores_of_documents_become_means_of_samples(tmp_path):
    np.save(tmp_path / "s.npy", np.array([100.0, 1.0, 50.0, 4.0]))
    imported = outside_difficulties([tmp_path / "s.npy"], None, "documents", Corpus())
    # Samples 0:3, 2:5, 4:7, 6:9 of tokens with 1 1 1 1 4 4 4 4 4 4.
    assert imported.values == pytest.approx([1, 2, 4, 4])
    assert imported.source["scores_of"] == "documents"


def test_scores_of_samples_stay_as_they_are(tmp_path):
    np.save(tmp_path / "s.npy", np.array([4, 2], np.int32))
    imported = outside_difficulties([tmp_path / "s.npy"], None, "samples", "Images")
    assert imported.values.tolist() == [4, 2]


def test_scores_that_do_not_fit(tmp_path):
    np.save(tmp_path / "s.npy", np.arange(5))
    with pytest.raises(ValueError, match="5 scores for the 4 documents of the corpus"):
        outside_difficulties([tmp_path / "s.npy"], None, "documents", Corpus())
    with pytest.raises(ValueError, match="scores of documents need a corpus"):
        outside_difficulties([tmp_path / "s.npy"], None, "documents", "Images")
    with pytest.raises(ValueError, match="5 difficulties for 4 samples"):
        write_imported(tmp_path / "x", Imported(np.arange(5), {}), metric="m", dataset=Corpus())
    assert not (tmp_path / "x").exists()


def test_an_imported_index_is_marked(tmp_path):
    imported = Imported(np.array([2, 1, 0, 7]), {"format": "scores", "order": "trusted"})
    index = write_imported(tmp_path / "x", imported, metric="m", dataset=Corpus())
    index.verify()
    index.check_dataset(Corpus())
    assert index.source == imported.source
    other = write_imported(tmp_path / "y", imported, metric="m", dataset="Images")
    assert other.dataset_identity == {"type": "Images", "num_samples": 4}
