"""Each name gives its metric, and the analysis uses what is there."""

import math
import sys

import numpy as np
import pytest
import torch

from data_efficiency.analysis.accumulated_value import AccumulatedValue
from data_efficiency.analysis.diversity_metrics import mtld
from data_efficiency.analysis.map_reduce import AnalysisError
from data_efficiency.analysis.metrics import TokenBatch
from data_efficiency.analysis.named_metrics import METRICS, MetricSettings, analyze
from data_efficiency.analysis.reference_loss import ReferenceModel

SETTINGS = MetricSettings(vocab_size=60, max_length=17)


def whole(dataset):
    return TokenBatch(*dataset.token_spans(0, len(dataset)))


@pytest.fixture
def pairs():
    """Samples of varying lengths, gathered from two places, as a BERT dataset makes them."""

    class PairDataset:
        identity = {"name": "pairs"}
        vocab_size = 60
        sequence_length = 40

        def __init__(self):
            generator = np.random.default_rng(3)
            self.samples = [
                np.concatenate(
                    [[57], generator.integers(0, 50, a), [58], generator.integers(0, 50, b), [58]]
                )
                for a, b in generator.integers(0, 18, (700, 2))
            ]

        def __len__(self):
            return len(self.samples)

        def token_spans(self, first, last):
            chosen = self.samples[first:last]
            lengths = np.array([len(sample) for sample in chosen], dtype=np.int64)
            tokens = np.concatenate(chosen).astype(np.uint16)
            return tokens, np.cumsum(lengths) - lengths, lengths

    return PairDataset()


@pytest.mark.parametrize("num_processes", [1, 3])
def test_samples_of_varying_lengths(tmp_path, pairs, num_processes):
    counts = np.bincount(np.concatenate(pairs.samples), minlength=61)
    costs = -np.log(np.maximum(counts, 1) / np.maximum(counts, 1).sum())
    rarities = [math.floor(math.fsum(costs[sample])) for sample in pairs.samples]
    lengths = [len(sample) for sample in pairs.samples]
    factor = 10 ** (math.ceil(math.log10(40 * costs.max())) + 1)
    expected = {
        "seqlen": lengths,
        "vocab_rarity": rarities,
        "seqlen_vocab_rarity": [
            length * factor + rarity for length, rarity in zip(lengths, rarities, strict=True)
        ],
    }
    for name, values in expected.items():
        index = analyze(pairs, name, tmp_path, num_processes=num_processes)
        index.verify()
        assert index.values.tolist() == values
    assert AccumulatedValue.open(tmp_path / "total_vocab_freq").value.tolist() == counts.tolist()
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {*expected, "total_vocab_freq"}


def test_real_valued_metric_is_quantised_on_request(tmp_path, windows):
    exact = mtld(whole(windows)).astype(np.float32)
    index = analyze(windows, "lexical_diversity", tmp_path / "a", SETTINGS)
    assert index.values.tolist() == exact.tolist()
    assert index.num_distinct_values > 100
    few = analyze(windows, "lexical_diversity", tmp_path / "b", SETTINGS, max_distinct_values=10)
    assert 8 <= few.num_distinct_values <= 10
    assert few.order.tolist() == index.order.tolist() == np.argsort(exact, kind="stable").tolist()
    again = analyze(windows, "lexical_diversity", tmp_path / "b", SETTINGS, max_distinct_values=10)
    assert again.path == few.path
    with pytest.raises(ValueError, match="made with max_distinct_values 10, not None; overwrite"):
        analyze(windows, "lexical_diversity", tmp_path / "b", SETTINGS)


def test_compression_ratio_and_reference_loss(tmp_path, windows):
    uniform = MetricSettings(
        load_model=lambda device: ReferenceModel(
            logits=lambda tokens: torch.zeros(*tokens.shape, 60), vocab_size=60
        )
    )
    index = analyze(windows, "reference_loss", tmp_path, uniform, num_processes=2)
    assert np.allclose(index.values, math.log(60))
    assert 0 < analyze(windows, "compression_ratio", tmp_path).min_value < 2


