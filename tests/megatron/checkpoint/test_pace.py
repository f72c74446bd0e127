import math
import threading
import time

import pytest
import torch

from data_efficiency.engine.whole_tensor import whole_tensors
from megatron.checkpoint import pace, saving, tensor_file
from megatron.checkpoint.pace import REST, UNPACED, Pace, own_cores

FOREVER = 1e9
NONE_FREE = -math.inf


def seconds_of(call, *arguments):
    started = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - started


def test_a_writer_rests_for_what_it_worked():
    assert seconds_of(Pace(5, NONE_FREE).after, 0.01) >= 0.05
    assert seconds_of(Pace(cores=NONE_FREE).after, 0.001) >= 0.001 * REST
    assert seconds_of(UNPACED.after, 100.0) < 1.0


def test_whoever_waits_ends_the_rest_and_all_later_ones():
    writer = Pace(FOREVER, NONE_FREE)
    threading.Timer(0.05, writer.hurry).start()
    assert 0.03 < seconds_of(writer.after, 1.0) < 10
    assert seconds_of(writer.after, 1.0) < 1.0


@pytest.mark.parametrize(
    ("cores", "others", "rests"),
    [(1, 1.0, True), (1, 0.05, False), (2, 1.95, True), (2, 1.0, False), (0.5, 0.5, True)],
)
def test_a_writer_rests_only_where_training_needs_its_core(monkeypatch, cores, others, rests):
    """In a second, of which the other threads computed so long."""
    clocks, own = [10.0, 20.0], 1e-3
    monkeypatch.setattr(pace.time, "perf_counter", lambda: clocks[0])
    monkeypatch.setattr(pace.time, "process_time", lambda: clocks[1])
    writer = Pace(50, cores)
    clocks[:] = [11.0, 20.0 + others + own]
    started = time.monotonic()
    writer.after(own)
    assert (time.monotonic() - started >= 0.04) is rests


def test_a_sleeping_process_leaves_its_only_core_free():
    writer = Pace(FOREVER, cores=1)
    time.sleep(0.3)
    assert seconds_of(writer.after, 1e-4) < 1.0


def test_processes_of_a_machine_share_its_cores(monkeypatch):
    monkeypatch.setattr("megatron.checkpoint.pace.os.sched_getaffinity", lambda _: set(range(6)))
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert own_cores() == 6
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert own_cores() == 1.5


def test_a_file_rests_between_its_blocks_and_is_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(tensor_file, "_BLOCK_BYTES", 64)
    worked = []

    class Watched(Pace):
        def after(self, seconds):
            worked.append(seconds)

    tensors = whole_tensors({"a": torch.arange(64.0), "b": torch.ones(3)})
    entry = tensor_file.write_tensor_file(tmp_path / "paced", tensors, Watched())
    assert entry == tensor_file.write_tensor_file(tmp_path / "plain", tensors)
    assert (tmp_path / "paced").read_bytes() == (tmp_path / "plain").read_bytes()
    assert len(worked) == 1 + 4 + 1  # the header, and each tensor's blocks
    assert all(0 <= seconds < 1 for seconds in worked)


@pytest.mark.parametrize("in_background", [True, False])
def test_a_save_rests_until_it_is_waited_for(tmp_path, monkeypatch, in_background):
    monkeypatch.setattr(saving, "Pace", lambda: Pace(FOREVER, NONE_FREE))
    weights = whole_tensors({"w": torch.rand(2**18)})
    content = {"weights": weights, "optimizer_state": [], "state": {}}
    save = saving.Save(tmp_path, 1, **content, in_background=in_background)
    time.sleep(0.1)
    assert save.is_written is not in_background
    assert seconds_of(lambda: save.finish(keep_last=1)) < 10
    assert save.is_written
