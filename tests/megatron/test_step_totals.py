"""Alone, a process's numbers are the totals; several processes are in tests/end_to_end/test_engines.py."""

from dataclasses import replace

import torch

from data_efficiency import Counters
from megatron.step_totals import (
    StepTotals,
    StopRequest,
    losses_over_processes,
    step_over_processes,
    sums_over_processes,
    value_of_first_process,
)

HERE = torch.device("cpu")
TOTALS = StepTotals(
    loss_sums=[0.1 + 0.2, 1e-300],
    num_rows=4,
    counters=Counters(
        steps=1,
        consumed_samples=8,
        corpus_tokens=2**40 + 1,
        loss_tokens=7,
        layer_tokens=3,
        flops=2**62 + 1,
    ),
)


def test_one_process_keeps_its_numbers_to_the_last_bit():
    assert step_over_processes(TOTALS, HERE) == TOTALS
    asked = replace(TOTALS, stop_request=StopRequest(signal=15, out_of_time=True))
    assert step_over_processes(asked, HERE) == asked
    assert sums_over_processes([41, 2**60], HERE) == [41, 2**60]
    assert value_of_first_process(-2, HERE) == -2


def test_each_loss_is_divided_by_its_own_number_of_terms():
    assert losses_over_processes([3.0, 5.0], [4, 2], HERE) == [0.75, 2.5]


def test_a_loss_without_terms_is_0():
    assert losses_over_processes([0.0, 5.0], [0, 2], HERE) == [0.0, 2.5]


def test_losses_that_are_no_numbers_travel():
    odd = replace(TOTALS, loss_sums=[float("nan"), float("inf")])
    not_a_number, infinite = step_over_processes(odd, HERE).loss_sums
    assert not_a_number != not_a_number
    assert infinite == float("inf")
