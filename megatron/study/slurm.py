"""A study on a SLURM cluster: one array of workers that share the queue through the file system.

A worker takes runs until none is left, so the array is as large as the cluster allows, whatever the
number of runs; a worker that runs out of time saves and requeues itself alone.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from megatron.study.stages import ROOT

SIGNAL_BEFORE_END = "--signal=B:USR1@120"
"""Two minutes to save."""


def largest_array(config: str) -> int:
    """Tasks that one array may have, from what `scontrol show config` prints.

    Source: slurm.conf, MaxArraySize: one more than the largest task number.

    Example:
        >>> largest_array("MaxArraySize            = 1001"), largest_array("")
        (1001, 1001)
    """
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", config)
    return int(found[1]) if found else 1001


def worker_script(command: Sequence[str]) -> str:
    """A batch script that becomes the worker, so that signals reach it.

    One that comes before the worker listens must not end it.
    """
    return f"#!/usr/bin/env bash\ntrap '' USR1\nexec {shlex.join(command)}\n"


def submit_study(
    arguments: Sequence[str],
    *,
    num_workers: int,
    parallel: int,
    prepares: bool,
    flags: Sequence[str],
    logs: Path,
) -> list[str]:
    """Queue the stages, the workers and the report; each waits for the one before.

    Args:
        arguments: of tools/study.py behind its subcommand.
        num_workers: wanted; an array has at most as many as the cluster allows.
        parallel: runs of a worker at once.
        prepares: whether something is to be made before the runs.
        flags: of sbatch for all jobs: account, partition, GPUs.
        logs: folder of the jobs' output.

    Returns:
        The numbers of the jobs.

    Raises:
        OSError: if sbatch refuses one; those that were queued before it are cancelled.
    """
    tool = [sys.executable, str(ROOT / "tools" / "study.py")]
    size = min(num_workers, largest_array(_output(["scontrol", "show", "config"])))
    logs.mkdir(parents=True, exist_ok=True)
    wanted: list[tuple[str, str, list[str]]] = [("prepare", "prepare", [])] if prepares else []
    wanted.append(
        (
            "work",
            "work",
            [f"--array=0-{size - 1}", SIGNAL_BEFORE_END, "--requeue", "--open-mode=append"],
        )
    )
    wanted.append(("report", "report", []))
    jobs: list[str] = []
    for name, subcommand, more in wanted:
        pattern = "%A_%a" if name == "work" else "%j"
        after = {"work": "afterok", "report": "afterany"}.get(name)
        dependency = (
            [f"--dependency={after}:{jobs[-1]}", "--kill-on-invalid-dep=yes"]
            if jobs and after
            else []
        )
        more_words = ["--parallel", str(parallel)] if name == "work" else []
        command = [
            *("sbatch", "--parsable", f"--job-name=study-{name}"),
            f"--output={logs}/{name}-{pattern}.log",
            *(*more, *dependency, *flags),
        ]
        try:
            printed = _output(command, worker_script([*tool, subcommand, *arguments, *more_words]))
        except OSError:
            for job in jobs:
                subprocess.run(["scancel", job], check=False)
            raise
        jobs.append(printed.strip().partition(";")[0])  # the cluster's name may follow
    return jobs


def requeue_this_task(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this is a SLURM job; then it is queued again, alone, even where it is a task of an array."""
    array, task = (environment.get(f"SLURM_ARRAY_{name}") for name in ("JOB_ID", "TASK_ID"))
    job = f"{array}_{task}" if array and task else environment.get("SLURM_JOB_ID")
    if job is None:
        return False
    _output(["scontrol", "requeue", job])
    return True


def _output(command: Sequence[str], script: str | None = None) -> str:
    """What a command prints.

    Raises:
        OSError: if it fails or is not there.
    """
    try:
        done = subprocess.run(command, input=script, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise OSError(
            f"{command[0]} is not here: --slurm needs a machine that submits SLURM jobs"
        ) from None
    if done.returncode:
        raise OSError(f"{shlex.join(command)} ended with: {done.stderr.strip()}")
    return done.stdout
