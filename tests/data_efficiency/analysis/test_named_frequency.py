"""Frequency and rarity from start to finish."""

import math

import numpy as np
import pytest

from data_efficiency.analysis.map_reduce import AnalysisError
from data_efficiency.analysis.named_metrics import FREQUENCY, MetricSettings, analyze

VOCAB_SIZE = 60


def analyze_rarity(dataset, folder, vocab_size=VOCAB_SIZE, **options):
    return analyze(
        dataset, "vocab_rarity", folder, MetricSettings(vocab_size=vocab_size), **options
    )


def analyze_frequency(dataset, folder):
    return analyze(dataset, FREQUENCY, folder, MetricSettings(vocab_size=VOCAB_SIZE))


@pytest.mark.parametrize("num_processes", [1, 2])
def test_rarity_equals_a_loop_over_samples(tmp_path, windows, num_processes):
    counts = [0] * (VOCAB_SIZE + 1)
    for sample in range(len(windows)):
        for token in windows[sample].tolist():
            counts[token] += 1
    total = sum(max(1, count) for count in counts)
    cost = [-math.log(max(1, count) / total) for count in counts]
    expected = [
        math.floor(math.fsum(cost[token] for token in windows[sample].tolist()))
        for sample in range(len(windows))
    ]
    index = analyze_rarity(windows, tmp_path, num_processes=num_processes)
    index.verify()
    index.check_dataset(windows)
    assert index.values.tolist() == expected
    frequency = analyze_frequency(windows, tmp_path)
    assert frequency.value.tolist() == counts
    assert frequency.value.dtype == np.int64
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["total_vocab_freq", "vocab_rarity"]


def test_second_call_uses_what_is_there(tmp_path, windows, monkeypatch):
    analyze_rarity(windows, tmp_path)
    written = (tmp_path / "vocab_rarity" / "values.npy").stat().st_mtime_ns
    analyze_rarity(windows, tmp_path)
    assert (tmp_path / "vocab_rarity" / "values.npy").stat().st_mtime_ns == written
    analyze_rarity(windows, tmp_path, overwrite=True)
    assert (tmp_path / "vocab_rarity" / "values.npy").stat().st_mtime_ns > written


def test_results_of_other_data_are_not_used(tmp_path, windows, make_windows):
    analyze_rarity(windows, tmp_path)
    with pytest.raises(ValueError, match="name: expected 'corpus', found 'other'"):
        analyze_frequency(make_windows(name="other"), tmp_path)
    with pytest.raises(ValueError, match="name: expected 'corpus', found 'other'"):
        analyze_rarity(make_windows(name="other"), tmp_path)
    with pytest.raises(ValueError, match="counts a vocabulary of 60 entries, not 70; overwrite"):
        analyze_rarity(windows, tmp_path, 70)


def test_too_small_vocabulary_leaves_nothing(tmp_path, windows):
    message = r"metric total_vocab_freq, sample 0: ValueError: token 57 is outside"
    with pytest.raises(AnalysisError, match=message):
        analyze_rarity(windows, tmp_path, 30)
    assert list(tmp_path.iterdir()) == []
