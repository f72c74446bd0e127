import json

import pytest

from benchmarks import random_ltd


@pytest.mark.full
@pytest.mark.parametrize("route", ["random_ltd", "span", "layer_dropout"])
def test_the_small_size_ends_with_one_line_of_figures(capfd, route):
    assert random_ltd.main(["--small", "--route", route]) == 0
    figures = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert figures["bit_equal"]
    assert figures["same_operators"]
    for percent in ("25", "50", "75"):
        assert figures[percent].keys() >= {"flop_saving", "cpu_time_saving", "share"}


def test_operations_are_those_of_causal_attention_counted_by_hand():
    size = random_ltd.Size(
        num_layers=3, hidden_size=4, num_heads=2, vocab_size=128, sequence_length=8, num_rows=2
    )
    layer = {length: 24 * length * 4**2 + 2 * length**2 * 4 for length in (8, 2)}
    forward = 2 * layer[8] + layer[2] + 2 * 8 * 4 * 128
    assert size.flops(25) == size.flops(25, "span") == 3 * 2 * forward


def test_operations_of_rows_that_skip_layers_are_counted_by_hand():
    size = random_ltd.Size(
        num_layers=3, hidden_size=4, num_heads=2, vocab_size=128, sequence_length=8, num_rows=4
    )
    layer = 24 * 8 * 4**2 + 2 * 8**2 * 4
    # One of four rows goes through the layer in the middle.
    assert size.flops(25, "layer_dropout") == 3 * ((2 * 4 + 1) * layer + 4 * 2 * 8 * 4 * 128)


@pytest.mark.parametrize("miss", ["share", "bit_equal"])
def test_a_missed_target_is_named(miss):
    figures = {str(percent): {"share": 0.95} for percent in (25, 50, 75)}
    figures |= {"bit_equal": True, "same_operators": True, "route": "random_ltd"}
    assert random_ltd.missed(figures) == []
    if miss == "share":
        figures["50"]["share"] = 0.8
    else:
        figures["bit_equal"] = False
    assert len(random_ltd.missed(figures)) == 1
