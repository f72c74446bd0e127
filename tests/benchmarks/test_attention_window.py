import json

from benchmarks import attention_window


def test_the_small_size_ends_with_one_line_of_figures(capsys):
    assert attention_window.main(["--small"]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures.keys() >= attention_window.LIMITS.keys()
    assert all(ratio > 0 for ratio in figures.values())
