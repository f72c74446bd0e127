import logging

import pytest

from data_efficiency.config import Curriculum, DataEfficiencyConfig, load_config
from data_efficiency.schedule import CustomSchedule
from tests.data_efficiency.config.test_file import LTD, METRICS, changed


@pytest.mark.parametrize("part", ["", ".data_sampling", ".data_routing"])
def test_outer_switches_that_contradict_are_reported(part, caplog):
    path = f"data_efficiency{part}.enabled"
    with caplog.at_level(logging.WARNING):
        config = load_config(changed(path, False))
    assert config.data_efficiency.schedules
    assert config.data_efficiency.random_ltd is not None
    assert f"{path} is false but" in caplog.text


def test_switched_off_techniques_are_off():
    content = changed(f"{LTD}.enabled", False)
    learning = content["data_efficiency"]["data_sampling"]["curriculum_learning"]
    learning["enabled"] = False
    settings = load_config(content).data_efficiency
    assert settings.schedules == {}
    assert settings.random_ltd is None


def test_a_function_by_name_reaches_selection_and_length_plan():
    content = changed(f"{METRICS}.voc.schedule_type", "custom")
    learning = content["data_efficiency"]["data_sampling"]["curriculum_learning"]
    voc = learning["curriculum_metrics"]["voc"]
    del voc["schedule_config"], learning["curriculum_metrics"]["seqlen_truncate"]
    voc["sequence_length"] = "truncate"
    settings = load_config(content).data_efficiency
    followed = settings.with_custom_schedules({"voc": lambda step: step + 7})
    for metric in (*followed.selections, *followed.length_plans):
        assert metric.schedule.difficulty(3) == 10
    assert settings.schedules == {"voc": CustomSchedule()}


def test_plans_that_the_file_does_not_name_are_closed_too():
    parsed = DataEfficiencyConfig.of(Curriculum("seqlen", start=8, end=16, steps=4))
    bare = DataEfficiencyConfig(length_plans=parsed.length_plans)
    assert bare.with_length(32) == bare
