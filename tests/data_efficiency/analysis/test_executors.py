"""Tasks in processes: everything is run once, and whatever goes wrong is noticed."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from functools import partial

import pytest

from data_efficiency.analysis.executors import (
    InProcessExecutor,
    LocalProcessExecutor,
    TaskError,
    sigterm_as_interrupt,
)

EXECUTORS = [InProcessExecutor(), LocalProcessExecutor(1), LocalProcessExecutor(3)]


def touch(folder, item):
    """Leaves a mark for an item, and counts it in two batches."""
    yield 1, 10 * item
    with open(folder / f"{item}", "a", encoding="utf-8") as file:
        file.write("x")
    yield 1, 0


def touch_unless(folder, bad_item, failure, item):
    """Fails for one item."""
    if item == bad_item:
        failure()
    yield from touch(folder, item)


@pytest.mark.parametrize("executor", EXECUTORS[:2])
def test_nothing_new_is_started_after_a_failure(tmp_path, executor):
    with pytest.raises(TaskError):
        list(executor.run(partial(touch_unless, tmp_path, 2, raise_error), range(9)))
    assert {file.name for file in tmp_path.iterdir()} == {"0", "1"}


def raise_error():
    raise ValueError("no such word")


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def leave():
    os._exit(7)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_every_item_once_and_all_counts(tmp_path, executor):
    counts = list(executor.run(partial(touch, tmp_path), range(20)))
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {
        str(item): "x" for item in range(20)
    }
    assert [sum(column) for column in zip(*counts, strict=True)] == [40, 1900]
    assert list(executor.run(partial(touch, tmp_path), [])) == []


@pytest.mark.parametrize("executor", EXECUTORS)
def test_failure_names_item_and_cause(tmp_path, executor):
    task = partial(touch_unless, tmp_path, 4, raise_error)
    with pytest.raises(TaskError, match="item 4: ValueError: no such word") as caught:
        list(executor.run(task, range(9)))
    assert caught.value.item == 4
    finished = {int(file.name) for file in tmp_path.iterdir()}
    assert finished >= {0, 1}
    assert 4 not in finished


@pytest.mark.parametrize(
    ("failure", "cause"),
    [(die, "its process was killed by SIGKILL"), (leave, "its process ended with exit code 7")],
)
def test_dead_worker_is_noticed_and_the_others_finish(tmp_path, failure, cause):
    task = partial(touch_unless, tmp_path, 0, failure)
    with pytest.raises(TaskError, match=f"item 0: {cause}"):
        list(LocalProcessExecutor(2).run(task, range(2)))
    assert [file.name for file in tmp_path.iterdir()] == ["1"]


def test_trace_of_a_worker_is_kept(tmp_path):
    task = partial(touch_unless, tmp_path, 0, raise_error)
    with pytest.raises(TaskError) as caught:
        list(LocalProcessExecutor(1).run(task, range(1)))
    assert "in raise_error" in caught.value.__notes__[0]


def test_workers_end_when_the_caller_stops(tmp_path):
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt), sigterm_as_interrupt():
        run_and_stop(tmp_path)
    assert time.monotonic() - start < 20
    for file in tmp_path.iterdir():
        with pytest.raises(ProcessLookupError):
            os.kill(int(file.name), 0)


def run_and_stop(folder):
    """Sends this process SIGTERM once both workers are at work."""
    for _ in LocalProcessExecutor(2).run(partial(slow_steps, folder), range(2)):
        if len(list(folder.iterdir())) == 2:
            os.kill(os.getpid(), signal.SIGTERM)


def slow_steps(folder, item):
    (folder / f"{os.getpid()}").touch()
    for _ in range(600):
        time.sleep(0.1)
        yield (1,)


def test_orphans_end_by_themselves(tmp_path):
    """After SIGKILL of the parent its workers finish their item and leave."""
    script = """
        import os, sys, time
        from pathlib import Path
        from data_efficiency.analysis.executors import LocalProcessExecutor
        def task(item):
            (Path(sys.argv[1]) / str(os.getpid())).touch()
            yield (1,)
            while not (Path(sys.argv[1]) / "end").exists():
                time.sleep(0.05)
        list(LocalProcessExecutor(2).run(task, range(2)))
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)]
    parent = subprocess.Popen(command)
    while len(list(tmp_path.iterdir())) < 2:
        time.sleep(0.05)
    workers = [int(file.name) for file in tmp_path.iterdir()]
    parent.kill()
    parent.wait()
    (tmp_path / "end").touch()
    deadline = time.monotonic() + 20
    while any(is_alive(worker) for worker in workers):
        assert time.monotonic() < deadline, "a worker outlives its parent"
        time.sleep(0.1)


def is_alive(process):
    try:
        with open(f"/proc/{process}/stat", encoding="utf-8") as file:
            return file.read().split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_wrong_number_of_processes():
    with pytest.raises(ValueError, match="number of processes is 0: at least 1 is needed"):
        LocalProcessExecutor(0)
