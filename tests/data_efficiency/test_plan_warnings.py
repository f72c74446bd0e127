import pytest

from data_efficiency.plan_warnings import DecayEnd, plan_warnings
from tests.data_efficiency.test_plan import LENGTH, config, length_metric, plan, sorted_config
from tests.json_sections import metric, random_ltd


def warnings(content, decay_end=None, **arguments):
    return plan_warnings(plan(content, **arguments), decay_end)


def the_warning(*arguments, **keywords):
    found = warnings(*arguments, **keywords)
    assert len(found) == 1
    return found[0]


def test_a_sound_plan_has_none():
    content = config({"voc": metric(), "seqlen_truncate": length_metric()}, random_ltd())
    assert warnings(content) == []
    assert warnings(content, DecayEnd(amount=20, unit="steps")) == []
    assert warnings(config()) == []


def first_pool(percent, num_samples=100):
    """A curriculum whose first step draws from so many percent, and its warnings."""
    stages = {"difficulty": [percent, 100], "max_step": [1]}
    discrete = metric(schedule_type="fixed_discrete", schedule_config=stages)
    return warnings(config({"voc": discrete}), num_samples=num_samples)


def test_pool_too_small_for_a_batch():
    (found,) = first_pool(15)
    assert "1 of the first 1 steps draw 16 samples from as few as 15" in found
    assert first_pool(16) == []


def test_an_empty_pool():
    (found,) = first_pool(99, num_samples=99)
    assert "no sample can be drawn at step 1" in found


def test_data_that_ends_first():
    assert warnings(config(num_epochs=2), num_samples=160) == []
    found = the_warning(config(num_epochs=2), num_samples=159)
    assert "20 steps take 320 samples, but num_epochs (2) x 159 samples are 318" in found


def test_rows_of_several_samples_end_the_data_sooner():
    content = config(num_epochs=1)
    bags = {"enabled": True, "bag_size": 3, "num_steps": 5}
    content["data_efficiency"]["data_routing"]["token_superposition"] = bags
    assert warnings(content, num_samples=480) == []
    found = the_warning(content, num_samples=479)
    assert "20 steps take 480 samples, but num_epochs (1) x 479 samples are 479" in found
    found = warnings(content, num_samples=47)[0]
    assert (
        "pool too small for a batch: 5 of the first 5 steps draw 48 samples from as few as 47"
        in found
    )


def test_an_order_longer_than_training():
    found = the_warning(sorted_config())
    assert "a pass through it draws 950 samples, and 20 steps draw 320; what comes last" in found
    assert "say pass_samples 320" in found
    assert warnings(sorted_config(order={"pass_samples": 320})) == []


@pytest.mark.parametrize(("delay", "first"), [(1, 9), (8, 9), (9, 17), (13, 17)])
def test_pools_that_follow_losses_are_not_known(delay, first):
    feedback = {"policy": "high_loss", "kept_share": 0.5, "refresh_steps": 8, "delay_steps": delay}
    content = config(feedback=feedback)
    assert f"drawn from step {first} on follows the run's losses" in the_warning(content)
    found = the_warning(content, num_steps=first - 1)
    assert f"feedback never ranks: values are known from step {first} on" in found
    assert {plan(content).pool_size(step) for step in (1, 20)} == {950}


def test_curriculum_longer_than_training():
    found = the_warning(config({"voc": metric()}), num_steps=11)
    assert "curriculum longer than training: voc is at 9" in found
    assert warnings(config({"voc": metric()}), num_steps=12) == []


def test_lengths_beyond_the_samples_and_unknown_ones():
    assert "goes up to 40, but samples have 32" in the_warning(
        config({"seqlen_truncate": length_metric(max_difficulty=40)})
    )
    assert "(trim_padding): the plan counts them unchanged" in the_warning(
        config({"voc": metric(sequence_length="trim_padding")})
    )


def test_token_dropping_that_never_ends_or_begins():
    assert "random-LTD never ends: at the last step (16)" in the_warning(
        config(dropping=random_ltd()), num_steps=16
    )
    assert warnings(config(dropping=random_ltd()), num_steps=17) == []
    always = random_ltd()["random_ltd_schedule"] | {"min_value": LENGTH}
    assert "drops nothing" in the_warning(config(dropping=random_ltd(random_ltd_schedule=always)))


@pytest.mark.parametrize(
    ("unit", "share"),
    [("steps", 1), ("samples", 16), ("corpus", 512), ("loss", 512), ("effective", 512)],
)
def test_a_learning_rate_that_outruns_the_curriculum(unit, share):
    content = config({"voc": metric()})
    # The pool grows until step 12.
    assert warnings(content, DecayEnd(amount=12 * share, unit=unit)) == []
    found = the_warning(content, DecayEnd(amount=11 * share, unit=unit))
    assert "from step 11 on, but what is trained on changes until step 12" in found


def test_length_buckets_whose_pass_never_ends_or_that_repeat():
    buckets = {"lengths": [8, 16, 32], "pass_steps": 20, "token_shares": [1, 1, 2]}
    assert warnings(config(length_buckets=buckets)) == []
    longer = the_warning(config(length_buckets=buckets | {"pass_steps": 30}))
    assert (
        "has 30 steps, of which 20 are taken; what comes last in it is never trained on" in longer
    )
    repeated = warnings(config(length_buckets=buckets), num_samples=[10000, 160, 64])[-1]
    assert "rows of 32 tokens come 2.5 times, and of those of 8 only 3% are used" in repeated
