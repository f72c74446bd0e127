"""A run that keeps an average of its weights, on one process and on several, broken and unbroken."""

import shutil

import pytest
import torch
from safetensors.torch import load_file

from tests.end_to_end.engine_runs import NUM_STEPS, finish, flags_of, log_lines, start

AVERAGED = {"ema_decay": 0.8, "eval_interval": 5}
DECAY = 0.8


@pytest.fixture(scope="module")
def averaged(workspace, write_config):
    """A run on one process with a checkpoint each step."""
    folder = workspace / "averaged"
    finish(start(flags_of(workspace, write_config(), folder, save_interval=1, **AVERAGED)))
    return folder


def average_of(folder, step=NUM_STEPS):
    return load_file(folder / f"global_step{step}" / "average.safetensors")


def losses(folder, kind, name="loss"):
    return [line[name] for line in log_lines(folder) if line["kind"] == kind]


def test_an_average_is_that_of_the_weights_after_each_step(averaged):
    shares = [DECAY**age for age in reversed(range(NUM_STEPS))]
    parts = [
        load_file(averaged / f"global_step{step}" / "model.safetensors")
        for step in range(1, NUM_STEPS + 1)
    ]
    for name, found in average_of(averaged).items():
        by_hand = sum(
            share * part[name].double() for share, part in zip(shares, parts, strict=True)
        )
        torch.testing.assert_close(
            found, (by_hand / sum(shares)).float(), atol=1e-6, rtol=1e-5, msg=name
        )


def test_training_does_not_know_of_it(averaged, one_process):
    assert losses(averaged, "train") == losses(one_process, "train")
    last = f"global_step{NUM_STEPS}/model.safetensors"
    assert (averaged / last).read_bytes() == (one_process / last).read_bytes()
    own, average = (losses(averaged, "valid", name) for name in ("loss", "average_loss"))
    assert len(own) == NUM_STEPS / 5
    assert all(left != right for left, right in zip(own, average, strict=True))
    assert average == losses(averaged, "valid", "average_lm_loss")


def test_a_resumed_average_has_the_same_bits(averaged, workspace, write_config, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(averaged, run)
    (run / "latest").write_text("global_step10\n")
    for step in range(11, NUM_STEPS + 1):
        shutil.rmtree(run / f"global_step{step}")
    flags = flags_of(workspace, write_config(), run, save_interval=1, load=run, **AVERAGED)
    assert "continuing from" in finish(start(flags))
    last = f"global_step{NUM_STEPS}/average.safetensors"
    assert (run / last).read_bytes() == (averaged / last).read_bytes()
    assert losses(run, "valid", "average_loss") == losses(averaged, "valid", "average_loss")


def test_an_average_may_begin_later(one_process, workspace, write_config, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(one_process, run)
    (run / "latest").write_text("global_step10\n")
    shutil.rmtree(run / f"global_step{NUM_STEPS}")
    flags = flags_of(workspace, write_config(), run, load=run, **AVERAGED)
    assert "no average of the weights: it begins here" in finish(start(flags))
    assert average_of(run)


@pytest.mark.parametrize(
    "stage", [None, *(pytest.param(stage, marks=pytest.mark.full) for stage in (0, 2, 3))]
)
def test_two_processes_and_every_zero_stage_keep_the_same_average(
    averaged, workspace, write_config, tmp_path, stage
):
    deepspeed = True if stage is not None else None
    config = write_config(stage=stage) if stage is not None else write_config()
    finish(start(flags_of(workspace, config, tmp_path, 2, deepspeed=deepspeed, **AVERAGED), 2))
    assert losses(tmp_path, "valid", "average_loss") == pytest.approx(
        losses(averaged, "valid", "average_loss"), abs=1e-5
    )
    expected = average_of(averaged)
    found = average_of(tmp_path)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=5e-5, rtol=1e-4, msg=name)
