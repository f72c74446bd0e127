"""Scores of other programs: the shapes dolma and datatrove write, and records without a number."""

import gzip
import json
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_efficiency.analysis.outside_scores import mean_over_samples, read_scores


def write_lines(path, records):
    text = "".join(json.dumps(record) + "\n" for record in records)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def test_attribute_files_of_dolma(tmp_path):
    (tmp_path / "attributes").mkdir()
    records = [
        {"id": "a", "source": "s", "attributes": {"exp__quality__doc": [[0, 40, 0.5]]}},
        {"id": "b", "source": "s", "attributes": {"exp__quality__doc": [[0, 10, 1], [10, 40, 5]]}},
        {"id": "c", "source": "s", "attributes": {"exp__quality__doc": [[0, 0, 2.0]]}},
    ]
    write_lines(tmp_path / "attributes" / "0000.jsonl.gz", records[:2])
    write_lines(tmp_path / "attributes" / "0001.jsonl.gz", records[2:])
    (tmp_path / "attributes" / "notes.txt").touch()
    scores = read_scores([tmp_path / "attributes"], "attributes.exp__quality__doc")
    assert scores.tolist() == [0.5, 4.0, 2.0]


def test_names_with_dots(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", [{"attributes": {"v1.2__doc": [[0, 4, 3.0]]}}])
    assert read_scores([path], "attributes.v1.2__doc").tolist() == [3.0]


def test_documents_of_datatrove(tmp_path):
    records = [{"text": "x", "id": str(i), "metadata": {"score": i * i}} for i in range(4)]
    path = write_lines(tmp_path / "00000.jsonl.gz", records)
    scores = read_scores([path], "metadata.score")
    assert scores.dtype == np.int64
    assert scores.tolist() == [0, 1, 4, 9]


def test_arrays_and_files_in_the_order_given(tmp_path):
    np.save(tmp_path / "b.npy", np.array([1, 2], np.uint8))
    np.save(tmp_path / "a.npy", np.array([0.5], np.float32))
    assert read_scores([tmp_path / "b.npy", tmp_path / "a.npy"]).tolist() == [1, 2, 0.5]
    assert read_scores([tmp_path]).tolist() == [0.5, 1, 2]


def test_parquet_columns(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    table = pyarrow.table(
        {
            "id": ["a", "b", "c"],
            "score": [3.5, 1.0, 2.0],
            "metadata": [{"rank": 2, "n": 1}, {"rank": 0, "n": 1}, {"rank": 1, "n": None}],
            "v1.2": [0.5, 0.25, 1.0],
            "tags": [{"v1.2": 4, "all": [1]}, {"v1.2": 5, "all": [2]}, {"v1.2": 6, "all": []}],
        }
    )
    path = tmp_path / "x.parquet"
    parquet.write_table(table, path, row_group_size=2)
    assert read_scores([path], "score").tolist() == [3.5, 1.0, 2.0]
    assert read_scores([path], "metadata.rank").tolist() == [2, 0, 1]
    # Names with dots, alone and inside others.
    assert read_scores([path], "v1.2").tolist() == [0.5, 0.25, 1.0]
    assert read_scores([path], "tags.v1.2").tolist() == [4, 5, 6]
    with pytest.raises(ValueError, match=r"column tags.all.list.element has lists: one number"):
        read_scores([path], "tags.all.list.element")
    with pytest.raises(ValueError, match="no column scores; it has id, score, metadata.rank"):
        read_scores([path], "scores")
    with pytest.raises(ValueError, match=r"column metadata.n has no value in row 2"):
        read_scores([path], "metadata.n")
    with pytest.raises(ValueError, match="one number for each record"):
        read_scores([path], "id")


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    (tmp_path / "x.parquet").touch()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'data-efficiency\[parquet\]'"):
        read_scores([tmp_path / "x.parquet"], "score")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "JSONDecodeError"),
        ("[]", "TypeError"),
        ('{"other": 1}', "KeyError: 'score'"),
        ('{"score": "high"}', "'high'"),
        ('{"score": true}', "True"),
        ('{"score": null}', "None"),
        ('{"score": []}', r"no list of \[start, end, score\]"),
        ('{"score": [1, 2, 3]}', r"no list of \[start, end, score\]"),
    ],
)
def test_lines_without_a_number_are_named(tmp_path, line, reason):
    (tmp_path / "x.jsonl").write_text(f'{{"score": 1}}\n{line}\n')
    with pytest.raises(ValueError, match=f"x.jsonl, line 2: no number at score .*{reason}"):
        read_scores([tmp_path / "x.jsonl"], "score")


def test_other_bad_input(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        read_scores([tmp_path / "none.npy"])
    with pytest.raises(FileNotFoundError, match="has no file that ends with .npy"):
        read_scores([tmp_path])
    (tmp_path / "x.csv").touch()
    with pytest.raises(ValueError, match="must end with .npy, .parquet, .jsonl"):
        read_scores([tmp_path / "x.csv"])
    (tmp_path / "x.jsonl").touch()
    with pytest.raises(ValueError, match="name the field that holds the score"):
        read_scores([tmp_path / "x.jsonl"])
    with pytest.raises(ValueError, match="there is not one score"):
        read_scores([tmp_path / "x.jsonl"], "score")
    np.save(tmp_path / "square.npy", np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"shape \(2, 2\) and dtype float64: one number for each"):
        read_scores([tmp_path / "square.npy"])
    np.save(tmp_path / "nan.npy", np.array([1.0, np.nan]))
    with pytest.raises(ValueError, match="score 1 is nan: must be finite"):
        read_scores([tmp_path / "nan.npy"])


@given(
    documents=st.lists(
        st.tuples(st.integers(0, 6), st.floats(-1e3, 1e3)), min_size=1, max_size=12
    ).filter(lambda documents: sum(length for length, _ in documents) > 0),
    data=st.data(),
)
def test_means_over_samples_equal_the_plain_sum(documents, data):
    tokens = [score for length, score in documents for _ in range(length)]
    offsets = np.cumsum([0, *(length for length, _ in documents)])
    start = data.draw(st.integers(0, len(tokens) - 1))
    length = data.draw(st.integers(1, len(tokens) - start))
    scores = np.array([score for _, score in documents])
    found = mean_over_samples(scores, offsets, np.array([start]), np.array([length]))
    assert found[0] == pytest.approx(np.mean(tokens[start : start + length]), abs=1e-9)


def test_digits_survive_a_long_corpus():
    scores = 1e6 + np.arange(200_000) % 7 / 100
    offsets = np.arange(200_001) * 500
    starts = np.array([99_999_000])
    found = mean_over_samples(scores, offsets, starts, np.array([500]))
    assert found[0] == pytest.approx(scores[199_998], abs=1e-8)
