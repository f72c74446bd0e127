"""The analysis scripts without a cluster: what they print, what they run, what they refuse."""

from pathlib import Path

import numpy as np
import pytest

from megatron.data.indexed_dataset import IndexedDatasetWriter
from tests.examples_deepspeed.shell_runs import start
from tools import analyze_data

ROOT = Path(__file__).resolve().parents[4]
SCRIPTS = ROOT / "examples_deepspeed" / "data_efficiency" / "gpt"
MAP, REDUCE = "ds_analyze_gpt_data_map.sh", "ds_analyze_gpt_data_reduce.sh"


@pytest.fixture
def settings(tmp_path):
    """Settings of both scripts for a small corpus whose path has a space."""
    prefix = str(tmp_path / "a corpus")
    tokens = (np.arange(5000) ** 2 % 97).astype(np.uint16)
    with IndexedDatasetWriter(prefix, np.dtype("uint16")) as writer:
        writer.add_documents(tokens, np.full(50, 100, np.int32))
        writer.finish({"vocab_size": 97})
    return {"DATA_PATH": prefix, "SEQ_LENGTH": "16", "SAVE": str(tmp_path / "d")}


def test_map_and_reduce_here_equal_run(settings, tmp_path):
    for name in (MAP, REDUCE):
        ended = start(SCRIPTS / name, **{**settings, "METRIC": "total_vocab_freq"})
        assert ended.returncode == 0, ended.stderr
    flags = ["--data-path", settings["DATA_PATH"], "--seq-length", "16"]
    flags += ["--metric", "total_vocab_freq", "--save", str(tmp_path / "run")]
    assert analyze_data.main(["run", *flags]) == 0
    for file in (tmp_path / "run" / "total_vocab_freq").iterdir():
        ours = Path(settings["SAVE"]) / "total_vocab_freq" / file.name
        assert ours.read_bytes() == file.read_bytes()


def test_a_dry_run_prints_the_commands_and_does_nothing(settings):
    ended = start(
        SCRIPTS / MAP, **{**settings, "DRY_RUN": "1", "NUM_PROCESSES": "3", "VOCAB_SIZE": "97"}
    )
    lines = ended.stdout.splitlines()
    assert [line.split("analyze_data.py ")[1].split()[0] for line in lines] == [
        "map",
        "reduce",
        "map",
    ]
    assert all(line.count("--vocab-size 97") == 1 for line in lines)
    assert "--metric vocab_rarity" in lines[2]
    assert "--num-processes 3 --num-workers 1 --worker-id 0" in lines[2]
    assert not Path(settings["SAVE"]).exists()
    alone = {**settings, "DRY_RUN": "1", "METRIC": "total_vocab_freq"}
    assert len(start(SCRIPTS / MAP, **alone).stdout.splitlines()) == 1
    assert " reduce " in start(SCRIPTS / REDUCE, **alone).stdout


def test_jobs_wait_for_each_other(settings):
    ended = start(
        SCRIPTS / MAP,
        **{**settings, "DRY_RUN": "1", "LAUNCHER": "slurm", "NUM_WORKERS": "8", "AFTER": "77"},
    )
    first, *jobs = ended.stdout.splitlines()
    assert first == f"mkdir -p {settings['SAVE']}/logs"
    waited_for = [job.split("afterok:")[1].split()[0] for job in jobs]
    assert waited_for == ["77", "$job_1", "$job_2", "$job_3"]
    assert ["--array=0-7" in job for job in jobs] == [True, False, True, False]
    # A task's number comes from SLURM, not from the command.
    assert "--worker-id" not in ended.stdout


@pytest.mark.parametrize(
    ("name", "changes", "line"),
    [
        (MAP, {"DATA_PATH": ""}, f"DATA_PATH is not set; it is described at the top of {MAP}"),
        (REDUCE, {"SAVE": ""}, f"SAVE is not set; it is described at the top of {REDUCE}"),
        (MAP, {"LAUNCHER": "pbs"}, "LAUNCHER is pbs: must be local or slurm"),
        (MAP, {"NUM_WORKERS": "2"}, "map and reduce METRIC=total_vocab_freq first"),
    ],
)
def test_bad_settings_are_one_line(settings, name, changes, line):
    ended = start(SCRIPTS / name, **{**settings, **changes})
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: ")
    assert ended.stderr.endswith(f"{line}\n")
    assert ended.stderr.count("\n") == 1
