import doctest

import pytest

from data_efficiency import StepShape
from examples_deepspeed.data_efficiency.finetuning import clocks
from examples_deepspeed.data_efficiency.finetuning.clocks import Budget, LearningRate, Totals


def test_examples():
    result = doctest.testmod(clocks)
    assert result.attempted >= 3
    assert result.failed == 0


def test_counts_of_one_step():
    shape = StepShape(num_rows=4, sequence_length=8, num_dropping_layers=2, kept_length=3)
    totals = Totals(steps=1, samples=10).after(shape, num_layers=4, samples=4, micro_batches=2)
    # A row: 2 layers of 8 and 2 of 3 positions, 22 together and 5 a layer, rounded down.
    assert totals == Totals(
        steps=2, micro_batches=2, samples=14, corpus_tokens=32, layer_tokens=88, consumed_token=20
    )


def test_thirds_of_the_budget():
    rate = LearningRate(peak=1.0, decay="thirds")
    rates = [rate.at(0, fraction) for fraction in (0.0, 0.33, 0.34, 0.66, 0.67, 1.0, 1.3)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01, 0.01])


def test_budget_counts_what_it_names():
    totals = Totals(steps=3, layer_tokens=50, consumed_token=20)
    fractions = [
        Budget(unit=unit, amount=100).fraction(totals)
        for unit in ("steps", "layer_tokens", "consumed_token")
    ]
    assert fractions == [0.03, 0.5, 0.2]
