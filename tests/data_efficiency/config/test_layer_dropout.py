import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_efficiency.config import (
    DataEfficiencyConfig,
    LayerDropout,
    LayerDropoutConfig,
    load_config,
)
from data_efficiency.config.layer_dropout import read_layer_dropout
from data_efficiency.json_section import ConfigError, Section
from data_efficiency.schedule import CustomSchedule

SECTION = {
    "enabled": True,
    "rows_per_group": 16,
    "keep_schedule": {
        "min_value": 40,
        "schedule_type": "fixed_linear",
        "schedule_config": {"total_curriculum_step": 600, "difficulty_step": 1},
    },
}


def parse(content):
    return read_layer_dropout(Section(content, "layer_dropout"), seed=7)


def constant(percent, **changes):
    schedule = CustomSchedule(function=lambda step: percent)
    return LayerDropoutConfig(schedule=schedule, seed=0, **changes)


def test_the_share_skipped_falls_over_time_and_rises_over_depth():
    found = parse(SECTION)
    by_step = [[found.kept_rows(step, layer, 4) for layer in range(4)] for step in (0, 300, 600)]
    # 60, 30 and 0 percent skip the last layer; 0, 1/3, 2/3 and 1 times that the others.
    assert by_step == [[16, 13, 10, 6], [16, 14, 13, 11], [16, 16, 16, 16]]
    assert found.seed == 7


@given(
    percent=st.integers(0, 120),
    size=st.integers(2, 64),
    num_layers=st.integers(1, 40),
    data=st.data(),
)
def test_kept_rows_are_the_nearest_whole_number_and_at_least_one(percent, size, num_layers, data):
    layer = data.draw(st.integers(0, num_layers - 1))
    for depth in ("linear", "uniform"):
        share = 1 - min(100, percent) / 100
        if depth == "linear":
            share *= layer / max(1, num_layers - 1)
        kept = constant(percent, rows_per_group=size, depth=depth).kept_rows(0, layer, num_layers)
        assert 1 <= kept <= size
        exact = size * (1 - share)
        assert abs(kept - max(1, exact)) <= 0.5 + 1e-9


@given(percent=st.integers(1, 100), size=st.integers(2, 128))
def test_settings_by_which_no_row_ever_skips_are_refused(percent, size):
    schedule = {"min_value": percent, "schedule_type": "constant"}
    section = SECTION | {"rows_per_group": size, "keep_schedule": schedule}
    skips = constant(percent, rows_per_group=size).kept_rows(0, 3, 4) < size
    if skips or percent == 100:
        parse(section)
    else:
        with pytest.raises(ConfigError, match="rounds to all: must be at most"):
            parse(section)


def test_only_the_layers_that_are_named():
    found = constant(50, layer_id=(1, 2), depth="uniform")
    assert [found.kept_rows(0, layer, 4) for layer in range(4)] == [8, 4, 4, 8]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows_per_group": 1}, "rows_per_group is 1: must be at least 2"),
        ({"depth": "linaer"}, "did you mean 'linear'"),
        ({"layer_id": [1, 1]}, r"layer_id is \[1, 1\]: must be different layers"),
        ({"layer_id": [-1]}, r"layer_id is \[-1\]: must be different layers, from 0"),
        ({"keep_schedule": {}}, "keep_schedule.min_value, .*schedule_type are missing"),
        (
            {"keep_schedule": {**SECTION["keep_schedule"], "min_value": 101}},
            "goes from 101 to 100 percent",
        ),
        (
            {"keep_schedule": {**SECTION["keep_schedule"], "max_value": 101}},
            "goes from 40 to 101 percent",
        ),
        (
            {"keep_schedule": {**SECTION["keep_schedule"], "schedule_type": "fixed_root"}},
            "must be one of fixed_linear, fixed_discrete, constant, exponential",
        ),
        (
            {
                "keep_schedule": {
                    "min_value": 50,
                    "schedule_type": "fixed_discrete",
                    "schedule_config": {"difficulty": [50, 0], "max_step": [3]},
                }
            },
            "keep_schedule gives 0 percent: must be at least 1",
        ),
        ({"rows": 3}, "rows is not a known key"),
        ({"layer_id": [0]}, r"layer_id is \[0\], but depth is linear"),
        (
            {"keep_schedule": {"min_value": 97, "schedule_type": "constant"}},
            "min_value is 97, which of rows_per_group 16 rounds to all: must be at most 96",
        ),
    ],
)
def test_bad_values_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        parse(SECTION | changes)


def test_off_is_none_and_constant_needs_one_value():
    assert parse({"enabled": False, "anything": 1}) is None
    found = parse(
        {"enabled": True, "keep_schedule": {"min_value": 60, "schedule_type": "constant"}}
    )
    assert {found.schedule.difficulty(step) for step in (0, 1, 10**6)} == {60}


def test_a_line_of_python_is_the_section():
    line = LayerDropout(start=40, steps=600, rows_per_group=16)
    assert DataEfficiencyConfig.of(line, seed=7).layer_dropout == parse(SECTION)
    always = DataEfficiencyConfig.of(LayerDropout(start=60, end=60, steps=1)).layer_dropout
    assert always.schedule.describe() == "always 60"


def progressive(**changes):
    return {"progressive_layer_drop": {"enabled": True, "theta": 0.5, "gamma": 0.001} | changes}


def test_deepspeeds_progressive_layer_drop_is_mapped_and_warned_about(caplog):
    """The share kept in the last layer is what DeepSpeed's formula gives, to a percent."""
    section = load_config(progressive()).data_efficiency
    assert "did worse than no dropout" in caplog.text
    for step in (0, 100, 693, 5000, 100_000):
        theta = 0.5 * math.exp(-0.001 * step) + 0.5
        assert abs(section.layer_dropout.schedule.difficulty(step) / 100 - theta) <= 0.005 + 1e-12
    assert (section.layer_dropout.depth, section.routes) == ("linear", ("layer_dropout",))
    written = load_config(progressive()).data_efficiency_json["data_routing"]["layer_dropout"]
    assert read_layer_dropout(Section(written, ""), section.seed) == section.layer_dropout


def test_progressive_layer_drop_off_wrong_or_twice():
    assert load_config(progressive(enabled=False)).data_efficiency.layer_dropout is None
    with pytest.raises(ConfigError, match=r"theta is 1.5: must be from 0.01 to 1"):
        load_config(progressive(theta=1.5))
    with pytest.raises(ConfigError, match="progressive_layer_drop.tehta is not a known key"):
        load_config(progressive(tehta=0.5))
    both = progressive() | {"data_efficiency": {"data_routing": {"layer_dropout": SECTION}}}
    with pytest.raises(ConfigError, match="both enabled"):
        load_config(both)
