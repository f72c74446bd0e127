"""Alone, a process's numbers are the totals; several processes are in tests/end_to_end/test_engines.py."""

import pytest
import torch

from data_efficiency import Counters
from megatron.step_totals import (
    NO_STOP,
    StopRequest,
    loss_over_processes,
    step_over_processes,
    sum_over_processes,
    value_of_first_process,
)

HERE = torch.device("cpu")


def test_one_process_keeps_its_numbers_to_the_last_bit():
    counters = Counters(
        steps=1,
        consumed_samples=8,
        corpus_tokens=2**40 + 1,
        loss_tokens=7,
        layer_tokens=3,
        flops=2**62 + 1,
    )
    loss = 0.1 + 0.2
    assert step_over_processes(loss, counters, NO_STOP, HERE) == (loss, counters, NO_STOP)
    request = StopRequest(signal=15, out_of_time=True)
    assert step_over_processes(loss, counters, request, HERE)[2] == request
    assert sum_over_processes(41, HERE) == 41
    assert value_of_first_process(-2, HERE) == -2
    assert loss_over_processes(3.0, 4, HERE) == 0.75


def test_losses_that_are_no_numbers_travel():
    total, _, _ = step_over_processes(float("nan"), Counters(), NO_STOP, HERE)
    assert total != total
    assert step_over_processes(float("inf"), Counters(), NO_STOP, HERE)[0] == pytest.approx(
        float("inf")
    )
