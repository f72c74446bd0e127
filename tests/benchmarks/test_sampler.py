import json

import pytest

from benchmarks.sampler import TARGETS, missed
from tests.processes import run_python


@pytest.mark.full
def test_a_small_run_ends_with_every_figure(tmp_path):
    output = run_python("benchmarks/sampler.py", "--small", "--folder", tmp_path)
    figures = json.loads(output.splitlines()[-1])
    assert figures.keys() >= TARGETS.keys()
    assert all(figures[name] > 0 for name in TARGETS if name != "cached_start_anonymous_mb")
    assert figures["compared_clusters"] > 3
    assert list(tmp_path.iterdir()) == []


def test_a_missed_target_is_named():
    exact = {name: target.limit for name, target in TARGETS.items()}
    assert missed(exact) == []
    for name, target in TARGETS.items():
        worse = target.limit * (0.9 if target.at_least else 1.1)
        (text,) = missed(exact | {name: worse})
        assert text.startswith(f"{name} is ")
