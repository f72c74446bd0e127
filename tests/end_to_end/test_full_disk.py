"""A disk that fills up while a checkpoint is written."""

import os
import time

import pytest

import pretrain_gpt
from megatron.checkpoint.files import find_checkpoint
from tests.end_to_end.engine_runs import flags_of, start
from tests.end_to_end.tiny_runs import training_flags

FILES = ("model.safetensors", "optimizer.safetensors")


def fill_up(folder, num_bytes_left):
    """A file that leaves so much room."""
    filler = folder / "filler"
    disk = os.statvfs(folder)
    filler.write_bytes(b"x" * (disk.f_bavail * disk.f_frsize - num_bytes_left))
    return filler


def size_of(checkpoint):
    return sum(file.stat().st_size for file in checkpoint.iterdir())


@pytest.mark.parametrize("small_disk", ["16m"], indirect=True)
@pytest.mark.parametrize("share", [0.1, 0.6, 0.999])
def test_the_run_ends_clearly_and_goes_on_later(workspace, small_disk, tmp_path, capsys, share):
    def flags(folder, train_iters, **others):
        return training_flags(
            workspace, train_iters=train_iters, lr_decay_iters=6, save=folder, **others
        )

    whole, run = tmp_path / "whole", small_disk / "run"
    assert pretrain_gpt.main(flags(whole, 6)) == 0
    assert pretrain_gpt.main(flags(run, 2)) == 0
    filler = fill_up(small_disk, num_bytes_left=int(share * size_of(run / "global_step2")))
    capsys.readouterr()
    assert pretrain_gpt.main(flags(run, 6, load=run, save_interval=2)) == 1
    [line] = capsys.readouterr().err.strip().splitlines()
    assert line == (
        f"error: checkpoint {run / 'global_step4'} could not be written (No space left on device); "
        f"earlier checkpoints are untouched: make room there, then continue with --load {run}"
    )
    assert sorted(path.name for path in run.iterdir()) == [
        *("global_step2", "latest", "log.jsonl", "run.toml")
    ]
    assert find_checkpoint(run).step == 2
    filler.unlink()
    assert pretrain_gpt.main(flags(run, 6, load=run, save_interval=2)) == 0
    for name in FILES:
        found, wanted = (folder / "global_step6" / name for folder in (run, whole))
        assert found.read_bytes() == wanted.read_bytes()


@pytest.mark.full
@pytest.mark.parametrize("small_disk", ["16m"], indirect=True)
@pytest.mark.parametrize("stage", [None, 2])
def test_all_processes_stop(workspace, write_config, small_disk, stage):
    filler = fill_up(small_disk, num_bytes_left=400_000)
    deepspeed = True if stage is not None else None
    run = small_disk / "run"
    flags = flags_of(workspace, write_config(stage), run, 2, save_interval=2, deepspeed=deepspeed)
    process = start(flags, 2)
    began = time.monotonic()
    output, _ = process.communicate(timeout=180)
    assert process.returncode == 1
    assert "could not be written (No space left on device)" in output
    assert time.monotonic() - began < 120
    assert sorted(path.name for path in run.iterdir()) == ["log.jsonl"]
    filler.unlink()
