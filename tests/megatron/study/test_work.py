"""The slots; the queue itself is tested with real processes in tests/tools/test_study.py."""

import os
import sys

import pytest

from megatron.study.work import Slot, make_slots, start_in_slot

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0


@pytest.mark.skipif(CORES < 2, reason="two cores are needed to share")
def test_cores_are_shared_out_and_none_twice():
    slots = make_slots(2)
    cores = [core for slot in slots for core in slot.cores]
    assert len(cores) == len({*cores}) == CORES // 2 * 2
    assert [slot.device for slot in slots] == [None, None]


def test_gpus_are_taken_in_turn():
    slots = make_slots(5, num_devices=2)
    assert [slot.device for slot in slots] == ["0", "1", "0", "1", "0"]
    assert all(slot.cores or not CORES for slot in slots)


@pytest.mark.parametrize("parallel", [0, 10_000])
def test_runs_that_would_starve_are_refused(parallel):
    with pytest.raises(ValueError, match=f"--parallel is {parallel}: must be 1 to"):
        make_slots(parallel)


def printed_by(slot, tmp_path):
    """Number of cores, threads and devices that a process in a slot has."""
    code = "import os; e = os.environ.get; print(len(os.sched_getaffinity(0)), "
    code += "e('OMP_NUM_THREADS'), e('CUDA_VISIBLE_DEVICES'))"
    with (tmp_path / "printed").open("wb") as output:
        assert start_in_slot([sys.executable, "-c", code], slot, output).wait(timeout=60) == 0
    return (tmp_path / "printed").read_text().split()


@pytest.mark.skipif(not CORES, reason="this system does not pin processes")
def test_a_process_has_its_slots_cores_and_one_of_the_devices_that_were_given(
    tmp_path, monkeypatch
):
    first = min(os.sched_getaffinity(0))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert printed_by(Slot(cores=[first], device="1"), tmp_path) == ["1", "1", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert printed_by(Slot(cores=[first], device="1"), tmp_path) == ["1", "1", "5"]
    assert printed_by(Slot(cores=()), tmp_path) == [str(CORES), "None", "3,5"]
