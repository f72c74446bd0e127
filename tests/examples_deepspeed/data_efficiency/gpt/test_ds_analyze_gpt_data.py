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
def flags(tmp_path):
    """Flags of both scripts for a small corpus whose path has a space."""
    prefix = str(tmp_path / "a corpus")
    tokens = (np.arange(5000) ** 2 % 97).astype(np.uint16)
    with IndexedDatasetWriter(prefix, np.dtype("uint16")) as writer:
        writer.add_documents(tokens, np.full(50, 100, np.int32))
        writer.finish({"vocab_size": 97})
    return ["--data-path", prefix, "--seq-length", "16", "--save", str(tmp_path / "d")]


@pytest.mark.parametrize("metric", ["total_vocab_freq", "vocab_rarity"])
def test_map_and_reduce_here_equal_run(flags, metric, tmp_path):
    for name in (MAP, REDUCE):
        ended = start(SCRIPTS / name, *flags, "--metric", metric)
        assert ended.returncode == 0, ended.stderr
    whole = ["run", *flags, "--metric", metric, "--save", str(tmp_path / "run")]
    assert analyze_data.main(whole) == 0
    for file in (tmp_path / "run" / metric).iterdir():
        assert (tmp_path / "d" / metric / file.name).read_bytes() == file.read_bytes()


def steps_of(printed):
    return [line.split("analyze_data.py ")[1].split()[0] for line in printed.splitlines()]


def test_a_dry_run_prints_the_commands_and_does_nothing(flags, tmp_path):
    settings = {"DRY_RUN": "1", "NUM_PROCESSES": "3"}
    printed = start(SCRIPTS / MAP, *flags, "--vocab-size", "97", **settings).stdout
    assert steps_of(printed) == ["map", "reduce", "map"]
    lines = printed.splitlines()
    assert all(line.count("--vocab-size 97") == 1 for line in lines)
    assert lines[2].count("--metric vocab_rarity") == 1
    assert ["--num-processes 3" in line for line in lines] == [True, False, True]
    assert not (tmp_path / "d").exists()
    alone = [*flags, "--metric", "total_vocab_freq"]
    assert steps_of(start(SCRIPTS / MAP, *alone, **settings).stdout) == ["map"]
    assert steps_of(start(SCRIPTS / REDUCE, *alone, **settings).stdout) == ["reduce"]


def test_jobs_wait_for_each_other(flags):
    settings = {"DRY_RUN": "1", "LAUNCHER": "slurm", "NUM_WORKERS": "8", "AFTER": "77"}
    ended = start(SCRIPTS / MAP, *flags, LOGS="a folder", **settings)
    first, *jobs = ended.stdout.splitlines()
    assert first == "mkdir -p a\\ folder"
    waited_for = [job.split("afterok:")[1].split()[0] for job in jobs]
    assert waited_for == ["77", "$job_1", "$job_2", "$job_3"]
    assert ["--array=0-7" in job for job in jobs] == [True, False, True, False]
    # A task's number comes from SLURM, not from the command.
    assert "--worker-id" not in ended.stdout
    *others, save = flags
    joined = [*others[:-1], f"--save={save}"]
    assert start(SCRIPTS / MAP, *joined, LOGS="a folder", **settings).returncode == 0
    # Not set, it was an unbound variable.
    assert start(SCRIPTS / MAP, *flags, **settings).stdout.startswith(f"mkdir -p {save}/logs\n")


@pytest.mark.parametrize(
    ("name", "left_out", "settings", "line"),
    [
        (MAP, 4, {}, "--save is not given"),
        (MAP, 0, {"LAUNCHER": "pbs"}, "LAUNCHER is pbs: must be local or slurm"),
    ],
)
def test_bad_settings_are_one_line(flags, name, left_out, settings, line):
    ended = start(SCRIPTS / name, *(flags[:left_out] or flags), **settings)
    assert ended.returncode == 1
    assert ended.stderr == f"error: {line}\n"
