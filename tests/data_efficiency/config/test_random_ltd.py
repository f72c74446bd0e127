import copy

import pytest

from data_efficiency.config.random_ltd import read_random_ltd
from data_efficiency.json_section import ConfigError, Section
from tests.data_efficiency.config.test_file import LTD, PUBLISHED, changed

SECTION = PUBLISHED["data_efficiency"]["data_routing"]["random_ltd"]


def parse(content):
    return read_random_ltd(Section(content, "random_ltd"), seed=7)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("random_ltd_layer_ids", [1], "random_ltd_layer_ids is not a known key"),
        ("random_ltd_layer_num", 3, "has 22 different layers, but random_ltd_layer_num is 3"),
        ("total_layer_num", 5, r"each must be at least 0 and below total_layer_num \(5\)"),
        ("model_type", "encoderr", "did you mean 'encoder'"),
        ("random_ltd_schedule.min_value", 4096, r"above max_value \(2048\)"),
        ("random_ltd_schedule.schedule_type", "fixed_root", "must be one of fixed_linear"),
        (
            "random_ltd_schedule.schedule_type",
            "constant",
            "is constant, but the values go from 128 to 2048",
        ),
        ("random_ltd_schedule.unit", "percent", r"max_value is 2048: must be at most 100"),
        ("random_ltd_schedule.unit", "ratio", "must be one of tokens, percent"),
        ("always_keep", [0, 0], r"always_keep is \[0, 0\]: must be different"),
        ("always_keep", [-1], r"always_keep is \[-1\]: must be different"),
        ("layer_token_lr_schedule", {"enabled": True}, "total_layer_tokens is None"),
        (
            "layer_token_lr_schedule",
            {"enabled": True, "total_layer_tokens": 5, "warmup_layer_tokens": 5},
            r"total_layer_tokens is 5: must be given and above warmup_layer_tokens \(5\)",
        ),
    ],
)
def test_bad_values_are_refused(path, value, message):
    content = changed(f"{LTD}.{path}", value)["data_efficiency"]["data_routing"]["random_ltd"]
    with pytest.raises(ConfigError, match=message):
        parse(content)


def test_off_is_none_and_the_seed_is_the_runs():
    assert parse({"enabled": False, "anything": 1}) is None
    assert parse(SECTION).seed == 7


def test_settings_of_token_dropping_beyond_the_published_ones():
    section = copy.deepcopy(SECTION) | {"always_keep": [0, 3]}
    section["random_ltd_schedule"] = {
        "schedule_type": "constant",
        "min_value": 25,
        "unit": "percent",
    }
    section["layer_token_lr_schedule"] = {
        "enabled": True,
        "total_layer_tokens": 100,
        "warmup_layer_tokens": 10,
        "warmup_type": "linear",
    }
    dropping = parse(section)
    assert dropping.always_keep == (0, 3)
    assert dropping.kept_length_unit == "percent"
    assert {dropping.schedule.difficulty(step) for step in (0, 1, 1000)} == {25}
    factors = [dropping.layer_token_lr.at(tokens) for tokens in (0, 5, 10, 55, 100, 120)]
    assert factors == [0.0, 0.5, 1.0, 0.5, 0.0, 0.0]
    assert (dropping.layer_token_lr.clock, dropping.layer_token_lr.relative) == ("layer", True)
    section["layer_token_lr_schedule"]["enabled"] = False
    assert parse(section).layer_token_lr is None
