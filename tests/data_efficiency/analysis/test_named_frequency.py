"""Frequency and rarity from start to finish."""

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
