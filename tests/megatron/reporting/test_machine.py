import os
import threading
import time

import pytest
import torch

from megatron.reporting import WaitingTime, weights_checksum
from megatron.reporting.machine import _ran_and_waited


def test_a_checksum_sees_one_changed_bit_and_swapped_tensors():
    module = torch.nn.Linear(8, 8)
    first = weights_checksum(module)
    assert weights_checksum(module) == first
    with torch.no_grad():
        module.weight.view(torch.int32)[3, 4] ^= 1
    assert weights_checksum(module) != first
    halves = module.to(torch.bfloat16)
    assert weights_checksum(halves) != first


def test_work_is_not_waiting():
    waiting = WaitingTime()
    end = time.monotonic() + 0.2
    while time.monotonic() < end:
        pass
    share = waiting.share()
    assert share is None or 0 <= share <= 1


def test_more_threads_than_cores_wait(request):
    if _ran_and_waited() is None:
        pytest.skip("this system does not tell how long threads wait")
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    request.addfinalizer(lambda: os.sched_setaffinity(0, cores))
    waiting = WaitingTime()
    matrix = torch.ones(300, 300)
    threads = [
        threading.Thread(target=lambda: [matrix @ matrix for _ in range(40)]) for _ in range(12)
    ]
    share = [waiting.share()]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        share.append(waiting.share())
    assert max(share) > 0.1
