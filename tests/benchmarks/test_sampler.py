import json

import pytest

from benchmarks.sampler import TARGETS
from tests.processes import run_python


@pytest.mark.full
def test_a_small_run_ends_with_every_figure(tmp_path):
    output = run_python("benchmarks/sampler.py", "--small", "--folder", tmp_path)
    figures = json.loads(output.splitlines()[-1])
    assert figures.keys() >= TARGETS.keys()
    assert all(figures[name] > 0 for name in TARGETS if name != "cached_start_anonymous_mb")
    assert figures["compared_clusters"] > 3
    assert list(tmp_path.iterdir()) == []
