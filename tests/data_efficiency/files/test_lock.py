"""One process at a time, and no lock outlives its process."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from data_efficiency.files.lock import file_lock

HOLD = """
import os, sys, time
from pathlib import Path
from data_efficiency.files.lock import file_lock
with file_lock(Path(sys.argv[1])):
    worker = os.fork()
    if worker:
        print(worker, flush=True)
    time.sleep(60)
"""


def hold(file):
    with file_lock(file):
        pass


def test_lock_of_a_living_process_then_of_a_dead_one_whose_worker_lives_on(tmp_path):
    file = tmp_path / "results" / ".map.lock"
    command = [sys.executable, "-c", HOLD, str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        worker = int(holder.stdout.readline())
        message = rf"process {holder.pid} on .* is at work on .*results \(.map.lock\); wait for it"
        with pytest.raises(BlockingIOError, match=message):
            hold(file)
        holder.kill()
        holder.wait()
        assert file.exists(), "a killed process cannot clean up"
        hold(file)
        assert not file.exists()
        os.kill(worker, signal.SIGKILL)


def test_waiting_lock_comes_after_the_one_that_holds_it(tmp_path):
    file, order = tmp_path / "lock", []

    def wait():
        with file_lock(file, wait=True):
            order.append("second")

    with file_lock(file):
        waiter = threading.Thread(target=wait)
        waiter.start()
        time.sleep(0.2)
        order.append("first")
    waiter.join()
    assert order == ["first", "second"]


def test_lock_is_removed_after_an_error(tmp_path):
    file = tmp_path / "lock"

    def fail():
        with file_lock(file):
            assert file.read_text().startswith("process ")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert not file.exists()
