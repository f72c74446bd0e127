"""Every value equals that of DeepSpeed's analyzer, on samples of real text."""

import itertools
import json
import re
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from data_efficiency.analysis.named_metrics import analyze
from tests.processes import run_python

NUM_SAMPLES = 5000
SAMPLE_TOKENS = 129
METRICS = ("total_vocab_freq", "seqlen", "vocab_rarity", "seqlen_vocab_rarity")


class Spans:
    """Samples anywhere in some tokens."""

    def __init__(self, tokens, starts, lengths, vocab_size):
        self.tokens, self.starts, self.lengths = tokens, starts, lengths
        self.vocab_size = vocab_size
        self.sequence_length = int(lengths.max())
        self.identity = {"num_samples": len(starts)}

    def __len__(self):
        return len(self.starts)

    def token_spans(self, first, last):
        begin = int(self.starts[first])
        end = int((self.starts + self.lengths)[first:last].max())
        return self.tokens[begin:end], self.starts[first:last] - begin, self.lengths[first:last]


def datasets(tokens, vocab_size):
    """Windows that share a token, as for GPT, and samples of varying lengths, as for BERT."""
    starts = np.arange(NUM_SAMPLES) * (SAMPLE_TOKENS - 1)
    lengths = np.random.default_rng(0).integers(1, SAMPLE_TOKENS, NUM_SAMPLES)
    return {
        "windows": Spans(tokens, starts, np.full(NUM_SAMPLES, SAMPLE_TOKENS), vocab_size),
        "lengths": Spans(tokens, np.cumsum(lengths) - lengths, lengths, vocab_size),
    }


def assert_equal_values(folder, tokens, vocab_size):
    found = datasets(tokens, vocab_size)
    for name, dataset in found.items():
        columns = np.arange(dataset.lengths.max())
        rows = tokens[np.minimum(dataset.starts[:, None] + columns, len(tokens) - 1)]
        (folder / name).mkdir()
        samples = np.concatenate([dataset.lengths[:, None], rows.astype(np.int64)], axis=1)
        np.save(folder / name / "samples.npy", samples)
        settings = {"vocab_size": vocab_size, "max_length": dataset.sequence_length}
        (folder / name / "settings.json").write_text(json.dumps(settings))
    peer = Path(__file__).with_name("deepspeed_analyzer_peer.py")
    run_python(peer, *(folder / name for name in found))
    for (name, dataset), metric in itertools.product(found.items(), METRICS):
        result = analyze(dataset, metric, folder / name / "ours")
        ours = result.value if metric == "total_vocab_freq" else result.values
        theirs = np.load(folder / name / f"theirs_{metric}.npy")
        assert np.array_equal(ours, theirs), (name, metric)


@pytest.mark.full
def test_on_the_source_text_of_python(tmp_path):
    """The words of the standard library's modules, each a token."""
    pytest.importorskip("deepspeed.ops", reason="DeepSpeed is not installed", exc_type=ImportError)
    words = []
    for file in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        words += re.findall(r"\w+|\S", file.read_text(encoding="utf-8"))
    vocabulary, tokens = np.unique(words[: NUM_SAMPLES * SAMPLE_TOKENS], return_inverse=True)
    assert len(tokens) >= NUM_SAMPLES * SAMPLE_TOKENS
    assert_equal_values(tmp_path, tokens.astype(np.int32), len(vocabulary))
