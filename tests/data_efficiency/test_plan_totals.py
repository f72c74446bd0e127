import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_efficiency.json_section import ConfigError
from data_efficiency.plan import plan_run
from data_efficiency.plan_totals import planned_totals
from tests.data_efficiency.test_plan import LENGTH, MODEL, config, length_metric
from tests.json_sections import metric, random_ltd

DISCRETE = {
    "schedule_type": "fixed_discrete",
    "schedule_config": {"difficulty": [8, 16, 12, LENGTH], "max_step": [3, 7, 20]},
}
METRICS = {
    "none": {},
    "rarity": {"vocab_rarity": metric()},
    "truncate": {"vocab_rarity": metric(), "seqlen_truncate": length_metric()},
    "reshape": {"seqlen_reshape": length_metric()},
    "discrete": {"seqlen_truncate": length_metric(**DISCRETE)},
}
PERCENT = {
    "min_value": 25,
    "max_value": 100,
    "unit": "percent",
    "schedule_type": "fixed_linear",
    "schedule_config": {"require_steps": 9, "seq_per_step": 5},
}
DROPPING = {
    "none": None,
    "tokens": random_ltd(),
    "percent": random_ltd(random_ltd_schedule=PERCENT),
}


def totals(content, **arguments):
    return planned_totals(content, model=MODEL, sequence_length=LENGTH, **arguments)


@given(
    metrics=st.sampled_from(sorted(METRICS)),
    dropping=st.sampled_from(sorted(DROPPING)),
    num_steps=st.integers(1, 60),
    processes=st.sampled_from([1, 2]),
)
@settings(max_examples=60, deadline=None)
def test_equal_to_the_plan_step_by_step(metrics, dropping, num_steps, processes):
    content = config(METRICS[metrics], DROPPING[dropping])
    plan = plan_run(
        content,
        model=MODEL,
        sequence_length=LENGTH,
        num_steps=60,
        num_samples=1000,
        data_parallel_size=processes,
    )
    expected = plan.counters(num_steps)
    found = totals(content, num_steps=num_steps, data_parallel_size=processes)
    assert found == expected
    # A budget ends with the step that fills it: not one step earlier, not one later.
    budget = expected.layer_tokens // MODEL.num_layers
    until = totals(content, effective_tokens=budget, data_parallel_size=processes)
    assert until.layer_tokens >= budget * MODEL.num_layers
    assert plan.counters(until.steps - 1).layer_tokens < budget * MODEL.num_layers
    assert until == plan.counters(until.steps)


def test_a_run_of_millions_of_steps_is_counted_at_once():
    long = {"total_curriculum_step": 10**6, "difficulty_step": 3}
    content = config({"seqlen_truncate": length_metric(schedule_config=long)})
    assert totals(content, num_steps=10**9).steps == 10**9


def test_exactly_one_end():
    with pytest.raises(ValueError, match="one of them"):
        totals(config())
    with pytest.raises(ValueError, match="one of them"):
        totals(config(), num_steps=3, effective_tokens=4)


def test_a_function_of_the_user_has_no_known_changes():
    own = length_metric(schedule_type="custom", schedule_config={})
    with pytest.raises(ConfigError, match="plan_run"):
        totals(config({"seqlen_truncate": own}), num_steps=3)
