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
def settings(tmp_path):
    """Settings of both scripts for a small corpus whose path has a space."""
    prefix = write_sentences(str(tmp_path / "a corpus"), [[4, 9, 3, 7, 12, 5]] * 40)
    return {"DATA_PATH": prefix, "SEQ_LENGTH": "32", "SAVE": str(tmp_path / "d")}


def test_map_and_reduce_here_equal_run(settings, tmp_path):
    more = {"METRIC": "seqlen_vocab_rarity", "SAMPLE_SEED": "7", "SHORT_SEQ_PROB": "0.3"}
    for name in (MAP, REDUCE):
        ended = start(SCRIPTS / name, **{**settings, **more})
        assert ended.returncode == 0, ended.stderr
    flags = ["--data-path", settings["DATA_PATH"], "--seq-length", "32", "--data-type", "bert"]
    flags += ["--sample-seed", "7", "--short-seq-prob", "0.3", "--metric", more["METRIC"]]
    assert analyze_data.main(["run", *flags, "--save", str(tmp_path / "run")]) == 0
    for file in (tmp_path / "run" / "seqlen_vocab_rarity").iterdir():
        ours = Path(settings["SAVE"]) / "seqlen_vocab_rarity" / file.name
        assert ours.read_bytes() == file.read_bytes()
    index = DifficultyIndex.open(tmp_path / "run" / "seqlen_vocab_rarity")
    assert index.dataset_identity["type"] == "BertDataset"
    assert index.dataset_identity["seed"] == 7
    assert np.all(np.diff(index.values[index.order]) >= 0)


def test_a_dry_run_prints_the_commands_and_does_nothing(settings, tmp_path):
    more = {"DRY_RUN": "1", "VOCAB_FILE": str(tmp_path / "vocab.txt"), "SPLIT": "9,1"}
    lines = start(SCRIPTS / MAP, **{**settings, **more}).stdout.splitlines()
    assert [line.split("analyze_data.py ")[1].split()[0] for line in lines] == [
        "map",
        "reduce",
        "map",
    ]
    assert all("--data-type bert" in line and "vocab.txt" in line for line in lines)
    assert "--split 9\\,1" in start(SCRIPTS / REDUCE, **{**settings, **more}).stdout
    jobs = start(
        SCRIPTS / MAP, **{**settings, **more, "LAUNCHER": "slurm", "METRIC": "seqlen"}
    ).stdout
    assert jobs.count("sbatch") == 2
    assert jobs.count("--dependency=afterok:$job_1") == 1
    assert not Path(settings["SAVE"]).exists()


def test_a_foreign_corpus_takes_its_control_tokens_from_the_vocabulary(settings, tmp_path):
    words = [*("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"), *(f"w{i}" for i in range(2000))]
    assert (words[CLS], words[SEP], words[PAD], words[MASK]) == (
        *("[CLS]", "[SEP]", "[PAD]", "[MASK]"),
    )
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    Path(settings["DATA_PATH"] + ".meta.json").unlink()
    settings["METRIC"] = "seqlen"
    ended = start(SCRIPTS / MAP, **settings)
    assert ended.returncode == 1
    assert "does not tell the ids of [CLS]" in ended.stderr
    settings["VOCAB_FILE"] = str(tmp_path / "vocab.txt")
    for name in (MAP, REDUCE):
        ended = start(SCRIPTS / name, **settings)
        assert ended.returncode == 0, ended.stderr
