"""One run on both engines and several numbers of processes: the same losses, the same weights."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from tests.end_to_end.tiny_runs import (
    ROOT,
    composed_flags,
    curriculum_section,
    random_ltd_section,
)

NUM_STEPS = 20
# Float32 sums in another order; Adam divides by their root, so small gradients show it most.
WEIGHT_TOLERANCE = 5e-5
ZERO_STAGES = [
    pytest.param(stage, marks=() if stage == 2 else pytest.mark.full) for stage in (0, 1, 2, 3)
]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start(flags, num_processes=1, script="pretrain_gpt.py", **environment):
    """A running training; more than one process is started by torchrun."""
    command = [sys.executable]
    if num_processes > 1:
        command += ["-m", "torch.distributed.run", f"--nproc_per_node={num_processes}"]
        command += [f"--master_port={free_port()}"]
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


def finish(process, timeout=180):
    output, _ = process.communicate(timeout=timeout)
    assert process.returncode == 0, output
    return output


@pytest.fixture(scope="session")
def write_config(workspace):
    """Writes the composed JSON file for a ZeRO stage and returns its path."""

    def write(stage=None):
        path = workspace / f"engines_{stage}.json"
        content = {
            "data_efficiency": {
                "data_sampling": {"curriculum_learning": curriculum_section(workspace)},
                "data_routing": {"random_ltd": random_ltd_section()},
            }
        }
        if stage is not None:
            content["zero_optimization"] = {"stage": stage}
        path.write_text(json.dumps(content))
        return path

    return write


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
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


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


@pytest.fixture(scope="session")
def one_process(workspace, write_config):
    """Folder of the run on plain PyTorch with one process."""
    folder = workspace / "one_process"
    finish(start(flags_of(workspace, write_config(), folder)))
    lengths = {line["sequence_length"] for line in log_lines(folder) if line["kind"] == "train"}
    kept = {line["kept_length"] for line in log_lines(folder) if line["kind"] == "train"}
    assert len(lengths) > 2
    assert len(kept) > 2
    return folder


def test_two_processes_equal_one(workspace, write_config, one_process, tmp_path):
    finish(start(flags_of(workspace, write_config(), tmp_path, 2), 2))
    assert_equal_runs(tmp_path, one_process)


@pytest.mark.parametrize("stage", ZERO_STAGES)
def test_deepspeed_equals_plain_pytorch(workspace, write_config, one_process, tmp_path, stage):
    config = write_config(stage)
    finish(start(flags_of(workspace, config, tmp_path, 2, deepspeed=True), 2))
    assert_equal_runs(tmp_path, one_process)


@pytest.fixture(scope="module")
def reshaping(workspace):
    """Folder of a run on one process whose rows are cut into more and shorter ones, and its flags."""

    def flags(folder, stage=None):
        section = curriculum_section(workspace)
        metrics = section["curriculum_metrics"]
        metrics["seqlen_reshape"] = metrics.pop("seqlen_truncate")
        content = {
            "data_efficiency": {
                "data_sampling": {"num_workers": 2, "curriculum_learning": section},
                "data_routing": {"random_ltd": random_ltd_section()},
            }
        }
        if stage is not None:
            content["zero_optimization"] = {"stage": stage}
        path = workspace / f"reshape_{stage}.json"
        path.write_text(json.dumps(content))
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
def test_a_run_goes_on_with_the_other_engine(workspace, write_config, one_process, tmp_path, stage):
    """DeepSpeed on two processes for ten steps, one process of plain PyTorch for the rest, and back."""
    there, back = tmp_path / "there", tmp_path / "back"
    both = {"lr_decay_iters": NUM_STEPS}
    zero = {"deepspeed": True} | both
    finish(start(flags_of(workspace, write_config(stage), there, 2, train_iters=10, **zero), 2))
    finish(start(flags_of(workspace, write_config(), there, load=there, **both)))
    assert_equal_runs(there, one_process)
    finish(start(flags_of(workspace, write_config(), back, train_iters=10, **both)))
    finish(start(flags_of(workspace, write_config(stage), back, 2, load=back, **zero), 2))
    assert_equal_runs(back, one_process)


@pytest.mark.full
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_bf16_and_recomputation_with_deepspeed(
    workspace, write_config, one_process, tmp_path, stage
):
    """bf16 weights with a float32 copy: near the float32 run, and resumed to the same losses.

    Without ZeRO, gradients are accumulated and reduced in bf16 as well, which shows in two decimals.
    """
    flags = {"deepspeed": True, "bf16": True, "recompute_activations": True}
    config = write_config(stage)
    finish(start(flags_of(workspace, config, tmp_path, 2, **flags), 2))
    losses = [line["loss"] for line in log_lines(tmp_path) if line["kind"] == "train"]
    wanted = [line["loss"] for line in log_lines(one_process) if line["kind"] == "train"]
    assert losses == pytest.approx(wanted, abs=0.04)
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
    process = start(flags, 2)
    deadline = time.monotonic() + 120
    log = tmp_path / "log.jsonl"
    while not (log.exists() and len(log.read_text().splitlines()) > 4):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    asked = time.monotonic()
    os.kill(last_rank_of(process.pid), signal.SIGUSR1)
    output = finish(process)
    assert time.monotonic() - asked < 60
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
