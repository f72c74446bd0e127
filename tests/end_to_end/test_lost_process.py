"""One process of a run is killed, or stands still: the others stop with a message within a minute."""

import json
import os
import re
import signal
import subprocess

import pytest

from megatron.checkpoint.files import find_checkpoint
from tests.end_to_end.engine_runs import free_port, last_step, start, wait_for_steps
from tests.end_to_end.killing import signal_all
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


def assert_stops_with_a_message(process, message):
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 1, output
    assert "Traceback" not in output
    assert re.match(f"error: {message}", output.strip().splitlines()[-1]), output
    return output


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
    message = "process . of 2 has lost another one, which ended or did not answer"
    assert_stops_with_a_message(started[1 - victim], message)
    # What was logged and saved is whole: no line was left half-written.
    for line in (tmp_path / "log.jsonl").read_text().splitlines():
        assert json.loads(line)["kind"] in ("start", "train", "valid")


@pytest.mark.full
@pytest.mark.timeout(400)
@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_stands_still_is_named_within_a_minute(
    workspace, composed_config, tmp_path, started, victim
):
    """By default, though a collective waits half an hour for a long save."""
    start_two(started, endless(workspace, composed_config, tmp_path))
    wait_for_steps(tmp_path, started)
    os.kill(started[victim].pid, signal.SIGSTOP)
    message = rf"process {victim} of 2 has not answered for \d+ seconds: it, or its machine, stands"
    assert_stops_with_a_message(started[1 - victim], message)


@pytest.mark.timeout(400)
def test_a_run_whose_terminal_is_gone_saves(workspace, composed_config, tmp_path, started):
    """Nobody reads what it prints any more, and then the hang-up reaches all its processes."""
    started.append(start(endless(workspace, composed_config, tmp_path), RUN=str(tmp_path)))
    wait_for_steps(tmp_path, started)
    started[0].stdout.close()
    wait_for_steps(tmp_path, started, last_step(tmp_path) + 3)
    signal_all(signal.SIGHUP, RUN=str(tmp_path))
    assert started[0].wait(SECONDS) == 75
    assert find_checkpoint(tmp_path).step == last_step(tmp_path)
    started.clear()


def children_of(process):
    children = subprocess.run(
        ["pgrep", "--parent", str(process.pid)], capture_output=True, text=True, check=True
    )
    return [int(pid) for pid in children.stdout.split()]


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "number", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.full)]
)
def test_a_lost_loader_worker_is_named_within_a_minute(
    workspace, composed_config, tmp_path, started, number
):
    started.append(start(endless(workspace, composed_config, tmp_path)))
    wait_for_steps(tmp_path, started)
    victim = children_of(started[0])[0]
    os.kill(victim, number)
    message = rf"(loader|DataLoader) worker \(?(pid )?{victim}\)? (was|is) killed by.*ontinue from"
    output = assert_stops_with_a_message(started[0], message)
    is_told = f"loader worker {victim} stands still: a signal has stopped it" in output
    assert is_told == (number == signal.SIGSTOP)


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("number", "num_processes"),
    [
        (signal.SIGTERM, 1),
        pytest.param(signal.SIGUSR1, 1, marks=pytest.mark.full),
        pytest.param(signal.SIGINT, 1, marks=pytest.mark.full),
        pytest.param(signal.SIGTERM, 2, marks=pytest.mark.full),
    ],
)
def test_a_signal_to_all_processes_saves(
    workspace, composed_config, tmp_path, started, number, num_processes
):
    """To loader workers, ranks and a launcher too, which hands it on: ranks get it twice."""
    flags = endless(workspace, composed_config, tmp_path)
    started.append(start(flags, num_processes, RUN=str(tmp_path)))
    wait_for_steps(tmp_path, started)
    signal_all(number, RUN=str(tmp_path))
    output, _ = started[0].communicate(timeout=SECONDS)
    assert f"stopped after step {last_step(tmp_path)}: signal {number.name}" in output
    if num_processes == 1:
        assert started[0].returncode == 75
        assert "Traceback" not in output
    assert find_checkpoint(tmp_path).step == last_step(tmp_path)


@pytest.mark.full
@pytest.mark.timeout(400)
def test_torchrun_ends_all_and_says_so(workspace, composed_config, tmp_path, started):
    flags = endless(workspace, composed_config, tmp_path)
    started.append(start(flags, 2))
    wait_for_steps(tmp_path, started)
    workers = children_of(started[0])
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    output, _ = started[0].communicate(timeout=SECONDS)
    assert started[0].returncode != 0
    assert "Signal 9 (SIGKILL)" in output
    for pid in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
