"""Every value equals that of DeepSpeed's analyzer, on samples of real text."""

import itertools
import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from data_efficiency.analysis.named_metrics import analyze
from megatron.corpus.text_sources import find_sources, read_blocks, texts_of
from megatron.tokenizer import build_tokenizer
from megatron.tokenizer.bpe import train_bpe

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
    script = Path(__file__).with_name("deepspeed_analyzer_peer.py")
    ended = subprocess.run(
        [sys.executable, str(script), *(str(folder / name) for name in found)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    for (name, dataset), metric in itertools.product(found.items(), METRICS):
        result = analyze(dataset, metric, folder / name / "ours")
        ours = result.value if metric == "total_vocab_freq" else result.values
        theirs = np.load(folder / name / f"theirs_{metric}.npy")
        assert np.array_equal(ours, theirs), (name, metric)


@pytest.fixture(autouse=True)
def _deepspeed():
    pytest.importorskip("deepspeed.ops", reason="DeepSpeed is not installed", exc_type=ImportError)


@pytest.mark.full
def test_on_the_source_text_of_python(tmp_path):
    """The standard library's modules, in tokens of a vocabulary trained on them."""
    folder = Path(sysconfig.get_path("stdlib"))
    texts, num_characters = [], 0
    for file in sorted(folder.glob("*.py")):
        texts.append(file.read_text(encoding="utf-8"))
        num_characters += len(texts[-1])
        if num_characters > 4 * NUM_SAMPLES * SAMPLE_TOKENS:
            break
    tokenizer = train_bpe(texts[:20], 1000)
    tokens = np.concatenate([np.array(tokenizer.encode(text), np.uint16) for text in texts])
    assert len(tokens) > NUM_SAMPLES * SAMPLE_TOKENS
    assert_equal_values(tmp_path, tokens, tokenizer.vocab_size)


@pytest.mark.reference
def test_on_the_reference_corpus(tmp_path):
    reference = os.environ.get("DATA_EFFICIENCY_REFERENCE")
    if reference is None:
        pytest.skip("DATA_EFFICIENCY_REFERENCE does not name the reference corpora")
    data = Path(reference)
    files = {
        f"{kind}_file": next(data.rglob(f"tokenizers/gpt2/{name}"))
        for kind, name in (("vocab", "vocab.json"), ("merge", "merges.txt"))
    }
    tokenizer = build_tokenizer(**files)
    sources, _ = find_sources([next(data.rglob("corpus/train.jsonl.zst"))])
    arrays, num_tokens = [], 0
    for block in read_blocks(sources):
        for (text,) in texts_of(block, ["text"]):
            arrays.append(np.array(tokenizer.encode(text), np.uint16))
            num_tokens += len(arrays[-1])
        if num_tokens > NUM_SAMPLES * SAMPLE_TOKENS:
            break
    assert_equal_values(tmp_path, np.concatenate(arrays), tokenizer.vocab_size)
