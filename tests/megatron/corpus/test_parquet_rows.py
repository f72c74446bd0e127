import sys

import pytest

from megatron.corpus.parquet_rows import check_columns, read_texts

pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")


@pytest.fixture
def table(tmp_path):
    """150 rows in row groups of 40, with strings in all of Arrow's forms."""
    texts = [f"text {number % 7}" for number in range(150)]
    columns = {
        "plain": texts,
        "large": pyarrow.array(texts, pyarrow.large_string()),
        "coded": pyarrow.array(texts).dictionary_encode(),
        "number": range(150),
    }
    parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet", row_group_size=40)
    return tmp_path / "a.parquet"


def test_rows_come_in_order_with_the_share_read(table):
    parts = list(read_texts(table, ["large", "plain", "coded"]))
    assert [row for rows, _ in parts for row in rows] == [
        (f"text {number % 7}",) * 3 for number in range(150)
    ]
    shares = [share for _, share in parts]
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_columns_are_checked(table):
    check_columns(table, ["plain"])
    with pytest.raises(ValueError, match=r"a\.parquet: column 'number' must be of strings, not of"):
        check_columns(table, ["plain", "number"])
    with pytest.raises(
        ValueError, match=r"a\.parquet: no column 'text'; it has \['coded', 'large'"
    ):
        list(read_texts(table, ["text"]))


@pytest.mark.parametrize("damage", ["cut", "other", "inside"])
def test_damaged_file_is_named(table, damage):
    content = table.read_bytes()
    damaged = {
        "cut": content[: len(content) // 2],
        "other": b"{}",
        "inside": b"PAR1" + b"\xff" * 1000 + content[1004:],
    }
    table.write_bytes(damaged[damage])
    with pytest.raises(ValueError, match=r"a\.parquet: damaged or not a Parquet file \("):
        list(read_texts(table, ["plain", "large"]))


def test_bytes_that_are_no_text_are_named(tmp_path):
    column = pyarrow.array([b"fine", b"\xff"]).cast(pyarrow.string(), safe=False)
    parquet.write_table(pyarrow.table({"text": column}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet: damaged or not a Parquet file \("):
        list(read_texts(tmp_path / "a.parquet", ["text"]))


def test_without_pyarrow_the_extra_is_named(table, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ModuleNotFoundError, match=r"a\.parquet: .*'data-efficiency\[parquet\]'"):
        check_columns(table, ["plain"])
