import pytest

from data_efficiency.config.data_sampling import READERS, read_data_sampling
from data_efficiency.json_section import ConfigError, Faults, Section
from tests.json_sections import length_metric

FEEDBACK = {"policy": "high_loss", "kept_share": 0.5, "refresh_steps": 2, "delay_steps": 1}
LEARNING = {"enabled": True, "curriculum_metrics": {"seqlen_truncate": length_metric()}}


def read(content):
    faults = Faults()
    found = read_data_sampling(Section(content, "data_sampling"), faults)
    faults.refuse()
    return found


def test_nothing_is_on_that_is_not_given():
    found = read({"num_workers": 3})
    assert not found.is_on
    assert found.fields()["num_workers"] == 3
    assert [found.fields()[name] for name in READERS] == [None] * len(READERS)


def test_a_section_inside_or_a_metric_is_enough():
    assert read({"feedback": FEEDBACK}).is_on
    found = read({"curriculum_learning": LEARNING})
    assert found.is_on
    assert found.fields()["metric_names"] == ("seqlen_truncate",)
    assert [plan.name for plan in found.paced] == ["seqlen_truncate"]
    assert not read({"curriculum_learning": LEARNING | {"enabled": False}}).is_on


def test_all_that_is_wrong_is_told_at_once():
    with pytest.raises(ConfigError) as caught:
        read({"num_epochs": 0, "feedback": FEEDBACK | {"policy": "low"}, "num_wokers": 3})
    for part in ("num_epochs is 0", "policy is 'low'", "num_wokers is not a known key"):
        assert part in str(caught.value)


def test_batches_that_no_seed_chooses_are_refused_with_what_does_the_same():
    with pytest.raises(ConfigError, match=r'batch_size with "lr_exponent": 0\.5'):
        read({"dynamic_batching": {"enabled": True, "lr_scaling_method": "sqrt"}})
    with pytest.raises(ConfigError, match="lr_scaling_method is 'other': must be one of"):
        read({"dynamic_batching": {"enabled": True, "lr_scaling_method": "other"}})
    assert not read({"dynamic_batching": {"enabled": False}}).is_on
