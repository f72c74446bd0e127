"""The slots; the queue itself is tested with real processes in tests/tools/test_study.py."""

import os

import pytest

from megatron.study.work import make_slots

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
