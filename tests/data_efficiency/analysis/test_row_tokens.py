"""Which column holds the tokens or the text; what is in it: test_token_rows.py."""

import pytest

from data_efficiency.analysis.row_tokens import column_of, mask_column_of, rows_of


def test_the_column():
    assert column_of(["text", "tokens", "input_ids"], None) == "input_ids"
    assert column_of(["content", "x"], None) == "content"
    assert column_of(["content", "x"], "x") == "x"
    with pytest.raises(ValueError, match="there is no column 'x': the columns are a, b"):
        column_of(["a", "b"], "x")
    with pytest.raises(ValueError, match="Name it .*; there are a, b"):
        column_of(["a", "b"], None)


def test_the_column_of_its_mask():
    assert mask_column_of(["input_ids", "tokens"], "tokens") == "attention_mask"
    assert mask_column_of(["input_ids", "y"], "y") == "y_attention_mask"
    assert mask_column_of(["y"], "y") == "attention_mask"


def test_tokens_row_by_row():
    rows = [{"tokens": [1, 2]}, {"tokens": []}, {"tokens": [3]}]
    assert [row.tolist() for row in rows_of(rows, None, None)] == [[1, 2], [], [3]]
