"""The evaluation script without a cluster: here, as jobs, what is refused."""

import shlex
from pathlib import Path

from tests.examples_deepspeed.shell_runs import start
from tools.evaluate_runs import parse_arguments

ROOT = Path(__file__).resolve().parents[4]
SCRIPT = ROOT / "examples_deepspeed/data_efficiency/gpt/eval/ds_evalharness_run.sh"
FLAGS = ["--checkpoints", "a b", "--output", "results", "--limit", "3"]


def parts_of(printed):
    """The parsed flags of each line."""
    lines = [shlex.split(line) for line in printed.splitlines()]
    return [parse_arguments(line[line.index("--checkpoints") :])[0] for line in lines]


def test_here_it_is_the_tool_itself(tmp_path):
    flags = [*FLAGS, "--parallel", "2"]
    (alone,) = parts_of(start(SCRIPT, *flags, cwd=tmp_path, DRY_RUN="1").stdout)
    assert (alone.parallel, str(alone.checkpoints), alone.table) == (2, "a b", False)


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
    assert ["--table" in job for job in (array, table)] == [False, True]
    assert [job.split("afterok:")[1].split()[0] for job in (array, table)] == ["77", "$job_1"]
    assert not list(tmp_path.iterdir())


def test_bad_settings_are_one_line():
    ended = start(SCRIPT, *FLAGS, LAUNCHER="pbs")
    assert (ended.returncode, ended.stderr) == (
        1,
        "error: LAUNCHER is pbs: must be local or slurm\n",
    )
