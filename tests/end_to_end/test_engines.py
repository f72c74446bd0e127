"""One run on both engines and several numbers of processes: the same losses, the same weights."""

import os
import shutil
import signal
import subprocess
import time

import pytest
import torch
from safetensors.torch import load_file

from tests.end_to_end.engine_runs import (
    NUM_STEPS,
    assert_equal_runs,
    finish,
    flags_of,
    log_lines,
    start,
    wait_for_steps,
)
from tests.end_to_end.tiny_runs import write_composed


@pytest.mark.full
def test_all_processes_go_on_from_the_checkpoint_that_is_whole(
    workspace, write_config, one_process, tmp_path
):
    run = tmp_path / "run"
    shutil.copytree(one_process, run)
    damaged = run / f"global_step{NUM_STEPS}" / "optimizer.safetensors"
    damaged.write_bytes(bytes(damaged.stat().st_size))
    flags = flags_of(workspace, write_config(), run, 2, load=run)
    output = finish(start(flags, 2))
    assert "optimizer.safetensors was changed after it was written" in output
    assert f"global_step{NUM_STEPS} is set aside as global_step{NUM_STEPS}.damaged" in output
    assert f"continuing from {run / 'global_step10'}" in output
    assert_equal_runs(run, one_process)
    for checkpoint in run.glob("global_step?0"):
        (checkpoint / "state.json").unlink()
    process = start(flags, 2)
    output, _ = process.communicate(timeout=180)
    assert process.returncode == 1
    assert f"no checkpoint in {run} is whole: " in output


@pytest.fixture(scope="module")
def reshaping(workspace):
    """Folder of a run on one process whose rows are cut into more and shorter ones, and its flags."""

    def flags(folder, stage=None):
        path = workspace / f"reshape_{stage}.json"
        write_composed(path, workspace, stage=stage, reshape=True, num_workers=2)
        # What is laid end to end is a micro-batch, so its size must not depend on the processes.
        return flags_of(
            workspace,
            path,
            folder,
            micro_batch_size=4,
            deepspeed=True if stage is not None else None,
        )

    folder = workspace / "reshaped"
    finish(start(flags(folder)))
    return folder, flags


@pytest.mark.parametrize(
    "stage", [None, *(pytest.param(stage, marks=pytest.mark.full) for stage in (0, 2))]
)
def test_reshaping_on_two_processes_equals_one(reshaping, tmp_path, stage):
    expected, flags = reshaping
    lines = [line for line in log_lines(expected) if line["kind"] == "train"]
    assert len({line["sequence_length"] for line in lines}) > 2
    finish(start(flags(tmp_path, stage), 2))
    assert_equal_runs(tmp_path, expected)


@pytest.mark.full
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_bf16_and_recomputation_with_deepspeed(
    workspace, write_config, one_process, tmp_path, stage
):
    """bf16 weights with a float32 copy: near the float32 run, and resumed to the same losses."""
    flags = {"deepspeed": True, "bf16": True, "recompute_activations": True}
    config = write_config(stage)
    finish(start(flags_of(workspace, config, tmp_path, 2, **flags), 2))
    losses = [line["loss"] for line in log_lines(tmp_path) if line["kind"] == "train"]
    wanted = [line["loss"] for line in log_lines(one_process) if line["kind"] == "train"]
    assert losses == pytest.approx(wanted, abs=0.002)
    (tmp_path / "latest").write_text("global_step10\n")
    finish(start(flags_of(workspace, config, tmp_path, 2, load=tmp_path, **flags), 2))
    again = [line["loss"] for line in log_lines(tmp_path) if line["kind"] == "train"]
    assert again == pytest.approx(losses, abs=1e-6)


@pytest.mark.parametrize(
    "deepspeed", [None, pytest.param(True, marks=pytest.mark.full)], ids=["torch", "deepspeed"]
)
def test_padding_that_differs_by_rank_and_a_token_budget(
    workspace, write_config, tmp_path, deepspeed
):
    """A mean of the ranks' means has another loss, and ranks that count alone stop apart."""
    script = "tests/end_to_end/uneven_ranks.py"
    one, two = tmp_path / "one", tmp_path / "two"
    budget = {"train_iters": None, "train_tokens": 1000, "token_counter": "loss", "lr": 1e-4}
    config = write_config(2 if deepspeed else None)
    finish(start(flags_of(workspace, write_config(), one, **budget), script=script))
    flags = flags_of(workspace, config, two, 2, deepspeed=deepspeed, **budget)
    output = finish(start(flags, 2, script))
    found, wanted = (
        [line for line in log_lines(each) if line["kind"] == "train"] for each in (two, one)
    )
    assert len(found) == len(wanted) > 5
    for left, right in zip(found, wanted, strict=True):
        assert left["loss"] == pytest.approx(right["loss"], abs=1e-5)
        assert left["grad_norm"] == pytest.approx(right["grad_norm"], rel=1e-4)
        assert left["loss_tokens"] == right["loss_tokens"]
    assert wanted[-2]["loss_tokens"] < 1000 <= wanted[-1]["loss_tokens"]
    assert f"stopped after step {len(wanted)}: --train-tokens (1000 loss)" in output


def test_a_time_limit_on_one_rank_stops_all(workspace, write_config, tmp_path):
    flags = flags_of(workspace, write_config(), tmp_path, 2, exit_duration_in_mins=1)
    flags[flags.index("--train-iters") + 1] = "100000"
    process = start(flags, 2, "tests/end_to_end/uneven_ranks.py", FAST_CLOCK_RANK="1")
    output = finish(process, timeout=100)
    step = log_lines(tmp_path)[-1]["step"]
    assert f"stopped after step {step}: --exit-duration-in-mins (1)" in output
    assert (tmp_path / "latest").read_text() == f"global_step{step}\n"


@pytest.mark.parametrize(
    "deepspeed", [None, pytest.param(True, marks=pytest.mark.full)], ids=["torch", "deepspeed"]
)
def test_a_signal_to_one_process_stops_all_after_the_same_step(
    workspace, write_config, tmp_path, deepspeed
):
    config = write_config(2 if deepspeed else None)
    flags = flags_of(
        workspace, config, tmp_path, 2, train_iters=100_000, save_interval=None, deepspeed=deepspeed
    )
    process = start(flags, 2, AGAIN_FILE=str(tmp_path / "again"))
    wait_for_steps(tmp_path, [process], 4)
    asked = time.monotonic()
    os.kill(last_rank_of(process.pid), signal.SIGUSR1)
    output = finish(process)
    assert time.monotonic() - asked < 60
    # torchrun's exit status is its own, so this stands for 75.
    assert (tmp_path / "again").exists()
    step = log_lines(tmp_path)[-1]["step"]
    assert f"stopped after step {step}: signal SIGUSR1" in output
    assert (tmp_path / "latest").read_text() == f"global_step{step}\n"
    loads = load_file(tmp_path / f"global_step{step}" / "model.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in loads.values())


def last_rank_of(launcher):
    """Process number of rank 1 among the launcher's children."""
    for line in subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(launcher)], capture_output=True, text=True, check=True
    ).stdout.split():
        with open(f"/proc/{line}/environ", "rb") as file:
            if b"RANK=1" in file.read().split(b"\0"):
                return int(line)
    raise AssertionError("rank 1 was not found")
