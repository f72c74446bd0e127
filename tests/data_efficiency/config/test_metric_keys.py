import logging
import re

import pytest

from data_efficiency.config import load_config, section_of
from data_efficiency.json_section import ConfigError
from data_efficiency.schedule import CustomSchedule, DiscreteSchedule
from tests.data_efficiency.config.test_file import METRICS, changed
from tests.json_sections import curriculum_config, length_metric


def test_what_a_metric_that_selects_nothing_is_for():
    keys = {"clustering_type": "single_cluster", "index_to_sample_path": "dummy"}
    config = load_config(curriculum_config({"dummy_metric": length_metric(**keys)})).data_efficiency
    assert [plan.action for plan in config.length_plans] == ["user"]
    with pytest.raises(ConfigError, match="'seqlen_truncate': if that is meant, correct it"):
        load_config(curriculum_config({"seqlen_truncated": length_metric(**keys)}))


def test_a_percentile_is_no_length():
    keys = {"clustering_type": "schedule_based", "index_path": "difficulty/seqlen"}
    with pytest.raises(ConfigError, match="give it another name, such as seqlen, or go by value"):
        load_config(
            curriculum_config(
                {"seqlen_truncate": length_metric(**keys, difficulty_type="percentile")}
            )
        )
    by_value = load_config(curriculum_config({"seqlen_truncate": length_metric(**keys)}))
    assert len(by_value.data_efficiency.selections) == len(by_value.data_efficiency.length_plans)


def test_a_metric_may_select_samples_and_cut_rows():
    both = changed(f"{METRICS}.voc.sequence_length", "trim_padding")
    both = load_config(both).data_efficiency
    (selection,), (trimming, length) = both.selections, both.length_plans
    assert (selection.name, trimming.name, trimming.action) == ("voc", "voc", "trim_padding")
    assert selection.schedule == trimming.schedule
    assert list(both.schedules) == ["voc", "seqlen_truncate"]
    assert (trimming.length_at(9), length.length_at(9)) == (None, 9)


def test_a_minimum_off_the_step_is_reported(caplog):
    with caplog.at_level(logging.WARNING):
        config = load_config(changed(f"{METRICS}.seqlen_truncate.min_difficulty", 81))
    assert "the minimum 81 is no multiple of the step 8; the schedule starts at 88" in caplog.text
    assert config.data_efficiency.schedules["seqlen_truncate"].difficulty(1) == 88


def test_a_maximum_off_the_step_is_reported(caplog):
    with caplog.at_level(logging.WARNING):
        config = load_config(changed(f"{METRICS}.seqlen_truncate.max_difficulty", 2047))
    reached = re.search(r"the maximum 2047 is no multiple .* reached at step (\d+)", caplog.text)
    length = config.data_efficiency.schedules["seqlen_truncate"]
    assert length.difficulty(int(reached[1])) == 2047 > length.difficulty(int(reached[1]) - 1)


def discrete(difficulty, max_step):
    schedule = {"difficulty": difficulty, "max_step": max_step}
    metric = length_metric(80, 2048, schedule_type="fixed_discrete", schedule_config=schedule)
    return curriculum_config({"seqlen_truncate": metric})


def test_stages_that_miss_minimum_or_maximum_are_reported(caplog):
    with caplog.at_level(logging.WARNING):
        load_config(discrete([96, 1024], [5]))
    assert "starts at 96, not at the minimum 80" in caplog.text
    assert "the maximum 2048 is never reached, only 1024" in caplog.text


def test_discrete_and_custom_schedules():
    schedule = load_config(discrete([1, 2], [5])).data_efficiency.schedules["seqlen_truncate"]
    assert isinstance(schedule, DiscreteSchedule)
    assert [schedule.difficulty(step) for step in (5, 6)] == [1, 2]
    with pytest.raises(ConfigError, match="one difficulty more than steps"):
        load_config(discrete([1, 2], [5, 6]))
    with pytest.raises(ConfigError, match="must increase"):
        load_config(discrete([1, 2, 3], [5, 5]))
    custom = changed(f"{METRICS}.voc.schedule_type", "custom")
    del custom["data_efficiency"]["data_sampling"]["curriculum_learning"]["curriculum_metrics"][
        "voc"
    ]["schedule_config"]
    assert load_config(custom).data_efficiency.schedules["voc"] == CustomSchedule()


def test_windows_by_name_or_by_what_they_do():
    named = curriculum_config({"attention_window": length_metric(max_difficulty="auto")})
    config = load_config(named).data_efficiency.with_length(512)
    assert [(one.action, one.max_difficulty) for one in config.length_plans] == [
        ("attention_window", 512)
    ]
    own = curriculum_config({"ramp": length_metric(sequence_length="sliding_window")})
    assert load_config(own).data_efficiency.length_plans[0].action == "sliding_window"


def parse(content):
    return load_config({"train_batch_size": 8, **content}).data_efficiency


def test_what_keeps_the_tokens_of_a_step():
    ramp = length_metric(8, 32, constant_tokens=True)
    config = parse(curriculum_config({"seqlen_truncate": ramp}))
    assert [config.length_plans[0].rows_in_place_of_one(length) for length in (8, 12, 32)] == [
        4,
        2,
        1,
    ]
    assert config.has_constant_tokens
    assert parse({"data_efficiency": section_of(config)}) == config
    open_ended = curriculum_config({"seqlen_truncate": ramp | {"max_difficulty": "auto"}})
    assert parse(open_ended).has_constant_tokens
    assert parse(open_ended).with_length(16).length_plans[0].rows_in_place_of_one(8) == 2
    for metrics, message in (
        (
            {"seqlen_reshape": ramp},
            "constant_tokens is true, but belongs to a metric that truncates",
        ),
        ({"attention_window": ramp}, "belongs to a metric that truncates rows"),
        (
            {"seqlen_truncate": ramp | {"schedule_type": "custom", "schedule_config": {}}},
            "how many rows each step has is not known beforehand",
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            parse(curriculum_config(metrics))
