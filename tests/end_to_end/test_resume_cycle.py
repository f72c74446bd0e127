"""One run that goes through every way to hold the weights, each resuming from the one before.

Checkpoints are written by all processes, each its share, and by threads while training goes on.
"""

import pytest

from megatron.checkpoint.files import checkpoint_folder
from tests.end_to_end.engine_runs import (
    NUM_STEPS,
    consumed,
    finish,
    flags_of,
    log_lines,
    start_recorded,
)

pytestmark = pytest.mark.timeout(1800)
ALONE, DDP = (1, {}), (2, {})
FSDP3, FSDP2_ON_FOUR = (2, {"fsdp": 3}), (4, {"fsdp": 2})
ZERO3 = (2, {"deepspeed": True})
MESH = (4, {"fsdp": 2, "tensor_model_parallel_size": 2})
SHORT = [FSDP3, ALONE]
CYCLE = [ALONE, DDP, FSDP3, FSDP2_ON_FOUR, MESH, ZERO3, FSDP2_ON_FOUR, ALONE, FSDP3, DDP]
MESHES = [MESH, ALONE, MESH, ZERO3, MESH]


def train_on(workspace, write_config, folder, leg, until, way):
    """Trains in the folder until a step, the way's way."""
    num_processes, flags = way
    config = write_config(3 if "deepspeed" in flags else None)
    settings = {"train_iters": until, "lr_decay_iters": NUM_STEPS, "save_interval": 2}
    settings |= {"async_save": True, "load": folder, "allow_missing_checkpoint": True}
    share = num_processes // flags.get("tensor_model_parallel_size", 1)
    arguments = flags_of(workspace, config, folder, share, **settings | flags)
    finish(start_recorded(arguments, folder, num_processes, leg, LEAST_BYTES="1"))


@pytest.mark.full
@pytest.mark.parametrize("ways", [SHORT, CYCLE, MESHES])
def test_a_run_through_all_ways_is_one_run(workspace, write_config, tmp_path, ways):
    whole, cycle = tmp_path / "whole", tmp_path / "cycle"
    train_on(workspace, write_config, whole, 0, NUM_STEPS, ALONE)
    for leg, way in enumerate(ways):
        until = NUM_STEPS * (leg + 1) // len(ways)
        train_on(workspace, write_config, cycle, leg, until, way)
        names = {path.name for path in checkpoint_folder(cycle, until).iterdir()}
        assert f"model-00001-of-0000{way[0]}.safetensors" in names or way[0] == 1
        assert ("model.safetensors" in names) == (way[0] == 1)
    samples = {step: rows for steps in consumed(cycle).values() for step, rows in steps.items()}
    assert samples == consumed(whole)[0]
    found, expected = (
        [line for line in log_lines(folder) if line["kind"] == "train"] for folder in (cycle, whole)
    )
    assert [line["step"] for line in found] == list(range(1, NUM_STEPS + 1))
    for left, right in zip(found, expected, strict=True):
        assert left["loss"] == pytest.approx(right["loss"], abs=1e-5)
        for name in ("corpus_tokens", "loss_tokens", "layer_tokens", "flops", "learning_rate"):
            assert left[name] == right[name], name
    steps = [path.name for path in cycle.glob("global_step*")]
    assert sorted(steps) == sorted(f"global_step{step}" for step in range(2, NUM_STEPS + 1, 2))
