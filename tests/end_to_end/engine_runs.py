"""Runs on one or several processes, and what makes two of them equal."""

import json
import os
import socket
import subprocess
import sys
import time
from collections import defaultdict

import pytest
import torch
from safetensors.torch import load_file

from tests.end_to_end.tiny_runs import ROOT, composed_flags

NUM_STEPS = 20
RECORDING_SCRIPT = "tests/end_to_end/recorded_run.py"
BATCH_SIZE = 8
# Float32 sums in another order; Adam divides by their root, so small gradients show it most.
WEIGHT_TOLERANCE = 5e-5


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start(flags, num_processes=1, script="pretrain_gpt.py", *, restarts=0, **environment):
    """A running training; more than one process is started by torchrun, again if one fails."""
    command = [sys.executable]
    if num_processes > 1:
        command += ["-m", "torch.distributed.run", f"--nproc_per_node={num_processes}"]
        command += [f"--master_port={free_port()}", f"--max-restarts={restarts}"]
    settings = {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [*command, script, *flags],
        cwd=ROOT,
        env=os.environ | settings | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process, timeout=600, status=0):
    output, _ = process.communicate(timeout=timeout)
    assert process.returncode == status, output
    return output


def last_step(folder):
    """The last step in a run's log, 0 where there is none."""
    return max((line.get("step", 0) for line in log_lines(folder)), default=0)


def wait_for_steps(folder, processes, step=5):
    """Returns once the log has the step; fails where a process has ended before."""
    deadline = time.monotonic() + 300
    while True:
        ended = [process for process in processes if process.poll() is not None]
        if last_step(folder) >= step:
            return
        assert not ended, ended[0].communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.005)


def flags_of(workspace, config, folder, num_processes=1, **flags):
    return composed_flags(
        workspace,
        config,
        **{
            "micro_batch_size": 4 // num_processes,
            "train_iters": NUM_STEPS,
            "save": folder,
            "save_interval": 10,
            "keep_last": 0,
        }
        | flags,
    )


def log_lines(folder):
    """The whole lines of a run's log, which may be under way."""
    path = folder / "log.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def assert_equal_runs(folder, expected, from_step=1):
    """Losses to 5 decimals, counters to the digit, weights and Adam's state within rounding."""
    for kind in ("train", "valid"):
        found, wanted = (
            [line for line in log_lines(each) if line["kind"] == kind and line["step"] >= from_step]
            for each in (folder, expected)
        )
        assert len(found) == len(wanted) > 0
        for left, right in zip(found, wanted, strict=True):
            assert left["loss"] == pytest.approx(right["loss"], abs=1e-5)
            if kind == "train":
                assert left["grad_norm"] == pytest.approx(right["grad_norm"], rel=1e-4)
            for name in ("step", "corpus_tokens", "loss_tokens", "layer_tokens", "flops"):
                assert left[name] == right[name], name
            for name in ("sequence_length", "kept_length", "difficulties", "pool_size"):
                assert left.get(name) == right.get(name), name
    for file, tolerance in (("model", WEIGHT_TOLERANCE), ("optimizer", 1e-5)):
        found, wanted = (
            load_file(each / f"global_step{NUM_STEPS}" / f"{file}.safetensors")
            for each in (folder, expected)
        )
        assert set(found) == set(wanted)
        for name, tensor in wanted.items():
            torch.testing.assert_close(
                found[name], tensor, atol=tolerance, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
            )


def start_recorded(flags, folder, num_processes, attempt, *, restarts=0, **environment):
    """A running training that writes to `folder`/records."""
    records = folder / "records"
    records.mkdir(parents=True, exist_ok=True)
    own = {"RECORDS": str(records), "ATTEMPT": str(attempt)}
    return start(flags, num_processes, RECORDING_SCRIPT, restarts=restarts, **own, **environment)


def consumed(folder):
    """Attempt -> step -> the sorted samples of its global batch; unfinished steps are left out."""
    found = defaultdict(lambda: defaultdict(list))
    for path in (folder / "records").glob("*.jsonl"):
        for line in path.read_text().split("\n")[:-1]:
            record = json.loads(line)
            found[int(path.name.split("_")[0])][record["step"]] += record["samples"]
    return {
        attempt: {step: sorted(rows) for step, rows in steps.items() if len(rows) == BATCH_SIZE}
        for attempt, steps in found.items()
    }
