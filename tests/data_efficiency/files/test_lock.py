"""One process at a time, and no lock outlives its process."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest

from data_efficiency.files.lock import file_lock, refuse_other_locks

HOLD = """
import os, sys, time
from pathlib import Path
from data_efficiency.files.lock import file_lock
with file_lock(Path(sys.argv[1])):
    if not os.fork():
        print(os.getpid(), flush=True)  # the worker itself, which has let go of the lock by then
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
        message = rf"process {holder.pid} on .*, since 20.* is at work on .*results \(.map.lock\); wait for it"
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


def test_whoever_takes_the_lock_where_machines_do_not_see_each_others_is_noticed(tmp_path):
    file = tmp_path / "lock"
    with file_lock(file) as check:
        check()
        file.write_text("process 7 on another, since today\n")
        with pytest.raises(BlockingIOError, match="process 7 on another, since today is at work"):
            check()
    assert file.read_text() == "process 7 on another, since today\n"


def test_a_full_disk_does_not_keep_from_locking(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "write_text", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with file_lock(tmp_path / "lock") as check:
        with pytest.raises(BlockingIOError, match="another process is at work on"):
            hold(tmp_path / "lock")
        check()
    hold(tmp_path / "lock")


def test_a_system_without_locks_has_the_file_alone(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSYS, "no locks")

    monkeypatch.setattr(fcntl, "flock", fail)
    warnings.simplefilter("ignore", UserWarning)
    with file_lock(tmp_path / "lock") as check:
        check()
        with pytest.raises(BlockingIOError, match=f"process {os.getpid()} on .* is at work on"):
            hold(tmp_path / "lock")
    assert not (tmp_path / "lock").exists()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux's /proc")
def test_where_no_file_can_be_made_no_process_is_blamed():
    with pytest.raises(FileNotFoundError, match=r"/proc/\.x\.lock"):
        hold(Path("/proc/.x.lock"))


def test_other_storage_has_no_locks(storage):
    with file_lock(storage / ".a.lock") as check, file_lock(storage / ".a.lock"):
        refuse_other_locks(storage, "nothing")
        check()
    assert storage.names() == []
