import pytest

from data_efficiency.config import load_config
from data_efficiency.json_section import ConfigError
from tests.data_efficiency.config.test_file import LEGACY
from tests.json_sections import curriculum_config


def test_the_legacy_section_is_the_truncating_metric():
    legacy = load_config({"curriculum_learning": LEGACY, "train_batch_size": 4})
    (plan,) = legacy.data_efficiency.length_plans
    modern = LEGACY | {"difficulty_type": "value", "clustering_type": "single_cluster"}
    del modern["curriculum_type"], modern["enabled"]
    in_place = curriculum_config({"seqlen_truncate": modern})
    assert (plan,) == load_config(in_place).data_efficiency.length_plans
    assert legacy.data_efficiency_json == {"curriculum_learning": LEGACY}
    off = load_config({"curriculum_learning": LEGACY | {"enabled": False}})
    assert off.data_efficiency.schedules == {}


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            {
                "data_routing": {
                    "token_superposition": {"enabled": True, "bag_size": 2, "num_steps": 3}
                }
            },
            "token_superposition and a metric that paces the length of rows",
        ),
        ({"data_sampling": {"length_buckets": {}}}, "and so does metric 'seqlen_truncate'"),
    ],
)
def test_it_goes_with_no_more_than_the_metric_does(section, message):
    with pytest.raises(ConfigError, match=message):
        load_config({"curriculum_learning": LEGACY, "data_efficiency": section})
