import pytest

from data_efficiency.config import DataEfficiencyConfig, Feedback, load_config, section_of
from data_efficiency.json_section import ConfigError
from tests.json_sections import length_metric, metric

KEYS = {"policy": "learnability", "kept_share": 0.3, "refresh_steps": 8, "delay_steps": 2}


def parsed(feedback=KEYS, metrics=None, **routing):
    curriculum = {"enabled": bool(metrics), "curriculum_metrics": metrics or {}}
    sampling = {"feedback": feedback, "curriculum_learning": curriculum}
    section = {"data_sampling": sampling, "data_routing": routing}
    return load_config({"train_batch_size": 8, "data_efficiency": section}).data_efficiency


def test_the_section_is_read_and_written():
    config = parsed()
    assert config.feedback == Feedback(**KEYS)
    assert config.has_curriculum
    written = section_of(config)
    assert written["data_sampling"]["feedback"] == KEYS
    assert written["data_sampling"]["enabled"]
    assert DataEfficiencyConfig.of(feedback=KEYS) == config


def test_rounds():
    feedback = Feedback(**KEYS)
    assert [feedback.round_of(step) for step in (1, 8, 9, 16, 17)] == [0, 0, 1, 1, 2]
    assert [feedback.last_known(number) for number in (0, 1, 2)] == [-1, 7, 15]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kept_share": 0}, "kept_share is 0.*above 0 and at most 1"),
        ({"kept_share": 1.5}, "kept_share is 1.5"),
        ({"policy": "loss"}, "policy is 'loss'"),
        ({"delay_steps": 0}, "delay_steps is 0"),
        ({"refresh": 3}, "refresh"),
    ],
)
def test_wrong_keys(change, message):
    with pytest.raises(ConfigError, match=message):
        parsed(KEYS | change)


def test_what_does_not_go_with_it(tmp_path):
    length = length_metric(4, 8)
    assert parsed(metrics={"seqlen_truncate": length, "attention_window": length}).feedback
    with pytest.raises(ConfigError, match="metric 'rarity' chooses samples: remove one"):
        parsed(metrics={"rarity": metric(tmp_path)})
    with pytest.raises(ConfigError, match="metric 'seqlen_reshape' mixes samples in rows"):
        parsed(metrics={"seqlen_reshape": length})
    bags = {"enabled": True, "bag_size": 2, "num_steps": 2}
    with pytest.raises(ConfigError, match="token_superposition makes rows of several samples"):
        parsed(token_superposition=bags)
