"""The walk visits every change once, and asks for no step between two."""

from data_efficiency.accounting import Counters, StepShape
from data_efficiency.config import load_config
from data_efficiency.plan_walk import Walk, count_step, times
from tests.data_efficiency.test_plan import LENGTH, MODEL, config, length_metric
from tests.json_sections import random_ltd


def walk(content):
    return Walk(load_config(content), MODEL, LENGTH, 1)


def test_stretches_lie_end_to_end_and_the_last_one_needs_no_end():
    made = walk(config({"seqlen_truncate": length_metric()}, random_ltd()))
    stretches = [*made.stretches(20)]
    assert stretches[0].first_step == 1
    ends = [one.first_step + one.num_steps for one in stretches]
    assert ends == [*(one.first_step for one in stretches[1:]), 21]
    # A run of a billion steps is no longer walk.
    assert len([*made.stretches(10**9)]) == len([*made.stretches(None)]) < 30


def test_steps_of_few_kinds_are_counted_once_each():
    """Buckets change their length nearly every step; what a step of a length adds is the same each time."""
    buckets = {"lengths": [8, 16, 32], "token_shares": [1, 1, 1], "pass_steps": 300}
    stretches = [*walk(config(length_buckets=buckets)).stretches(300)]
    assert len(stretches) > 150
    assert len({id(one.counts) for one in stretches}) == 3
    assert {one.shape.sequence_length for one in stretches} == {8, 16, 32}


def test_many_steps_add_many_times_what_one_does():
    rows = StepShape(num_rows=2, sequence_length=LENGTH)
    one = count_step(rows, rows, MODEL)
    assert times(one, 3) == one.plus(one).plus(one)
    assert times(one, 0) == Counters()
