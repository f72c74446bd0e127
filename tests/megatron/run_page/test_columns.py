import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron.run_page.columns import (
    MOST_ROWS,
    column,
    smoothed,
    thinned,
    train_columns,
    valid_columns,
)

VALUES = st.lists(st.none() | st.floats(-1e6, 1e6), max_size=200)


@given(VALUES, st.integers(4, 40))
def test_thinning_keeps_ends_and_extremes_and_few_rows(values, most):
    rows = thinned(values, most)
    assert len(rows) <= max(most, 4)
    assert rows == sorted(set(rows))
    if values:
        assert rows[0] == 0
        assert rows[-1] == len(values) - 1
    known = [value for value in values if value is not None]
    kept = [values[row] for row in rows if values[row] is not None]
    if known:
        assert (min(kept), max(kept)) == (min(known), max(known))


@given(VALUES)
def test_smoothing_stays_within_the_values_and_keeps_gaps(values):
    found = smoothed(values)
    known = [value for value in values if value is not None]
    assert [one is None for one in found] == [one is None for one in values]
    for one in found:
        if one is not None:
            # Sums of floats of 1e6 are exact to 1e-8 or so.
            assert min(known) - 1e-6 <= one <= max(known) + 1e-6


def test_smoothing_is_a_mean_of_the_last_twentieth():
    assert smoothed([0.0] * 50 + [1.0] * 50)[49:56] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1, 1])


def test_a_long_run_has_few_rows_and_all_fields_of_the_same_ones():
    records = [
        {
            "kind": "train",
            "step": step,
            "loss": 9 - step / 30_000 + (5 if step == 7777 else 0),
            "pool_size": step,
            "difficulties": {"a <b>": step // 100},
        }
        for step in range(1, 30_001)
    ]
    found = train_columns(records)
    assert {len(values) for values in found.values()} == {len(found["step"])}
    assert len(found["step"]) <= MOST_ROWS
    assert max(found["loss"]) > 13
    assert found["pool_size"] == found["step"]
    assert found["difficulty/a <b>"][-1] == 300
    assert "kept_length" not in found


def test_missing_keys_and_other_forms_are_gaps():
    records = [
        {"step": 1, "loss": None, "difficulties": 4},
        {"step": 2, "loss": "3"},
        {"step": 3, "loss": math.inf, "grad_norm": 2},
        {"step": 4, "loss": 10**30},
        {"step": 5, "loss": 2.5},
    ]
    found = train_columns(records)
    assert found["loss"] == [None, None, None, None, 2.5]
    assert found["grad_norm"] == [None, None, 2, None, None]
    assert column([{"a": True}, {"a": math.nan}], "a") == [None, None]
    assert train_columns([]) == {}


def test_validation_takes_the_first_field_that_is_there():
    records = [
        {"step": 1, "curve": 3.0, "flops": 10},
        {"step": 2},
        {"step": 3, "end": 1.0, "curve": 2.0},
    ]
    found = valid_columns(records, ("end", "curve"))
    assert found["step"] == [1, 3]
    assert found["value"] == [3.0, 1.0]
    assert found["flops"] == [10, None]
    assert valid_columns([], ("end",))["value"] == []
