"""One process of a run is killed, or stands still: the others stop with a message within a minute."""

import json
import os
import signal
import subprocess

import pytest

from tests.end_to_end.engine_runs import free_port, start, wait_for_steps
from tests.end_to_end.tiny_runs import composed_flags

SECONDS = 60


@pytest.fixture
def started():
    """A list for the processes of a test; those that are left are killed after it."""
    processes = []
    yield processes
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def start_two(started, flags):
    """Two processes that nobody watches: what stops the second is its own doing."""
    port = str(free_port())
    for rank in ("0", "1"):
        settings = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2"}
        settings |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        started.append(start(flags, **settings))


def endless(workspace, config, folder, **flags):
    return composed_flags(workspace, config, train_iters=100_000, save=folder, **flags)


def assert_stops_with_a_message(process):
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 1, output
    last = output.strip().splitlines()[-1]
    assert last.startswith("error: process "), output
    assert "of 2 has lost another one, which ended or did not answer" in last


@pytest.mark.full
@pytest.mark.timeout(400)
@pytest.mark.parametrize(("engine", "victim"), [("torch", 1), ("torch", 0), ("deepspeed", 1)])
def test_a_killed_process_stops_the_other(
    workspace, composed_config, tmp_path, started, engine, victim
):
    deepspeed = True if engine == "deepspeed" else None
    start_two(started, endless(workspace, composed_config, tmp_path, deepspeed=deepspeed))
    wait_for_steps(tmp_path, started)
    os.kill(started[victim].pid, signal.SIGKILL)
    assert_stops_with_a_message(started[1 - victim])
    # What was logged and saved is whole: no line was left half-written.
    for line in (tmp_path / "log.jsonl").read_text().splitlines():
        assert json.loads(line)["kind"] in ("start", "train", "valid")


@pytest.mark.full
@pytest.mark.timeout(400)
def test_a_process_that_stands_still_is_waited_for_only_so_long(
    workspace, composed_config, tmp_path, started
):
    flags = endless(workspace, composed_config, tmp_path, distributed_timeout_minutes=0.2)
    start_two(started, flags)
    wait_for_steps(tmp_path, started)
    os.kill(started[1].pid, signal.SIGSTOP)
    assert_stops_with_a_message(started[0])


@pytest.mark.full
@pytest.mark.timeout(400)
def test_torchrun_ends_all_and_says_so(workspace, composed_config, tmp_path, started):
    flags = endless(workspace, composed_config, tmp_path)
    started.append(start(flags, 2))
    wait_for_steps(tmp_path, started)
    children = subprocess.run(
        ["pgrep", "--parent", str(started[0].pid)], capture_output=True, text=True, check=True
    )
    workers = [int(pid) for pid in children.stdout.split()]
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    output, _ = started[0].communicate(timeout=SECONDS)
    assert started[0].returncode != 0
    assert "Signal 9 (SIGKILL)" in output
    for pid in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
