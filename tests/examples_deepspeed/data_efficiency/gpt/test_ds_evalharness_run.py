"""The evaluation script without a cluster: devices, jobs, a stop, what is refused."""

import shlex
from pathlib import Path

import pytest

from tests.examples_deepspeed.data_efficiency.stopped_script import check_a_stop_ends_what_runs
from tests.examples_deepspeed.shell_runs import start
from tools.evaluate_runs import parse_arguments

ROOT = Path(__file__).resolve().parents[4]
SCRIPT = ROOT / "examples_deepspeed/data_efficiency/gpt/eval/ds_evalharness_run.sh"
FLAGS = ["--checkpoints", "a b", "--output", "results", "--limit", "3"]


def parts_of(printed):
    """The parsed flags of each line."""
    lines = [shlex.split(line) for line in printed.splitlines()]
    return [parse_arguments(line[line.index("--checkpoints") :])[0] for line in lines]


def test_devices_share_the_work(tmp_path):
    ended = start(SCRIPT, *FLAGS, cwd=tmp_path, DRY_RUN="1", DEVICES="0 cpu")
    first, second, table = parts_of(ended.stdout)
    assert [(one.worker_id, one.num_workers) for one in (first, second)] == [(0, 2), (1, 2)]
    assert (table.table, str(table.checkpoints)) == (True, "a b")
    (alone,) = parts_of(start(SCRIPT, *FLAGS, DRY_RUN="1").stdout)
    assert (alone.worker_id, alone.num_workers) == (0, 1)


def test_an_array_with_its_gpus_and_a_table_that_waits(tmp_path):
    """GPUs are for what evaluates, not for the table."""
    settings = {"LAUNCHER": "slurm", "AFTER": "77", "NUM_WORKERS": "4", "SBATCH_FLAGS": "--time=9"}
    ended = start(SCRIPT, *FLAGS, cwd=tmp_path, DRY_RUN="1", EVALUATE_FLAGS="--gpus=1", **settings)
    assert ended.returncode == 0, ended.stderr
    made, array, table = ended.stdout.splitlines()
    assert made == "mkdir -p results/logs"
    assert ["--array=0-3" in job for job in (array, table)] == [True, False]
    assert ["--gpus=1" in job for job in (array, table)] == [True, False]
    assert all("--time=9" in job for job in (array, table))
    assert '--worker-id\\ \\"\\$SLURM_ARRAY_TASK_ID' in array
    assert [job.split("afterok:")[1].split()[0] for job in (array, table)] == ["77", "$job_1"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("devices", ["", "cpu cpu"])
def test_a_stop_ends_what_runs(tmp_path, devices):
    check_a_stop_ends_what_runs(SCRIPT, tmp_path, *FLAGS, DEVICES=devices)


def test_bad_settings_are_one_line():
    ended = start(SCRIPT, *FLAGS, LAUNCHER="pbs")
    assert (ended.returncode, ended.stderr) == (
        1,
        "error: LAUNCHER is pbs: must be local or slurm\n",
    )
