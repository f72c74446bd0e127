import json

import pytest

from benchmarks.checkpoint_saves import main, missed


@pytest.mark.full
@pytest.mark.timeout(900)
def test_small_size_ends_with_figures(capfd, tmp_path):
    words = ["--small", "--rounds", "1", "--processes", "2", "--folder", str(tmp_path)]
    assert main(words) == 0
    figures = json.loads(capfd.readouterr().out.splitlines()[-1])
    for way in ("ddp", "fsdp3"):
        assert figures[way]["bytes"] >= figures["one"]["bytes"]  # a header a file
        assert 0.4 < figures[way]["most"] / figures[way]["bytes"] < 0.6
    assert figures["one"]["most"] == figures["one"]["bytes"]
    assert figures["steps"]["num_beside"] > 0
    assert list(tmp_path.iterdir()) == []


def test_missed_targets_are_named():
    figures = {way: {"seconds": 0.3} for way in ("ddp", "fsdp3")} | {"one": {"seconds": 1.0}}
    figures["steps"] = {"plain_seconds": 1.0, "beside_seconds": 1.05}
    assert missed(figures) == []
    figures["ddp"]["seconds"], figures["steps"]["beside_seconds"] = 0.5, 1.2
    assert missed(figures) == [
        "ddp: a save takes 0.50 of one process's, above 0.4",
        "a step beside a save takes 1.20 of one without, above 1.1",
    ]
