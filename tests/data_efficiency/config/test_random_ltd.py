import copy

import pytest

from data_efficiency.config.random_ltd import OpenRandomLTD, RandomLTDConfig, read_random_ltd
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


OPEN = {
    "enabled": True,
    "random_ltd_schedule": {
        "min_value": 16,
        "max_value": "auto",
        "schedule_type": "fixed_linear",
        "schedule_config": {"require_steps": 5, "seq_per_step": 16},
    },
}


@pytest.mark.parametrize("written", ["absent", "auto"])
def test_model_and_rows_say_what_is_left_open(written):
    keys = ("total_layer_num", "random_ltd_layer_num", "random_ltd_layer_id", "model_mask_name")
    more = ("model_type", "hidden_state_order")
    content = OPEN | (dict.fromkeys((*keys, *more), "auto") if written == "auto" else {})
    found = parse(content)
    assert isinstance(found, OpenRandomLTD)
    assert found.needs_length
    by_rows = found.closed(length=64)
    assert isinstance(by_rows, OpenRandomLTD)
    assert not by_rows.needs_length
    closed = by_rows.closed(num_layers=5, mask_name="mask")
    assert closed == found.closed(num_layers=5, mask_name="mask", length=64)
    assert isinstance(closed, RandomLTDConfig)
    assert (closed.total_layer_num, closed.random_ltd_layer_num) == (5, 3)
    assert (closed.random_ltd_layer_id, closed.model_mask_name) == ((1, 2, 3), "mask")
    assert (closed.model_type, closed.hidden_state_order) == ("decoder", "batch_seq_dim")
    assert closed.schedule.describe() == "from 16 to 64 in 5 steps"
    assert closed.seed == 7


def test_what_is_written_stays():
    found = parse(OPEN | {"random_ltd_layer_id": [3, 1], "hidden_state_order": "seq_batch_dim"})
    closed = found.closed(num_layers=4, mask_name=None, length=32)
    assert (closed.random_ltd_layer_id, closed.random_ltd_layer_num) == ((1, 3), 2)
    assert closed.hidden_state_order == "seq_batch_dim"


def test_what_does_not_go_with_the_model():
    found = parse(OPEN | {"random_ltd_layer_id": [3]})
    with pytest.raises(ConfigError, match=r"\[3\]: each must be .* below total_layer_num \(3\)"):
        found.closed(num_layers=3, mask_name=None, length=32)
    with pytest.raises(ConfigError, match=r"min_value is 16: above max_value \(8\)"):
        found.closed(num_layers=4, mask_name=None, length=8)
    with pytest.raises(ConfigError, match="random_ltd_layer_num is 2"):
        parse(OPEN | {"random_ltd_layer_num": 2}).closed(num_layers=9, mask_name=None, length=32)


def test_what_is_open_still_is_named():
    with pytest.raises(
        ConfigError, match="random_ltd.total_layer_num, .* are 'auto': the rows' le"
    ):
        parse(OPEN).refuse()
    with pytest.raises(ConfigError, match="random_ltd.model_mask_name is 'auto': give the model"):
        parse(SECTION | {"model_mask_name": "auto"}).refuse()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"random_ltd_layer_idd": [1]}, "random_ltd_layer_idd is not a known key"),
        ({"random_ltd_layer_id": [-1]}, "each must be at least 0"),
        ({"always_keep": [-1], "model_type": "x"}, "model_type is 'x'"),
        ({"random_ltd_schedule": {"max_value": "auto"}}, "min_value, .*schedule_type are missing"),
    ],
)
def test_an_open_section_is_refused_for_what_it_says(more, message):
    with pytest.raises(ConfigError, match=message):
        parse(OPEN | more)


def test_nothing_is_logged_twice(caplog):
    odd = copy.deepcopy(OPEN)
    odd["random_ltd_schedule"]["min_value"] = 20
    found = parse(odd)
    assert caplog.messages == []
    found.closed(num_layers=4, mask_name=None, length=64)
    assert len(caplog.messages) == 1


def test_kept_lengths_that_are_multiples_are_known_beforehand():
    """From 128 to 2048 in steps of 16, as published."""
    found = parse(SECTION)
    assert [found.keeps_multiples_of(number) for number in (1, 8, 16, 32)] == [*3 * [True], False]
    percent = {**SECTION["random_ltd_schedule"], "unit": "percent", "min_value": 10}
    percent |= {"max_value": 100}
    shares = parse({**SECTION, "random_ltd_schedule": percent})
    assert shares.keeps_multiples_of(1)
    assert not shares.keeps_multiples_of(2)
