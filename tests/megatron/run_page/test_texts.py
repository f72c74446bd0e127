"""That the texts are those of the samples is shown by tests/end_to_end/test_run_page.py."""

import numpy as np
import pytest

from data_efficiency import DifficultyIndex
from megatron.run_page.texts import (
    MOST_CHARACTERS,
    MOST_WRITINGS,
    selecting_metrics,
    texts_by_difficulty,
    written_texts,
)

START = {"kind": "start", "settings": {"architecture": "gpt", "data": {}}}


def sample(step, *texts):
    return {"kind": "sample", "step": step, "texts": texts}


def test_many_writings_are_thinned_and_the_last_stays():
    text = {"prompt": "a", "continuation": "b"}
    found = written_texts([sample(step, text) for step in range(1, 1001)])
    assert len(found) == MOST_WRITINGS
    assert [found[0]["step"], found[-1]["step"]] == [1, 1000]


def test_texts_of_other_forms_are_left_out_and_long_ones_cut():
    found = written_texts([sample(1, 3, {"prompt": None}, {"continuation": "x" * 9999})])
    assert found[0]["texts"] == [
        {"prompt": "None", "continuation": ""},
        {"prompt": "", "continuation": "x" * MOST_CHARACTERS},
    ]
    assert written_texts([{"step": 1, "texts": None}]) == [{"step": 1, "texts": []}]


def test_metrics_that_select_samples_are_those_with_an_index():
    metrics = {
        "a": {"index_path": "i/a", "difficulty_type": "percentile"},
        "b": {"difficulty_type": "value"},
        "c": 3,
    }
    section = {"data_sampling": {"curriculum_learning": {"curriculum_metrics": metrics}}}
    assert selecting_metrics({"data_efficiency": section}) == {
        "a": {"folder": "i/a", "by": "percentile"}
    }
    for start in ({}, {"data_efficiency": None}, {"data_efficiency": {"data_sampling": 3}}):
        assert selecting_metrics(start) == {}


def write_index(folder, values):
    identity = {"type": "GPTDataset", "num_samples": len(values)}
    DifficultyIndex.write(folder, values, metric="rarity", dataset_identity=identity)
    return str(folder)


def test_a_histogram_counts_every_sample_and_knows_the_percentiles(tmp_path, monkeypatch):
    folder = write_index(tmp_path / "rarity", np.arange(1001) % 500)
    found = texts_by_difficulty(START, folder, lambda _: True)
    assert (found["metric"], sum(found["counts"])) == ("rarity", 1001)
    assert len(found["edges"]) == len(found["counts"]) + 1
    assert [found["percentiles"][place] for place in (0, 50, 100)] == [0, 249, 499]
    assert "the texts cannot be shown" in found["problem"]
    monkeypatch.setattr("megatron.run_page.texts.MOST_COUNTED", 100)
    thinned = texts_by_difficulty(START, folder, lambda _: True)["counts"]
    assert sum(thinned) == pytest.approx(1001, abs=11)


def test_nothing_outside_of_what_was_given_is_read(tmp_path):
    folder = write_index(tmp_path / "rarity", np.arange(5))
    found = texts_by_difficulty(START, folder, lambda _: False)
    assert list(found) == ["problem"]
    assert "give it by --data" in found["problem"]
    data = {"data_path": [str(tmp_path / "corpus")], "tokenizer_file": None, "vocab_file": None}
    start = {"settings": {"architecture": "gpt", "data": data | {"merge_file": None}}}
    found = texts_by_difficulty(start, folder, lambda path: path.name == "rarity")
    assert f"{tmp_path / 'corpus'}.bin is not among the folders" in found["problem"]


def test_a_damaged_or_missing_index_is_a_sentence(tmp_path):
    found = texts_by_difficulty(START, str(tmp_path / "gone"), lambda _: True)
    assert str(tmp_path / "gone") in found["problem"]
    folder = write_index(tmp_path / "rarity", np.arange(300))
    order = np.load(tmp_path / "rarity" / "order.npy")
    order[0] = 999
    np.save(tmp_path / "rarity" / "order.npy", order)
    assert "out of bounds" in texts_by_difficulty(START, folder, lambda _: True)["problem"]
