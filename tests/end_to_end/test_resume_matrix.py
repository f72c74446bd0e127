"""Every engine trains the same and resumes the same: alike, on other processes, on the other engine.

One run of each engine on two processes, with curriculum and random-LTD, is the whole; its checkpoint
of the middle is where the others go on. What each forward pass was given is written down.
"""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from tests.end_to_end.engine_runs import (
    NUM_STEPS,
    assert_equal_runs,
    consumed,
    finish,
    flags_of,
    log_lines,
    start_recorded,
)

pytestmark = pytest.mark.timeout(1800)
MIDDLE = NUM_STEPS // 2
TORCH = None
ENGINES = [TORCH, 0, 1, 2, 3]
"""None is plain PyTorch, a number DeepSpeed's ZeRO stage."""


def run(workspace, config, folder, stage, num_processes, **flags):
    """Trains to the end and returns what was consumed at each step."""
    deepspeed = None if stage is TORCH else True
    arguments = flags_of(workspace, config, folder, num_processes, deepspeed=deepspeed, **flags)
    finish(start_recorded(arguments, folder, num_processes, 0))
    [steps] = consumed(folder).values()
    return steps


@pytest.fixture(scope="session")
def whole(workspace, write_config):
    """Engine -> the folder of its run on two processes and the samples of each step."""
    finished = {}

    def trained(stage):
        if stage not in finished:
            folder = workspace / f"whole_{stage}"
            finished[stage] = folder, run(workspace, write_config(stage), folder, stage, 2)
        return finished[stage]

    return trained


def go_on(workspace, config, source, folder, stage, num_processes, **flags):
    """A copy of the middle of `source`, trained to the end; what it consumed."""
    folder.mkdir()
    shutil.copytree(source / f"global_step{MIDDLE}", folder / f"global_step{MIDDLE}")
    shutil.copy(source / "log.jsonl", folder)
    (folder / "latest").write_text(f"global_step{MIDDLE}\n")
    return run(workspace, config, folder, stage, num_processes, load=folder, **flags)


def state_of(folder):
    state = json.loads((folder / f"global_step{NUM_STEPS}" / "state.json").read_text())
    return state["engine"], state["guarded"]


def rest(steps):
    return {step: samples for step, samples in steps.items() if step > MIDDLE}


@pytest.mark.parametrize(
    "stage", [pytest.param(one, marks=() if one == 2 else pytest.mark.full) for one in ENGINES]
)
def test_an_engine_on_two_processes_trains_as_plain_pytorch_on_one(whole, one_process, stage):
    folder, steps = whole(stage)
    assert_equal_runs(folder, one_process)
    assert sorted(steps) == list(range(1, NUM_STEPS + 1))


@pytest.mark.full
@pytest.mark.parametrize("stage", ENGINES)
def test_alike_it_resumes_to_the_same_bits(workspace, write_config, whole, tmp_path, stage):
    expected, steps = whole(stage)
    found = tmp_path / "again"
    assert go_on(workspace, write_config(stage), expected, found, stage, 2) == rest(steps)
    for name in ("model.safetensors", "optimizer.safetensors"):
        left, right = (each / f"global_step{NUM_STEPS}" / name for each in (found, expected))
        assert left.read_bytes() == right.read_bytes(), name
    assert state_of(found) == state_of(expected)
    for left, right in zip(log_lines(found), log_lines(expected), strict=True):
        assert left.get("loss") == right.get("loss")


@pytest.mark.full
@pytest.mark.parametrize("num_processes", [1, 4])
@pytest.mark.parametrize("stage", ENGINES)
def test_on_other_processes_it_resumes_within_rounding(
    workspace, write_config, whole, tmp_path, stage, num_processes
):
    expected, steps = whole(stage)
    found = tmp_path / "again"
    config = write_config(stage)
    assert go_on(workspace, config, expected, found, stage, num_processes) == rest(steps)
    assert_equal_runs(found, expected)
    assert state_of(found) == state_of(expected)


@pytest.mark.parametrize(
    "stage", [pytest.param(one, marks=() if one == 2 else pytest.mark.full) for one in ENGINES[1:]]
)
def test_deepspeed_goes_on_as_plain_pytorch_on_one_process(
    workspace, write_config, whole, tmp_path, stage
):
    expected, steps = whole(stage)
    found = tmp_path / "again"
    assert go_on(workspace, write_config(), expected, found, TORCH, 1) == rest(steps)
    assert_equal_runs(found, expected)
    assert state_of(found) == state_of(expected)


@pytest.mark.full
@pytest.mark.parametrize("stage", ENGINES[1:])
def test_plain_pytorch_goes_on_as_deepspeed(workspace, write_config, whole, tmp_path, stage):
    expected, steps = whole(TORCH)
    found = tmp_path / "again"
    assert go_on(workspace, write_config(stage), expected, found, stage, 2) == rest(steps)
    assert_equal_runs(found, expected)
    assert state_of(found) == state_of(expected)


@pytest.mark.full
def test_muon_on_two_processes_trains_as_on_one(workspace, write_config, tmp_path):
    """Its iteration is in bfloat16, which makes more of a rounding than AdamW."""
    losses = []
    for num_processes in (1, 2):
        folder = tmp_path / str(num_processes)
        run(workspace, write_config(TORCH), folder, TORCH, num_processes, optimizer="muon")
        lines = [line for line in log_lines(folder) if line["kind"] in ("train", "valid")]
        losses.append([line["loss"] for line in lines])
    assert losses[1] == pytest.approx(losses[0], abs=2e-4)


@pytest.mark.full
def test_bf16_weights_go_on_from_their_masters_and_on_two_processes(
    workspace, write_config, tmp_path
):
    flags = {"bf16": True, "bf16_weights": True}
    config = write_config(TORCH)
    run(workspace, config, tmp_path / "whole", TORCH, 1, **flags)
    for name, num_processes in (("resumed", 1), ("two", 2)):
        go_on(workspace, config, tmp_path / "whole", tmp_path / name, TORCH, num_processes, **flags)
    whole, resumed, two = (
        load_file(tmp_path / name / f"global_step{NUM_STEPS}" / "model.safetensors")
        for name in ("whole", "resumed", "two")
    )
    for name, tensor in whole.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(resumed[name], tensor)
        torch.testing.assert_close(two[name], tensor, atol=2e-3, rtol=0.1)
