"""One process at a time, and no lock outlives its process."""

import subprocess
import sys

import pytest

from data_efficiency.files.lock import folder_lock

HOLD = """
import sys, time
from pathlib import Path
from data_efficiency.files.lock import folder_lock
with folder_lock(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""


def hold(file):
    with folder_lock(file):
        pass


def test_lock_of_a_living_process_then_of_a_dead_one(tmp_path):
    file = tmp_path / "results" / ".map.lock"
    command = [sys.executable, "-c", HOLD, str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "locked\n"
        message = rf"process {holder.pid} on .* is at work on .*results \(.map.lock\); wait for it"
        with pytest.raises(BlockingIOError, match=message):
            hold(file)
        holder.kill()
    assert file.exists(), "a killed process cannot clean up"
    hold(file)
    assert not file.exists()


def test_lock_is_removed_after_an_error(tmp_path):
    file = tmp_path / "lock"

    def fail():
        with folder_lock(file):
            assert file.read_text().startswith("process ")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert not file.exists()
