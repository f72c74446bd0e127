import pytest

from data_efficiency.config import DataEfficiencyConfig, RandomLTD, load_config
from data_efficiency.config.random_ltd import read_random_ltd
from data_efficiency.config.spans import layers_in, read_spans
from data_efficiency.json_section import ConfigError, Section
from tests.json_sections import random_ltd


def parse(chosen, **changes):
    content = random_ltd(6, random_ltd_layer_id=chosen, **changes)
    return read_random_ltd(Section(content, "random_ltd"), seed=7)


def test_a_list_of_lists_names_spans_in_the_models_order():
    found = parse([[4], [1, 2]], random_ltd_layer_num=3)
    assert found.spans == ((1, 2), (4,))
    assert found.random_ltd_layer_id == (1, 2, 4)
    assert found.subsets == ((1, 2), (4,))


def test_layers_that_stand_alone_are_a_plain_list():
    found = parse([[1], [2], [3], [4]])
    assert found == parse([1, 2, 3, 4])
    assert found.subsets == ((1,), (2,), (3,), (4,))


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ([[1, 2], 3], "must be a list of layers, or of lists of layers"),
        ([[1, 2], []], "must be a list of layers, or of lists of layers"),
        ([[1, True]], "must be a list of layers, or of lists of layers"),
        ([[1, 3]], r"layers of a span must follow one another, and \[1, 3\] do not"),
        ([[2, 1]], r"and \[2, 1\] do not"),
        ([[1, 2], [2, 3]], "has 3 different layers"),
        ([[4, 5, 6]], "each must be at least 0 and below total_layer_num"),
    ],
)
def test_what_is_no_span_is_refused(chosen, message):
    with pytest.raises(ConfigError, match=message):
        parse(chosen, random_ltd_layer_num=len(layers_in(chosen)))


def test_spans_of_a_section_that_the_model_closes():
    config = DataEfficiencyConfig.of(RandomLTD(start=8, steps=4, layers=[[1, 2], (4,)]))
    closed = config.with_length(64).random_ltd.closed(num_layers=6, mask_name=None)
    assert (closed.spans, closed.random_ltd_layer_num) == (((1, 2), (4,)), 3)
    with pytest.raises(ConfigError, match=r"below total_layer_num \(4\)"):
        config.with_length(64).random_ltd.closed(num_layers=4, mask_name=None)


def test_plain_lists_have_no_spans():
    assert read_spans([1, 2], "here") == ()
    assert read_spans("auto", "here") == ()


def test_a_json_file_with_spans():
    section = random_ltd(6, random_ltd_layer_id=[[1, 2, 3], [4]])
    content = {"data_efficiency": {"data_routing": {"random_ltd": section}}}
    assert load_config(content).data_efficiency.random_ltd.spans == ((1, 2, 3), (4,))
