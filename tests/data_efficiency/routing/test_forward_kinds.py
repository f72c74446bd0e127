import pytest
import torch

from data_efficiency.config import DataEfficiencyConfig, LayerDropoutConfig
from data_efficiency.routing.dropping_layer import LayerForward
from data_efficiency.routing.forward_kinds import (
    FirstOfSpan,
    LastOfSpan,
    PassingForward,
    WithinSpan,
    forward_class,
)
from data_efficiency.routing.random_ltd import convert_to_random_ltd
from data_efficiency.routing.span import Span
from data_efficiency.schedule import CustomSchedule
from tests.data_efficiency.small_models import LENGTH, Block, SmallModel, dropping

KINDS = (LayerForward, FirstOfSpan, WithinSpan, LastOfSpan, PassingForward)


@pytest.mark.parametrize(
    ("layer", "layers", "expected"),
    [
        (2, (2, 4), FirstOfSpan),
        (3, (2, 4), WithinSpan),
        (4, (2, 4), LastOfSpan),
        (2, (2, 2), LayerForward),
    ],
)
def test_the_class_follows_from_the_place_in_the_span(layer, layers, expected):
    span = Span(0, layers)
    for skips in (True, False):
        assert forward_class(layer, span, skips_rows=skips) is expected


def test_without_a_span():
    assert forward_class(1, None, skips_rows=True) is LayerForward
    assert forward_class(1, None, skips_rows=False) is PassingForward


def test_each_has_code_of_its_own():
    assert len({kind.__call__.__code__ for kind in KINDS}) == len(KINDS)


def test_a_layer_without_a_route_passes_everything():
    """The first one, in linear depth; a layer that only evaluates is left alone."""
    half = CustomSchedule(function=lambda step: 50)
    rows = LayerDropoutConfig(schedule=half, seed=1, rows_per_group=2)
    section = DataEfficiencyConfig(
        random_ltd=dropping(random_ltd_layer_id=(2,), random_ltd_layer_num=1), layer_dropout=rows
    )
    model = convert_to_random_ltd(SmallModel(), Block, section)
    assert [type(layer.forward) for layer in model.layers] == [PassingForward, *[LayerForward] * 3]
    seen = []
    model.layers[0].dense.register_forward_hook(lambda *call: seen.append(call[-1].shape))
    model.random_ltd_scheduler.set_position(0, 0)
    model(torch.zeros(4, LENGTH, dtype=torch.int64))
    assert seen == [(4, LENGTH, 16)]
