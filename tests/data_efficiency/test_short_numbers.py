import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_efficiency.short_numbers import format_count, format_seconds


@given(st.floats(min_value=0.001, max_value=1e24))
def test_counts_are_short_and_close(number):
    text = format_count(number)
    prefixes = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18, "Z": 1e21}
    value = float(text.rstrip("kMGTPEZ")) * prefixes.get(text[-1], 1)
    assert value == pytest.approx(number, rel=0.0051)
    assert number < 1 or number > 9.99e23 or len(text) <= 5


@given(st.floats(min_value=0, max_value=1e9))
def test_seconds_are_short(seconds):
    assert len(format_seconds(seconds)) <= 10
