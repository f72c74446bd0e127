"""The analysis scripts on a real SLURM of two nodes: array, dependent reduce, and what goes wrong."""

import os
from pathlib import Path

import numpy as np
import pytest

from megatron.data.indexed_dataset import IndexedDatasetWriter
from tests.megatron.data.sentence_corpus import write_sentences
from tools import analyze_data

pytestmark = [pytest.mark.slurm, pytest.mark.full]

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "examples_deepspeed" / "data_efficiency"
SEQ_LENGTH = 512
FILES = ("values.npy", "order.npy", "manifest.json")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A corpus of 16 million tokens: four shards, so both nodes have something to do."""
    prefix = str(tmp_path_factory.mktemp("a corpus") / "c")
    tokens = (np.random.default_rng(5).random(2**24) ** 3 * 1000).astype(np.uint16)
    with IndexedDatasetWriter(prefix, np.dtype("uint16")) as writer:
        writer.add_documents(tokens, np.full(2**10, 2**14, np.int32))
        writer.finish({"vocab_size": 1000})
    return prefix


def script(slurm, name, corpus, save, *flags, **settings):
    """Output of a script that is started with these flags and settings."""
    words = ["--data-path", corpus, "--seq-length", str(SEQ_LENGTH), "--save", str(save), *flags]
    settings = {"LAUNCHER": "slurm", "LOGS": str(save / "logs")} | settings
    return slurm.start(SCRIPTS / name, *words, **settings)


def logs(save):
    return "\n".join(f"{file.name}:\n{file.read_text()}" for file in (save / "logs").iterdir())


def test_array_on_two_nodes_and_dependent_reduce(slurm, corpus, tmp_path):
    save = tmp_path / "on slurm"
    settings = {"NUM_WORKERS": "2", "SBATCH_FLAGS": "--exclusive"}
    printed = script(slurm, "gpt/ds_analyze_gpt_data_map.sh", corpus, save, **settings, DRY_RUN="1")
    assert not save.exists()
    assert printed.count("--array=0-1") == 2
    assert printed.count("--dependency=afterok:$job_") == 3
    slurm.run_printed(printed)
    jobs = slurm.wait_for_jobs()
    assert {job["JobState"] for job in jobs.values()} == {"COMPLETED"}, logs(save)
    names = sorted(job["JobName"] for job in jobs.values())
    assert names == sorted(
        [
            *("map-total_vocab_freq", "map-total_vocab_freq", "reduce-total_vocab_freq"),
            *("map-vocab_rarity", "map-vocab_rarity", "reduce-vocab_rarity"),
        ]
    )
    mapped_on = {job["NodeList"] for job in jobs.values() if job["JobName"] == "map-vocab_rarity"}
    assert mapped_on == {"n0", "n1"}

    here = ["run", "--data-path", corpus, "--seq-length", str(SEQ_LENGTH)]
    assert analyze_data.main([*here, "--save", str(tmp_path / "here")]) == 0
    for name in FILES:
        ours = (tmp_path / "here" / "vocab_rarity" / name).read_bytes()
        assert (save / "vocab_rarity" / name).read_bytes() == ours, name
    assert sorted(os.listdir(save)) == ["logs", "total_vocab_freq", "vocab_rarity"]


def test_bert_on_slurm_equals_bert_here(slurm, tmp_path):
    save, before = tmp_path / "d", slurm.wait_for_jobs().keys()
    prefix = write_sentences(str(tmp_path / "c"), [[9, 4, 12, 7, 3, 20, 5, 6]] * 400)
    flags = ["--metric", "seqlen_vocab_rarity", "--seq-length", "64"]
    script(slurm, "bert/ds_analyze_bert_data_map.sh", prefix, save, *flags, NUM_WORKERS="2")
    jobs = {key: job for key, job in slurm.wait_for_jobs().items() if key not in before}
    assert {job["JobState"] for job in jobs.values()} == {"COMPLETED"}, logs(save)
    assert len(jobs) == 6
    here = ["run", "--data-type", "bert", "--data-path", prefix, "--seq-length", "64"]
    here += ["--metric", "seqlen_vocab_rarity", "--save", str(tmp_path / "here")]
    assert analyze_data.main(here) == 0
    for name in FILES:
        ours = (tmp_path / "here" / "seqlen_vocab_rarity" / name).read_bytes()
        assert (save / "seqlen_vocab_rarity" / name).read_bytes() == ours, name


def test_a_failed_map_stops_what_waits_for_it_and_can_be_repeated(slurm, corpus, tmp_path):
    before = slurm.wait_for_jobs().keys()
    flags, settings = ["--metric", "total_vocab_freq"], {"NUM_WORKERS": "2"}
    save, name = tmp_path / "d", "gpt/ds_analyze_gpt_data_map.sh"
    printed = script(slurm, name, corpus, save, *flags, "--vocab-size", "900", **settings)
    assert [line.split(":")[0] for line in printed.splitlines()] == [
        "map-total_vocab_freq",
        "reduce-total_vocab_freq",
    ]
    jobs = slurm.wait_for_jobs()
    states = {job["JobName"]: job["JobState"] for key, job in jobs.items() if key not in before}
    assert states == {"map-total_vocab_freq": "FAILED", "reduce-total_vocab_freq": "CANCELLED"}
    assert "is outside the vocabulary of 900 entries" in logs(save)

    script(slurm, name, corpus, save, *flags, **settings)
    slurm.wait_for_jobs()
    assert (save / "total_vocab_freq" / "value.npy").is_file(), logs(save)
