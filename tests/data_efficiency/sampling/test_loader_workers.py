"""Workers that are killed or stopped are named; signals meant for the run do not reach them."""

import multiprocessing
import os
import signal
import threading
import time

import pytest

from data_efficiency.json_section import ConfigError
from data_efficiency.sampling import loader_workers
from tests.data_efficiency.sampling.test_loader import WholeBatches, make_loader
from tests.processes import run_python

pytestmark = pytest.mark.timeout(120)


class SlowBatches(WholeBatches):
    def get_batch(self, samples, visits):
        time.sleep(0.3)
        return super().get_batch(samples, visits)


@pytest.fixture
def batches(monkeypatch):
    """An iterator over batches of two workers, and its workers."""
    monkeypatch.setattr(loader_workers, "LOOK_SECONDS", 0.2)
    loader = make_loader(SlowBatches(), num_workers=2)
    iterator = iter(loader)
    next(iterator)
    yield iterator, multiprocessing.active_children()
    iterator.close()
    assert multiprocessing.active_children() == []


def assert_named(worker, batches):
    # PyTorch tells it wherever the main process stands: here, or in `next`.
    named = rf"oader worker.*{worker.pid}.* killed by"
    with pytest.raises((ChildProcessError, RuntimeError), match=named):
        list(batches)


def test_a_killed_worker_is_named(batches):
    iterator, [first, _] = batches
    os.kill(first.pid, signal.SIGKILL)
    assert_named(first, iterator)


# PyTorch opens files to see whether there are too many, and its own signal handler may interrupt it there.
@pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <_io.FileIO:pytest.PytestUnraisableExceptionWarning"
)
@pytest.mark.parametrize("seconds", [0, 0.1, 0.2])
def test_a_stopped_worker_is_named(batches, caplog, seconds):
    iterator, [first, _] = batches
    # Also one that the main process is just fetching a batch from.
    time.sleep(seconds)
    os.kill(first.pid, signal.SIGSTOP)
    assert_named(first, iterator)
    assert f"loader worker {first.pid} stands still: a signal has stopped it" in caplog.text


def test_a_worker_that_goes_on_is_waited_for(batches, caplog):
    iterator, [first, _] = batches
    os.kill(first.pid, signal.SIGSTOP)
    threading.Timer(0.5, os.kill, (first.pid, signal.SIGCONT)).start()
    for _ in range(8):
        next(iterator)
    assert caplog.text == ""


def test_workers_outlive_what_the_whole_group_is_sent(batches):
    iterator, workers = batches
    for worker in workers:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            os.kill(worker.pid, number)
    for _ in range(8):
        next(iterator)
    assert all(worker.is_alive() for worker in workers)


class Faulty(WholeBatches):
    def get_batch(self, samples, visits):
        raise ConfigError(f"Error: row {samples[0] * 0} is\nnot there")


def test_an_error_in_a_worker_speaks_for_itself():
    with pytest.raises(ConfigError) as raised:
        list(make_loader(Faulty(), num_workers=1))
    assert str(raised.value) == "Error: row 0 is\nnot there"
    assert "Original Traceback" in str(raised.value.__cause__)


SCRIPT = """
import sys
from tests.data_efficiency.sampling.test_loader import WholeBatches, make_loader
batches = iter(make_loader(WholeBatches(), num_workers=2))
next(batches)
print("read")
"""


def test_a_program_that_forgets_its_loader_ends():
    assert run_python("-c", SCRIPT) == "read\n"
