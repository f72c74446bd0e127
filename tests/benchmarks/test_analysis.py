"""The benchmark at a size of seconds: both analyzers run, agree and are reported."""

import json

import numpy as np
import pytest

from benchmarks import analysis
from megatron.data.indexed_dataset import IndexedDatasetWriter
from tests.processes import run_python


@pytest.mark.full
@pytest.mark.timeout(900)  # eight processes, half of which import DeepSpeed
def test_a_small_run_gives_all_figures(tmp_path):
    pytest.importorskip("deepspeed.ops", reason="DeepSpeed is not installed", exc_type=ImportError)
    generator = np.random.default_rng(2)
    tokens = (generator.random(30_000) ** 2 * 500).astype(np.uint16)
    with IndexedDatasetWriter(str(tmp_path / "c"), np.dtype("uint16")) as writer:
        writer.add_documents(tokens, np.full(30, 1000, np.int32))
        writer.finish({"vocab_size": 500})
    flags = ("--small", "--check", "--data-path", tmp_path / "c", "--folder", tmp_path)
    # So few tokens miss every target of speed, and the check must notice.
    output = run_python("-m", "benchmarks.analysis", *flags, exit_code=1)
    assert "times_bincount is " in output
    assert "DeepSpeed, published rarity: " in output
    figures = json.loads(output.splitlines()[-1])
    for case in ("129 tokens, 1 processes", "129 tokens, 2 processes"):
        assert figures[case]["num_samples"] == (20_000 - 1) // 128
        assert figures[case]["times_faster_published_cpu"] > 0
        assert figures[case]["num_different_values_vectorised"] <= 1
        assert figures[case]["peer_num_files"] > figures[case]["ours_num_files"] == 5
    assert figures["files_per_metric"] <= 5
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def test_alone_it_needs_no_corpus_and_no_peer(tmp_path):
    flags = ("--small", "--alone", "--check", "--num-tokens", "200000", "--folder", tmp_path)
    # From so small a corpus no pass is fast enough to be a measure: the check must notice.
    output = run_python("-m", "benchmarks.analysis", *flags, exit_code=1)
    assert "a corpus of made-up words is measured" in output
    assert "times_bincount is " in output
    figures = json.loads(output.splitlines()[-1])
    assert figures["times_bincount"] > 1.5
    assert "files_per_metric" not in figures


def test_a_corpus_that_is_not_there_is_a_line(capsys):
    with pytest.raises(SystemExit):
        analysis.main(["--data-path", "nothing/here"])
    assert "there is no nothing/here.idx; leave it out" in capsys.readouterr().err
