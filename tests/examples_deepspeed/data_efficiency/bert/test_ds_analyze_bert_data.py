"""The analysis scripts of BERT without a cluster; what they share with GPT's is tested there."""

from pathlib import Path

import numpy as np
import pytest

from data_efficiency.difficulty_index import DifficultyIndex
from tests.examples_deepspeed.shell_runs import start
from tests.megatron.data.sentence_corpus import CLS, MASK, PAD, SEP, write_sentences
from tools import analyze_data

ROOT = Path(__file__).resolve().parents[4]
SCRIPTS = ROOT / "examples_deepspeed" / "data_efficiency" / "bert"
MAP, REDUCE = "ds_analyze_bert_data_map.sh", "ds_analyze_bert_data_reduce.sh"


@pytest.fixture
def flags(tmp_path):
    """Flags of both scripts for a small corpus whose path has a space."""
    prefix = write_sentences(str(tmp_path / "a corpus"), [[4, 9, 3, 7, 12, 5]] * 40)
    return ["--data-path", prefix, "--seq-length", "32", "--save", str(tmp_path / "d")]


def test_map_and_reduce_here_equal_run(flags, tmp_path):
    metric = "seqlen_vocab_rarity"
    flags += ["--sample-seed", "7", "--short-seq-prob", "0.3", "--metric", metric]
    for name in (MAP, REDUCE):
        ended = start(SCRIPTS / name, *flags)
        assert ended.returncode == 0, ended.stderr
    whole = ["run", "--data-type", "bert", *flags, "--save", str(tmp_path / "run")]
    assert analyze_data.main(whole) == 0
    for file in (tmp_path / "run" / metric).iterdir():
        assert (tmp_path / "d" / metric / file.name).read_bytes() == file.read_bytes()
    index = DifficultyIndex.open(tmp_path / "run" / metric)
    assert index.dataset_identity["type"] == "BertDataset"
    assert index.dataset_identity["seed"] == 7
    assert np.all(np.diff(index.values[index.order]) >= 0)


def test_a_foreign_corpus_takes_its_control_tokens_from_the_vocabulary(flags, tmp_path):
    words = [*("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"), *(f"w{i}" for i in range(2000))]
    assert (words[CLS], words[SEP], words[PAD], words[MASK]) == (
        *("[CLS]", "[SEP]", "[PAD]", "[MASK]"),
    )
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    Path(flags[1] + ".meta.json").unlink()
    flags += ["--metric", "seqlen"]
    ended = start(SCRIPTS / MAP, *flags)
    assert ended.returncode == 1
    assert "does not tell the ids of [CLS]" in ended.stderr
    for name in (MAP, REDUCE):
        ended = start(SCRIPTS / name, *flags, "--vocab-file", str(tmp_path / "vocab.txt"))
        assert ended.returncode == 0, ended.stderr
