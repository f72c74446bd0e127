"""Numbers, text and picture of an index."""

import builtins

import numpy as np
import pytest

from data_efficiency.analysis.summary import (
    sample_at_percentile,
    summarize,
    summary_text,
    write_histogram,
)
from data_efficiency.difficulty_index import DifficultyIndex


def index_of(path, values):
    return DifficultyIndex.write(path, np.asarray(values), metric="length", dataset_identity={})


def test_summary_of_known_values(tmp_path):
    index = index_of(tmp_path / "i", np.arange(1000, -1, -1))
    summary = summarize(index)
    assert summary["percentiles"] == {p: 10 * p for p in (1, 5, 10, 25, 50, 75, 90, 95, 99)}
    assert (summary["num_samples"], summary["num_distinct_values"]) == (1001, 1001)
    assert (summary["min_value"], summary["max_value"]) == (0, 1000)
    assert [sample_at_percentile(index, p) for p in (0, 50, 100)] == [1000, 500, 0]
    assert "samples          1,001\n" in summary_text(index)
    assert "percentile 99    990\n" in summary_text(index)


@pytest.mark.parametrize(
    "values", [np.arange(1000) % 7, [5], [0.25, 0.5, 1e6], [0.5, 0.5], np.arange(-500, 100_000, 3)]
)
def test_histogram_is_a_picture(tmp_path, values):
    file = write_histogram(index_of(tmp_path / "i", values), tmp_path / "picture.png")
    assert file.read_bytes().startswith(b"\x89PNG")
    assert file.stat().st_size > 5000


def test_missing_matplotlib_names_the_extra(tmp_path, monkeypatch):
    real_import = builtins.__import__

    def refuse(name, *arguments, **options):
        if name.startswith("matplotlib"):
            raise ModuleNotFoundError(name)
        return real_import(name, *arguments, **options)

    index = index_of(tmp_path / "i", [1, 2])
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'data-efficiency\[report\]'"):
        write_histogram(index, tmp_path / "x.png")


def test_an_imported_index_says_so(tmp_path):
    source = {"format": "deepspeed", "field": None, "order": "trusted"}
    index = DifficultyIndex.write(
        tmp_path / "i", np.arange(3), metric="m", dataset_identity={}, source=source
    )
    assert summarize(index)["source"] == source
    assert "imported         format deepspeed, order trusted\n" in summary_text(index)
    assert "imported" not in summary_text(index_of(tmp_path / "own", [1]))
