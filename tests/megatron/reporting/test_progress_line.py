import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron.reporting import progress_line
from megatron.reporting.progress_line import format_count, format_seconds

RECORD = {
    "step": 120,
    "loss": 5.43219,
    "learning_rate": 3e-4,
    "sequence_length": 256,
    "kept_length": None,
    "effective_tokens": 1_234_567,
    "tokens_per_second": 5_678.0,
    "flops_per_second": 61.5e9,
    "seconds": 90.0,
}


def test_examples_run():
    finder = doctest.DocTestFinder()
    runner = doctest.DocTestRunner()
    for function in (format_count, format_seconds):
        for example in finder.find(function, globs={function.__name__: function}):
            assert runner.run(example).attempted > 0
    assert runner.failures == 0


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


def test_line_says_all():
    assert progress_line(RECORD, fraction_done=0.25, total_steps=480) == (
        "step 120/480 |  25% | loss 5.4322 | lr 3.00e-04 | length 256 | "
        "effective tokens 1.23M | 5.68k tokens/s | 61.5GFLOP/s | 4m 30s left"
    )


def test_line_names_the_kept_length_under_dropping():
    line = progress_line({**RECORD, "kept_length": 96}, fraction_done=0.25)
    assert "| length 256 | kept 96 |" in line
    assert line.startswith("step 120 |")


def test_line_bears_the_ends_of_a_run():
    assert progress_line(RECORD, fraction_done=1.0).endswith("0s left")
    assert "left" not in progress_line(RECORD, fraction_done=0.0)
    assert "loss nan" in progress_line({**RECORD, "loss": None}, fraction_done=1.0)
