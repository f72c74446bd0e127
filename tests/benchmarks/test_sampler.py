import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.sampler import TARGETS, missed

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.full
def test_a_small_run_ends_with_every_figure(tmp_path):
    finished = subprocess.run(
        [sys.executable, "benchmarks/sampler.py", "--small", "--folder", str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    figures = json.loads(finished.stdout.splitlines()[-1])
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
