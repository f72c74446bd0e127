import json

from benchmarks import superposition


def test_the_small_size_ends_with_one_line_of_figures(capfd):
    assert superposition.main(["--small"]) == 0
    figures = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert figures["bag_size"] == 6
    assert figures["step_ratio"] > 0


def test_a_missed_target_is_named():
    assert superposition.missed({"step_ratio": 1.05}) == []
    assert superposition.missed({"step_ratio": 1.06}) == [
        "a step of bags takes 1.060 of a plain one, above 1.05"
    ]
