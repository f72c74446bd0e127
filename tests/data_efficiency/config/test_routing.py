import json

import pytest

from data_efficiency.config import (
    DataEfficiencyConfig,
    LayerDropout,
    RandomLTD,
    RoutingConfig,
    TokenSuperposition,
    load_config,
    section_of,
)
from data_efficiency.config.routing import ROUTES
from data_efficiency.config.short_form import ROUTE_PARTS
from data_efficiency.json_section import ConfigError
from tests.data_efficiency.small_models import dropping
from tests.json_sections import random_ltd

PARTS = (
    RandomLTD(start=16, end=64, steps=10, layers=[[1, 2], [4]], residual_scale="inverse_keep"),
    LayerDropout(start=50, steps=20, rows_per_group=4),
    TokenSuperposition(bag_size=4, steps=7, label_weights="power_law", power=1.5),
)


def section(**settings):
    return DataEfficiencyConfig.of(*PARTS, **settings)


def closed(**settings):
    found = section(**settings)
    dropped = found.random_ltd.closed(num_layers=6, mask_name=None)
    return DataEfficiencyConfig(
        random_ltd=dropped, layer_dropout=found.layer_dropout, full_from_step=found.full_from_step
    ).routing(6)


def test_every_kind_is_a_field_and_has_a_line_of_python():
    assert set(ROUTE_PARTS.values()) == set(ROUTES)
    assert section().routes == tuple(ROUTES)
    assert DataEfficiencyConfig().routes == ()
    assert DataEfficiencyConfig().routing(4) is None


def test_every_kind_is_written_as_it_was_read():
    config = section(seed=3, full_from_step=90)
    content = {"data_efficiency": json.loads(json.dumps(section_of(config)))}
    assert load_config(content).data_efficiency == config


def test_the_same_part_twice_and_no_part_are_refused():
    with pytest.raises(ConfigError, match="LayerDropout.* is there twice"):
        DataEfficiencyConfig.of(PARTS[1], PARTS[1])
    with pytest.raises(ConfigError, match="3 is no part"):
        DataEfficiencyConfig.of(3)
    with pytest.raises(ConfigError, match="full_from_step is 0: must be at least 1"):
        section(full_from_step=0)


def test_the_final_phase_ends_every_route():
    routing = closed(full_from_step=9)
    before, after = routing.shape(8, 8, 128), routing.shape(9, 8, 128)
    assert before.kept_length == 48
    assert before.skipped
    assert (after.kept_length, after.skipped) == (128, ())
    assert routing.kept_length(9, 128) is None
    assert routing.kept_rows(9) == ()


def test_next_change_misses_none():
    for routing in (closed(), closed(full_from_step=5), closed(full_from_step=500)):
        changes, step = [], 0
        while (step := routing.next_change(step)) is not None:
            changes.append(step)
        shapes = [routing.shape(one, 8, 128) for one in range(600)]
        for one in range(1, 600):
            assert shapes[one] == shapes[one - 1] or one in changes


def test_the_outer_switch_names_the_routes(caplog):
    content = {"enabled": False, "random_ltd": random_ltd()}
    load_config({"data_efficiency": {"data_routing": content}})
    assert "data_routing.enabled is false but random_ltd is on" in caplog.text


def test_a_final_phase_without_a_route_through_layers_is_told(caplog):
    DataEfficiencyConfig.of(*PARTS, full_from_step=9)
    assert not caplog.text
    DataEfficiencyConfig.of(PARTS[2], full_from_step=9)
    assert "full_from_step is 9, but no route through layers is on" in caplog.text


def test_positions_always_kept_lie_in_every_row_that_is_cut():
    routing = RoutingConfig(num_layers=4, random_ltd=dropping(always_keep=(0, 9)))
    kept = routing.random_ltd.kept_length(0)
    assert routing.shape(0, 2, kept).kept_length == kept
    with pytest.raises(
        ConfigError, match=rf"always_keep is \[0, 9\], but the sequence has {kept + 1} tokens"
    ):
        routing.shape(0, 2, kept + 1)


def test_another_number_of_layers_is_refused():
    with pytest.raises(ConfigError, match="total_layer_num is 4, but the model has 5 layers"):
        DataEfficiencyConfig(random_ltd=dropping()).routing(5)


def test_parts_of_groups_are_refused_while_rows_skip():
    routing = closed(full_from_step=9)
    assert isinstance(routing, RoutingConfig)
    with pytest.raises(ConfigError, match="rows_per_group is 4, but a forward has 6 rows"):
        routing.shape(0, 6, 128)
    assert routing.shape(9, 6, 128).skipped == ()
