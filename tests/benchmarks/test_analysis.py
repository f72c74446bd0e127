"""The benchmark at a size of seconds: both analyzers run, agree and are reported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from megatron.data.indexed_dataset import IndexedDatasetWriter

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.full
@pytest.mark.timeout(900)  # eight processes, half of which import DeepSpeed
def test_a_small_run_gives_all_figures(tmp_path):
    pytest.importorskip("deepspeed.ops", reason="DeepSpeed is not installed", exc_type=ImportError)
    generator = np.random.default_rng(2)
    tokens = (generator.random(30_000) ** 2 * 500).astype(np.uint16)
    with IndexedDatasetWriter(str(tmp_path / "c"), np.dtype("uint16")) as writer:
        writer.add_documents(tokens, np.full(30, 1000, np.int32))
        writer.finish({"vocab_size": 500})
    command = [sys.executable, "-m", "benchmarks.analysis", "--small", "--check"]
    command += ["--data-path", str(tmp_path / "c"), "--folder", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    # So few tokens miss every target of speed, and the check must notice.
    assert ended.returncode == 1, ended.stderr
    assert "times_bincount is " in ended.stdout
    assert "DeepSpeed, published rarity: " in ended.stdout
    figures = json.loads(ended.stdout.splitlines()[-1])
    for case in ("129 tokens, 1 processes", "129 tokens, 2 processes"):
        assert figures[case]["num_samples"] == (20_000 - 1) // 128
        assert figures[case]["times_faster_published_cpu"] > 0
        assert figures[case]["num_different_values_vectorised"] <= 1
        assert figures[case]["peer_num_files"] > figures[case]["ours_num_files"] == 5
    assert figures["files_per_metric"] <= 5
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []
