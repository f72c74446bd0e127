import json

import pytest

from benchmarks.generation import main, misses

GOOD = {
    "equal_to_no_cache": True,
    "equal_to_huggingface": True,
    "ratio_to_no_cache": 9.0,
    "ratio_to_huggingface": 1.2,
}


def test_small_size_writes_one_text_three_ways(capfd):
    assert main(["--small", "--rounds", "1"]) == 0
    figures = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert figures["equal_to_no_cache"]
    assert figures["equal_to_huggingface"]
    assert figures["num_distinct_tokens"] > 1
    assert figures["ratio_to_no_cache"] > 0


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("equal_to_no_cache", False, "the text differs from that of no_cache"),
        ("ratio_to_no_cache", 4.9, "4.9 times as fast as no_cache, not 5.0"),
        ("ratio_to_huggingface", 0.9, "0.9 times as fast as huggingface, not 1.0"),
    ],
)
def test_missed_targets_are_named(name, value, line):
    assert misses(GOOD) == []
    assert misses(GOOD | {name: value}) == [line]
    assert misses(GOOD | {name: value}, timed=False) == ([line] if name.startswith("equal") else [])


def test_check_refuses_the_small_size():
    with pytest.raises(SystemExit):
        main(["--small", "--check"])
