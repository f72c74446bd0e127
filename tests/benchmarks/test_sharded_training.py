import json

import pytest

from benchmarks.sharded_training import WAYS, main, unequal


@pytest.mark.full
@pytest.mark.timeout(900)
def test_small_size_ends_with_figures_of_all_ways(capfd):
    assert main(["--small", "--rounds", "1"]) == 0
    figures = json.loads(capfd.readouterr().out.splitlines()[-1])
    for way in WAYS:
        assert figures[way]["seconds"] > 0
        assert figures[way]["bytes"] > 0


def test_a_way_with_another_loss_is_named():
    figures = {way: {"loss": 1.0} for way in WAYS}
    assert unequal(figures) == []
    figures["zero3"]["loss"] = 1.1
    assert unequal(figures) == ["zero3: loss 1.1 instead of 1.0"]