def test_own_functions_of_spans_and_of_items(tmp_path, windows, monkeypatch):
    (tmp_path / "own_metrics.py").write_text(
        "import numpy as np\n"
        "def first_tokens(batch):\n    return batch.tokens[batch.starts] / 4\n"
        "def largest(batch):\n    return batch.max(axis=1).values\n"
        "def num_samples(batch):\n    return np.array([len(batch)])\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    index = analyze(windows, "own_metrics:first_tokens", tmp_path)
    assert index.metric == "first_tokens"
    assert index.values.tolist() == [windows[i][0] / 4 for i in range(len(windows))]
    windows.tokens = windows.tokens.astype(np.int64)
    items = MetricSettings(reads="items", dtype="int64", batch_size=64)
    index = analyze(windows, "own_metrics:largest", tmp_path, items)
    assert index.values.tolist() == [windows[i].max() for i in range(len(windows))]
    accumulated = MetricSettings(reads="items", dtype="int64", kind="accumulate_value_over_samples")
    value = analyze(windows, "own_metrics:num_samples", tmp_path, accumulated).value
    assert value.tolist() == [500]
    again = analyze(windows, "own_metrics:num_samples", tmp_path, accumulated).value
    assert again.tolist() == [500]
    sys.modules.pop("own_metrics")


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("rarity", SETTINGS, f"metric is 'rarity': one of {', '.join(METRICS)}, or package"),
        ("vocab_rarity", MetricSettings(), "vocab_size is None: give the entries"),
        ("vocab_rarity", MetricSettings(vocab_size=0), "vocab_size is 0: give the entries"),
        ("seqlen_vocab_rarity", MetricSettings(vocab_size=60), "max_length is not set"),
        ("reference_loss", SETTINGS, r"needs a model \(--model\)"),
        ("nothing_here:f", SETTINGS, "No module named 'nothing_here'"),
    ],
)
def test_what_is_missing_is_named(tmp_path, windows, name, settings, message):
    with pytest.raises(ValueError, match=message):
        analyze(windows, name, tmp_path, settings)


def test_rarity_alone_asks_for_the_frequencies(tmp_path, windows):
    with pytest.raises(FileNotFoundError, match="total_vocab_freq is missing: analyze the metric"):
        METRICS["vocab_rarity"](windows, tmp_path, SETTINGS)


def test_second_call_uses_what_is_there(tmp_path, windows):
    file = tmp_path / "vocab_rarity" / "values.npy"
    analyze(windows, "vocab_rarity", tmp_path, SETTINGS)
    written = file.stat().st_mtime_ns
    analyze(windows, "vocab_rarity", tmp_path, SETTINGS)
    assert file.stat().st_mtime_ns == written
    analyze(windows, "vocab_rarity", tmp_path, SETTINGS, overwrite=True)
    assert file.stat().st_mtime_ns > written


def test_results_of_other_data_are_not_used(tmp_path, windows, make_windows):
    analyze(windows, "vocab_rarity", tmp_path, SETTINGS)
    for name in ("total_vocab_freq", "vocab_rarity"):
        with pytest.raises(ValueError, match="name: expected 'corpus', found 'other'"):
            analyze(make_windows(name="other"), name, tmp_path, SETTINGS)
    with pytest.raises(ValueError, match="counts a vocabulary of 60 entries, not 70; overwrite"):
        analyze(windows, "vocab_rarity", tmp_path, MetricSettings(vocab_size=70))


def test_too_small_vocabulary_leaves_nothing(tmp_path, windows):
    message = r"metric total_vocab_freq, sample 0: ValueError: token 57 is outside"
    with pytest.raises(AnalysisError, match=message):
        analyze(windows, "vocab_rarity", tmp_path, MetricSettings(vocab_size=30))
    assert list(tmp_path.iterdir()) == []
