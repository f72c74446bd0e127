from data_efficiency.config import load_config
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
