"""Processes that are killed while they save together leave a checkpoint that loads."""

import random
import signal
import time
import uuid

import pytest
import torch

from megatron.checkpoint.files import checkpoint_folder, find_checkpoint, read_tensors
from tests.end_to_end.engine_runs import start
from tests.end_to_end.killing import signal_all

pytestmark = pytest.mark.timeout(1800)


def wait_for(run, step, process):
    """Returns once the run has a checkpoint of the step or a later one."""
    deadline = time.monotonic() + 120
    while (find_checkpoint(run).step or 0) < step:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def check(run, least):
    """The step of the checkpoint that a resume finds, after looking at every number of it."""
    found = find_checkpoint(run)
    assert found.step >= least
    assert not found.problems
    weights, state = read_tensors(checkpoint_folder(run, found.step))
    assert len(weights) == len(state) == 12
    assert all(bool((tensor == found.step).all()) for tensor in weights.values())
    assert all(bool(torch.isfinite(tensor).all()) for tensor in state.values())
    return found.step


@pytest.mark.full
@pytest.mark.parametrize("num_kills", [30])
def test_killed_at_any_moment_of_a_save_they_leave_one_that_loads(tmp_path, num_kills):
    """All at one moment, or one process alone, whose death ends the other."""
    generator = random.Random(num_kills)
    run, step, kinds = tmp_path / "run", 0, set()
    for number in range(num_kills):
        mark = uuid.uuid4().hex
        process = start([str(run)], 2, "tests/end_to_end/endless_saves.py", KILLED_SAVES=mark)
        wait_for(run, step + 1, process)
        time.sleep(generator.random() / 2)
        alone = {"RANK": str(number // 2 % 2)} if number % 2 else {}
        signal_all(signal.SIGKILL, KILLED_SAVES=mark, **alone)
        process.communicate(timeout=120)
        left = {path.suffix for path in run.glob(".*")}
        kinds |= left
        step = check(run, step + 1)
    # Some fell into a save, and what they left behind the next one removed.
    assert ".partial" in kinds or num_kills < 10
    assert len([*run.glob(".*.partial")]) <= 2
