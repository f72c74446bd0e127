import pytest

from data_efficiency.config import DataEfficiencyConfig, SuperpositionConfig, TokenSuperposition
from data_efficiency.config.short_form import Curriculum
from data_efficiency.config.superposition import read_superposition
from data_efficiency.json_section import ConfigError, Section

SECTION = {"enabled": True, "bag_size": 6, "num_steps": 300}


def parse(content):
    return read_superposition(Section(content, "token_superposition"), seed=7)


def test_the_first_steps_see_bags():
    found = parse(SECTION)
    assert [found.tokens_per_position(step) for step in (0, 299, 300)] == [6, 6, 1]
    assert [found.samples_per_row(step) for step in (0, 299, 300)] == [6, 6, 1]
    output = parse(SECTION | {"bags": "output"})
    assert (output.is_on(0), output.samples_per_row(0)) == (True, 1)
    assert parse({"enabled": False}) is None


def test_weights_fall_by_a_power_and_are_one_together():
    uniform = SuperpositionConfig(bag_size=4, num_steps=1)
    assert uniform.weights == (0.25,) * 4
    falling = SuperpositionConfig(bag_size=3, num_steps=1, label_weights="power_law", power=2.0)
    total = 1 + 1 / 4 + 1 / 9
    assert falling.weights == pytest.approx((1 / total, 1 / 4 / total, 1 / 9 / total))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bag_size": 1}, "bag_size is 1: must be at least 2"),
        ({"num_steps": 0}, "num_steps is 0: must be at least 1"),
        ({"bags": "inputs"}, "did you mean 'input'"),
        ({"size": 3}, "size is not a known key"),
        ({"power": 2.0}, "power is 2, but label_weights is uniform"),
        ({"bags": "input", "label_weights": "power_law"}, "is power_law, but bags is input"),
    ],
)
def test_bad_values_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        parse(SECTION | changes)


def test_a_line_of_python_is_the_section():
    line = TokenSuperposition(bag_size=6, steps=300)
    config = DataEfficiencyConfig.of(line)
    assert config.token_superposition == parse(SECTION)
    assert (config.routes, config.layer_routes) == (("token_superposition",), ())


def test_rows_that_grow_are_refused_beside_it():
    with pytest.raises(ConfigError, match="paces the length of rows are both enabled"):
        DataEfficiencyConfig.of(
            TokenSuperposition(bag_size=2, steps=3), Curriculum("seqlen", start=8, end=16, steps=3)
        )
