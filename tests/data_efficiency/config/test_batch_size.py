import pytest

from data_efficiency import ConfigError
from data_efficiency.config import DataEfficiencyConfig, load_config, section_of

LINEAR = {
    "min_value": 8,
    "max_value": 32,
    "schedule_type": "fixed_linear",
    "schedule_config": {"total_curriculum_step": 100, "difficulty_step": 8},
}


def read(**changes):
    section = {"data_efficiency": {"data_sampling": {"batch_size": LINEAR | changes}}}
    return load_config(section).data_efficiency


def test_tokens_are_closed_by_the_rows():
    config = read(counter="tokens", lr_exponent=0.5)
    assert config.has_curriculum
    assert config.needs_length
    closed = config.with_length(10)
    assert not closed.needs_length
    # 100 tokens are 10 samples, and 8 more are not reached before a third of them.
    assert [closed.batch_size.samples_at(1, drawn) for drawn in (0, 3, 4, 6, 7, 10)] == [
        *(8, 8, 16, 16, 24, 32)
    ]
    assert closed.batch_size.steps_until_change(1, 0, 3) == 2
    for each in (config, closed):
        written = load_config({"data_efficiency": section_of(each)}).data_efficiency
        assert written.with_length(10) == closed


def test_steps_are_counted_from_1():
    stages = {"difficulty": [8, 16], "max_step": [2]}
    batch = read(
        counter="steps", max_value=16, schedule_type="fixed_discrete", schedule_config=stages
    ).batch_size
    assert [batch.samples_at(step, 999) for step in (1, 2, 3)] == [8, 8, 16]
    assert [batch.steps_until_change(step, 999, 8) for step in (1, 2, 3)] == [2, 1, None]


def test_the_rate_goes_with_the_batch():
    assert [
        read(lr_exponent=exponent).batch_size.rate_factor(8, 32) for exponent in (0, 0.5, 1)
    ] == [1, 0.5, 0.25]


def test_it_goes_without_a_curriculum():
    assert DataEfficiencyConfig.of(batch_size=LINEAR) == read()
    assert DataEfficiencyConfig.of().batch_size is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"min_value": 40}, r"min_value is 40: above max_value \(32\)"),
        ({"min_value": 0}, "min_value is 0: must be at least 1"),
        ({"counter": "layers"}, "counter is 'layers'"),
        ({"schedule_type": "custom", "schedule_config": {}}, "schedule_type is 'custom'"),
        ({"lr_exponnt": 1}, "nearest known key is 'lr_exponent'"),
        (
            {
                "schedule_type": "fixed_discrete",
                "schedule_config": {"difficulty": [8, 0], "max_step": [5]},
            },
            "gives a step 0 samples: must be at least 1",
        ),
    ],
)
def test_what_makes_no_sense(changes, message):
    with pytest.raises(ConfigError, match=message):
        read(**changes)
