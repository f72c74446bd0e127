"""A disk that fills up while a checkpoint is written."""

import os
import time

import pytest

from tests.end_to_end.engine_runs import flags_of, start


def fill_up(folder, num_bytes_left):
    """A file that leaves so much room."""
    filler = folder / "filler"
    disk = os.statvfs(folder)
    filler.write_bytes(b"x" * (disk.f_bavail * disk.f_frsize - num_bytes_left))
    return filler


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
    assert sorted(path.name for path in run.iterdir()) == ["log.jsonl", "run.toml"]
    filler.unlink()
