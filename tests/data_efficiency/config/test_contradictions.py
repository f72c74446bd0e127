"""Each pair of techniques that do not go together is refused; the same alone, or beside others, are not."""

import pytest

from data_efficiency.config import Curriculum, DataEfficiencyConfig, load_config
from data_efficiency.json_section import ConfigError
from tests.json_sections import curriculum_config, length_metric, random_ltd

FEEDBACK = {"policy": "high_loss", "kept_share": 0.5, "refresh_steps": 2, "delay_steps": 1}
BAGS = {"enabled": True, "bag_size": 2, "num_steps": 3}
SELECTING = {"clustering_type": "schedule_based", "index_path": "difficulty/rarity"}


@pytest.mark.parametrize(
    ("metric", "sampling", "routing", "message"),
    [
        (
            {"sliding_window": length_metric()},
            {},
            {"random_ltd": random_ltd()},
            "'sliding_window' slides a window .* and random_ltd drops some",
        ),
        (
            {"seqlen_truncate": length_metric()},
            {},
            {"token_superposition": BAGS},
            "token_superposition and a metric that paces the length of rows",
        ),
        (
            {"rarity": length_metric(**SELECTING)},
            {"feedback": FEEDBACK},
            {},
            "feedback chooses samples .* metric 'rarity' chooses samples",
        ),
        (
            {"seqlen_reshape": length_metric()},
            {"feedback": FEEDBACK},
            {},
            "feedback chooses samples .* metric 'seqlen_reshape' mixes samples in rows",
        ),
        (
            None,
            {"feedback": FEEDBACK},
            {"token_superposition": BAGS},
            "feedback chooses samples .* token_superposition makes rows of several samples",
        ),
        ({"attention_window": length_metric()}, {}, {"random_ltd": random_ltd()}, None),
        ({"seqlen_truncate": length_metric()}, {"feedback": FEEDBACK}, {}, None),
    ],
)
def test_of_two_techniques_one_must_go(metric, sampling, routing, message):
    content = {"data_efficiency": {"data_sampling": {}}}
    if metric is not None:
        content = curriculum_config(metric)
    content["data_efficiency"]["data_sampling"] |= sampling
    content["data_efficiency"]["data_routing"] = routing
    if message is None:
        load_config(content)
        return
    with pytest.raises(ConfigError, match=message):
        load_config(content)


def test_lengths_of_buckets_are_said_once():
    buckets = {"lengths": [64, 128]}
    with pytest.raises(ConfigError, match="and so does metric 'seqlen_truncate': remove one"):
        DataEfficiencyConfig.of(
            Curriculum("seqlen", start=8, end=128, steps=4), length_buckets=buckets
        )
